package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// descriptor is the number of a connection's file descriptor, for as long as the
// connection is open.
func descriptor(c net.Conn) (fd int, err error) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return 0, errors.New("the kernel cannot use the connection: it is encrypted; use --relay")
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Control(func(n uintptr) { fd = int(n) })
	return fd, err
}

// shutdown ends a connection that the kernel uses as well: closing this process's
// descriptor would not.
func shutdown(c net.Conn) {
	if fd, err := descriptor(c); err == nil {
		unix.Shutdown(fd, unix.SHUT_RDWR) // it fails if it is at its end already
	}
	c.Close()
}

// ends is how a TCP connection is known without its descriptor; empty for others.
func ends(c net.Conn) string {
	if c.LocalAddr().Network() != "tcp" {
		return ""
	}
	return c.LocalAddr().String() + " " + c.RemoteAddr().String()
}

const (
	sockDestroy = 21 // SOCK_DESTROY of linux/sock_diag.h
	anyState    = 0xffffffff
	noCookie    = 0xffffffff
)

// destroy ends a TCP connection of this host that only the kernel still uses. An error
// is not of interest: the connection may be gone, and not every kernel can do it.
func destroy(ends string) error {
	local, remote, ok := strings.Cut(ends, " ")
	if !ok {
		return fmt.Errorf("%q is no TCP connection", ends)
	}
	from, err1 := netip.ParseAddrPort(local)
	to, err2 := netip.ParseAddrPort(remote)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDestroy, Flags: netlink.Request | netlink.Acknowledge},
		Data:   diagRequest(from, to),
	})
	return err
}

// diagRequest is a struct inet_diag_req_v2 for one TCP connection.
func diagRequest(from, to netip.AddrPort) []byte {
	host := binary.NativeEndian
	kind := byte(unix.AF_INET6)
	a, b := from.Addr(), to.Addr()
	if a.Unmap().Is4() {
		kind, a, b = unix.AF_INET, a.Unmap(), b.Unmap()
	}
	p := []byte{kind, unix.IPPROTO_TCP, 0, 0}
	p = host.AppendUint32(p, anyState)
	p = binary.BigEndian.AppendUint16(p, from.Port())
	p = binary.BigEndian.AppendUint16(p, to.Port())
	for _, x := range []netip.Addr{a, b} {
		address := make([]byte, 16)
		copy(address, x.AsSlice())
		p = append(p, address...)
	}
	p = host.AppendUint32(p, 0) // any interface
	p = host.AppendUint32(p, noCookie)
	return host.AppendUint32(p, noCookie)
}

package fio

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// owners finds the processes that listen on a target's socket, by its inode in
// /proc/net and the descriptors in /proc/PID/fd. The latter may be read by the same
// user and by root only; a server of another user or another machine has no owners.
func owners(t Target) ([]int, error) {
	network, addr, err := t.address()
	if err != nil {
		return nil, err
	}
	var inodes []string
	if network == "unix" {
		inodes, err = unixListeners(addr)
	} else {
		inodes, err = tcpListeners(addr)
	}
	if err != nil || len(inodes) == 0 {
		return nil, err
	}
	return holders(inodes)
}

// unixListeners returns the inodes of the sockets that listen on a path.
func unixListeners(path string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(procRoot, "net/unix"))
	if err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	const acceptsConnections = 1 << 16
	var inodes []string
	for line := range strings.Lines(string(text)) {
		// Num RefCount Protocol Flags Type St Inode Path
		f := strings.Fields(line)
		if len(f) < 8 || (f[7] != path && f[7] != abs) {
			continue
		}
		if flags, err := strconv.ParseUint(f[3], 16, 64); err == nil && flags&acceptsConnections != 0 {
			inodes = append(inodes, f[6])
		}
	}
	return inodes, nil
}

// tcpListeners returns the inodes of the sockets that listen on an address of this
// machine, or on all its addresses.
func tcpListeners(addr string) ([]string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	ips, err := net.LookupIP(host)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(ips, isLocal) {
		return nil, nil
	}
	var inodes []string
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		text, err := os.ReadFile(filepath.Join(procRoot, table))
		if err != nil {
			continue // no IPv6 here
		}
		for line := range strings.Lines(string(text)) {
			// sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
			const listening = "0A"
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != listening {
				continue
			}
			ip, p, ok := hexAddress(f[1])
			if ok && p == port && (ip.IsUnspecified() || slices.ContainsFunc(ips, ip.Equal)) {
				inodes = append(inodes, f[9])
			}
		}
	}
	return inodes, nil
}

// hexAddress reads an address of /proc/net/tcp: little-endian words in hexadecimal.
func hexAddress(s string) (ip net.IP, port string, ok bool) {
	h, p, _ := strings.Cut(s, ":")
	raw, err1 := hex.DecodeString(h)
	n, err2 := strconv.ParseUint(p, 16, 16)
	if err1 != nil || err2 != nil || (len(raw) != 4 && len(raw) != 16) {
		return nil, "", false
	}
	for w := 0; w < len(raw); w += 4 {
		slices.Reverse(raw[w : w+4])
	}
	return net.IP(raw), strconv.FormatUint(n, 10), true
}

// isLocal tells whether an address belongs to this machine.
func isLocal(ip net.IP) bool {
	if ip.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip)
	})
}

// holders returns the processes that have one of the sockets open.
func holders(inodes []string) ([]int, error) {
	pids, err := processes()
	if err != nil {
		return nil, err
	}
	var found []int
	for _, pid := range pids {
		dir := filepath.Join(procRoot, strconv.Itoa(pid), "fd")
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // another user's, or it ended
		}
		if slices.ContainsFunc(fds, func(fd os.DirEntry) bool {
			link, err := os.Readlink(filepath.Join(dir, fd.Name()))
			inode, isSocket := strings.CutPrefix(link, "socket:[")
			return err == nil && isSocket && slices.Contains(inodes, strings.TrimSuffix(inode, "]"))
		}) {
			found = append(found, pid)
		}
	}
	return found, nil
}

// locate fills in a target's processes when the user named none. Unknown processes are
// no error: the figures that need them are left out.
func (t *Target) locate() error {
	if len(t.PIDs) > 0 || t.file() != "" {
		return nil
	}
	pids, err := owners(*t)
	if err != nil {
		return fmt.Errorf("looking for the process behind %s: %w", t.URI, err)
	}
	t.PIDs = pids
	return nil
}

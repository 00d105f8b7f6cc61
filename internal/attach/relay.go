package attach

import (
	"context"
	"errors"
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"blkd/blockdev"
	"blkd/internal/forward"
	"blkd/nbd"
)

// relay is an NBD server for the kernel of this host, over a pair of sockets, that
// passes what it is asked for on to the primary. The kernel's connection outlives
// those to primaries: what one has left without an answer goes to the next at once.
type relay struct {
	volume string
	server *nbd.Server
	dev    *forward.Device
	size   atomic.Int64
	next   chan *upstream // the newest, until the device takes it
}

// upstream is a connection of a relay to a primary.
type upstream struct {
	*nbd.Client
	conn net.Conn
}

// close ends the connection without a word: whoever is at the other end may hang.
func (u *upstream) close() {
	u.conn.Close()
	u.Client.Close()
}

// newRelay makes a relay of a volume of that many bytes.
func newRelay(volume string, size int64, readOnly bool) (*relay, error) {
	r := &relay{volume: volume, server: nbd.NewServer(nbd.Options{}), next: make(chan *upstream, 1)}
	r.size.Store(size)
	r.dev = forward.New(forward.Config{Connect: r.connect, Size: r.size.Load, Moved: func(err error) bool {
		return errors.Is(err, blockdev.ErrClosed) || errors.Is(err, nbd.ErrConnectionLost)
	}})
	return r, r.server.SetExport(nbd.Export{Name: volume, Device: r.dev, ReadOnly: readOnly, HangUp: true})
}

// connect implements Connect of [forward.Config]: it waits for an upstream that the
// device has not had. Its session ends those of all before.
func (r *relay) connect(ctx context.Context) (blockdev.Device, error) {
	select {
	case u := <-r.next:
		return u, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// use has requests sent to u from now on. Only one goroutine may call it.
func (r *relay) use(u *upstream) {
	r.size.Store(u.Size())
	select {
	case <-r.next: // the device has not needed it
	default:
	}
	r.next <- u
}

// plug makes a connection to the relay that the kernel can have.
func (r *relay) plug(ctx context.Context) (*nbd.Negotiated, error) {
	return nbd.Negotiate(ctx, "nbd+unix:///"+r.volume+"?socket=relay", nbd.DialOptions{HandshakeTimeout: dialTime, Dial: r.dial})
}

// dial makes a pair of sockets, serves one and returns the other.
func (r *relay) dial(context.Context, string, string) (net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	near, err1 := fileConn(fds[0])
	far, err2 := fileConn(fds[1])
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	go r.server.ServeConn(far)
	return near, nil
}

// fileConn makes a connection of a descriptor, which it closes.
func fileConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "socketpair")
	defer f.Close()
	return net.FileConn(f)
}

// close ends the relay and what it has not answered.
func (r *relay) close() {
	r.dev.Close()
	r.server.Close()
}

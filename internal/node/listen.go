package node

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
)

// inherited returns the sockets that systemd (or libnbd, which plays its part)
// passed to this process. They are for NBD clients.
func inherited() ([]net.Listener, error) {
	all, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("socket activation: %w", err)
	}
	for i, l := range all {
		if l == nil {
			return nil, fmt.Errorf("socket activation: file descriptor %d is no listening stream socket", 3+i)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // the one who made it removes it
		}
	}
	return all, nil
}

// listen opens HOST:PORT or unix:PATH.
func listen(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("%w; is another server there? choose another address", err)
		}
		return l, nil
	}
	return listenUnix(path, 0o660)
}

// listenUnix opens a Unix socket with a file mode. A file that an earlier
// process left behind is replaced, one with a listener behind it is not.
func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("socket %s: another process listens there; stop it, or choose another path", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("old socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// Between the two calls the umask rules; nobody is served before Serve.
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// uri is how clients write an export of a listener.
func uri(l net.Listener, export string, tls bool) string {
	scheme := "nbd"
	if tls {
		scheme = "nbds"
	}
	if l.Addr().Network() == "unix" {
		return scheme + "+unix:///" + export + "?socket=" + l.Addr().String()
	}
	return scheme + "://" + reachable(l.Addr().String()) + "/" + export
}

// reachable turns the address of all interfaces into one that can be dialled.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			return net.JoinHostPort(name, port)
		}
	}
	return address
}

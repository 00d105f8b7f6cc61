package cluster

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// network connects the nodes of a test in memory. What goes from one node to
// another can be cut and delayed, each direction by itself. As with TCP, what is
// sent over a cut link arrives when it is whole again, and a connection notices
// nothing by itself.
type network struct {
	mu        sync.Mutex
	changed   *sync.Cond
	listeners map[string]*listener // by address
	cuts      map[link]bool
	delays    map[link]time.Duration
	ends      []*end
}

// link is one direction between two nodes.
type link struct{ from, to string }

func newNetwork() *network {
	n := &network{listeners: map[string]*listener{}, cuts: map[link]bool{}, delays: map[link]time.Duration{}}
	n.changed = sync.NewCond(&n.mu)
	return n
}

// wake has everybody look again who waits.
func (n *network) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changed.Broadcast()
}

// set changes the links between two sets of nodes, one way.
func (n *network) set(from, to []string, change func(link)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range from {
		for _, b := range to {
			if a != b {
				change(link{a, b})
			}
		}
	}
	n.changed.Broadcast()
}

// cut stops what goes from some nodes to others.
func (n *network) cut(from, to []string) {
	n.set(from, to, func(l link) { n.cuts[l] = true })
}

// part cuts both ways.
func (n *network) part(a, b []string) {
	n.cut(a, b)
	n.cut(b, a)
}

// heal makes every link whole and fast.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
	clear(n.delays)
	n.changed.Broadcast()
}

// slow delays what goes from some nodes to others.
func (n *network) slow(from, to []string, d time.Duration) {
	n.set(from, to, func(l link) { n.delays[l] = d })
}

// drop ends the process of a node as the others see it: nothing listens there,
// and its connections are closed.
func (n *network) drop(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for address, l := range n.listeners {
		if l.name == name {
			l.closed = true
			delete(n.listeners, address)
		}
	}
	for _, e := range n.ends {
		if e.link.from == name {
			e.closed = true
		}
	}
	n.ends = slices.DeleteFunc(n.ends, func(e *end) bool { return e.closed && e.peer.closed })
	n.changed.Broadcast()
}

// listen is what a node's server accepts connections from.
func (n *network) listen(name, address string) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &listener{n: n, name: name, address: address}
	n.listeners[address] = l
	return l
}

// dialer is the World.Dial of a node.
func (n *network) dialer(name string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) { return n.dial(ctx, name, address) }
}

func (n *network) dial(ctx context.Context, from, address string) (net.Conn, error) {
	stop := context.AfterFunc(ctx, n.wake)
	defer stop()
	host, _, _ := strings.Cut(address, ":")
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.cuts[link{from, host}] || n.cuts[link{host, from}] {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		n.changed.Wait()
	}
	l := n.listeners[address]
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "lab", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	here, there := &end{n: n, link: link{from, host}}, &end{n: n, link: link{host, from}}
	here.peer, there.peer = there, here
	n.ends = append(n.ends, here, there)
	l.backlog = append(l.backlog, there)
	n.changed.Broadcast()
	return here, nil
}

type listener struct {
	n             *network
	name, address string
	backlog       []*end
	closed        bool
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	for len(l.backlog) == 0 {
		if l.closed {
			return nil, net.ErrClosed
		}
		l.n.changed.Wait()
	}
	e := l.backlog[0]
	l.backlog = l.backlog[1:]
	return e, nil
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	l.closed = true
	if l.n.listeners[l.address] == l {
		delete(l.n.listeners, l.address)
	}
	l.n.changed.Broadcast()
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return place(l.address) }

// place is an address of the network.
type place string

func (place) Network() string  { return "lab" }
func (p place) String() string { return string(p) }

// end is one end of a connection.
type end struct {
	n      *network
	link   link // from here to the other end
	peer   *end
	in     []segment // sent to here
	closed bool
}

// segment is what one Write sent.
type segment struct {
	data []byte
	due  time.Time
}

// arrived tells whether what was sent at some time over a link is there.
func (e *end) arrived(due time.Time) bool {
	return !e.n.cuts[link{e.link.to, e.link.from}] && !time.Now().Before(due)
}

// Read implements net.Conn.
func (e *end) Read(b []byte) (int, error) {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	for {
		switch {
		case e.closed:
			return 0, net.ErrClosed
		case len(e.in) > 0 && e.arrived(e.in[0].due):
			count := copy(b, e.in[0].data)
			if e.in[0].data = e.in[0].data[count:]; len(e.in[0].data) == 0 {
				e.in = e.in[1:]
			}
			return count, nil
		case len(e.in) == 0 && e.peer.closed && e.arrived(time.Time{}):
			return 0, io.EOF
		}
		e.n.changed.Wait()
	}
}

// Write implements net.Conn.
func (e *end) Write(b []byte) (int, error) {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	if e.closed || e.peer.closed && e.arrived(time.Time{}) {
		return 0, errors.Join(net.ErrClosed, syscall.EPIPE)
	}
	delay := e.n.delays[e.link]
	e.peer.in = append(e.peer.in, segment{slices.Clone(b), time.Now().Add(delay)})
	if delay > 0 {
		time.AfterFunc(delay, e.n.wake)
	}
	e.n.changed.Broadcast()
	return len(b), nil
}

// Close implements net.Conn.
func (e *end) Close() error {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	e.closed = true
	e.n.ends = slices.DeleteFunc(e.n.ends, func(e *end) bool { return e.closed && e.peer.closed })
	e.n.changed.Broadcast()
	return nil
}

// LocalAddr implements net.Conn.
func (e *end) LocalAddr() net.Addr { return place(e.link.from) }

// RemoteAddr implements net.Conn.
func (e *end) RemoteAddr() net.Addr { return place(e.link.to) }

// Deadlines are for handshakes, which the tests end by closing.

func (e *end) SetDeadline(time.Time) error      { return nil }
func (e *end) SetReadDeadline(time.Time) error  { return nil }
func (e *end) SetWriteDeadline(time.Time) error { return nil }

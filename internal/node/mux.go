package node

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"blkd/internal/socket"
)

// dataPreamble is what a node says first on a connection that carries the data of
// volumes, in clear and before any TLS. Neither a TLS record nor HTTP/2 begins so.
const dataPreamble = "BLKDATA\x01"

// preambleTime is how long a connection may take to show what it is for.
const preambleTime = 5 * time.Second

// mux tells the two kinds of connections on the cluster address apart by their
// first bytes: those that begin with dataPreamble go to data, all others are
// accepted from it as from a listener, whole.
type mux struct {
	net.Listener
	data func(net.Conn) // takes a connection over, behind the preamble; nil: nobody does
	log  *slog.Logger

	others chan net.Conn
	done   chan struct{} // closed by Close
	close  sync.Once

	mu    sync.Mutex
	fresh map[net.Conn]bool // connections that have not shown what they are
	work  sync.WaitGroup
}

func newMux(l net.Listener, data func(net.Conn), log *slog.Logger) *mux {
	return &mux{Listener: l, data: data, log: log,
		others: make(chan net.Conn), done: make(chan struct{}), fresh: map[net.Conn]bool{}}
}

// run accepts connections until Close.
func (m *mux) run() error {
	defer m.work.Wait()
	pause := time.Duration(0)
	for {
		conn, err := m.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil { // most likely too many open files, which passes
			pause = min(max(5*time.Millisecond, 2*pause), time.Second)
			m.log.Warn("a connection to the cluster address was not accepted", "err", err, "again_in", pause)
			time.Sleep(pause)
			continue
		}
		pause = 0
		if m.admit(conn) {
			m.work.Go(func() { m.sort(conn) })
		}
	}
}

// admit notes a new connection, so that Close can end it.
func (m *mux) admit(conn net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.done:
		conn.Close()
		return false
	default:
		m.fresh[conn] = true
		return true
	}
}

// sort looks at the first bytes of a connection and hands it on.
func (m *mux) sort(conn net.Conn) {
	begin, err := preamble(conn)
	m.mu.Lock()
	delete(m.fresh, conn)
	m.mu.Unlock()
	switch {
	case err != nil:
		conn.Close()
		if !errors.Is(err, io.EOF) { // a probe that connects and goes is nothing to tell
			m.log.Debug("a connection to the cluster address ended before it said what for", "from", conn.RemoteAddr(), "err", err)
		}
	case string(begin) != dataPreamble:
		select {
		case m.others <- &begunConn{Conn: socket.Quick(conn), begin: begin}:
		case <-m.done:
			conn.Close()
		}
	case m.data == nil:
		m.log.Warn("a data connection was closed: this node serves no volumes", "from", conn.RemoteAddr())
		conn.Close()
	default:
		m.data(conn)
	}
}

// preamble reads a connection's first bytes, and none behind dataPreamble: it
// stops at the first that differs.
func preamble(conn net.Conn) ([]byte, error) {
	if err := conn.SetDeadline(time.Now().Add(preambleTime)); err != nil {
		return nil, err
	}
	buf, n := make([]byte, len(dataPreamble)), 0
	for n < len(buf) && bytes.HasPrefix([]byte(dataPreamble), buf[:n]) {
		k, err := conn.Read(buf[n:])
		n += k
		if err != nil {
			return nil, err
		}
	}
	return buf[:n], conn.SetDeadline(time.Time{})
}

// Accept implements net.Listener for the connections that carry no data.
func (m *mux) Accept() (net.Conn, error) {
	select {
	case conn := <-m.others:
		return conn, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept and run, and the connections that nobody has taken over.
func (m *mux) Close() error {
	var err error
	m.close.Do(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		close(m.done)
		err = m.Listener.Close()
		for conn := range m.fresh {
			conn.Close()
		}
	})
	return err
}

// begunConn is a connection whose first bytes have been read.
type begunConn struct {
	net.Conn
	begin []byte // what Read has yet to return of them
}

// Read implements net.Conn.
func (c *begunConn) Read(p []byte) (int, error) {
	if len(c.begin) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.begin)
	c.begin = c.begin[n:]
	return n, nil
}

// CloseWrite ends one direction, so that a last word reaches the other side.
func (c *begunConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

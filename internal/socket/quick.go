package socket

import (
	"net"
	"sync"
)

// quick is a TCP connection that is read and written as a Socket is.
type quick struct {
	*net.TCPConn
	in, out sync.Mutex
	sock    Socket
	buf     [1][]byte
}

// Quick makes the system calls of a TCP connection as a [Socket] does, without telling
// the scheduler. It is for who wants a net.Conn, such as TLS and gRPC. Other
// connections stay as they are.
func Quick(nc net.Conn) net.Conn {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return nc
	}
	q := &quick{TCPConn: tc}
	q.sock.Init(tc)
	if !q.sock.Direct() {
		return nc
	}
	return q
}

// Read implements net.Conn.
func (q *quick) Read(p []byte) (int, error) {
	q.in.Lock()
	defer q.in.Unlock()
	return q.sock.Read(p)
}

// Write implements net.Conn.
func (q *quick) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	q.out.Lock()
	defer q.out.Unlock()
	q.buf[0] = p
	rest, err := q.sock.Write(q.buf[:], true)
	q.buf[0] = nil
	n := len(p)
	for _, b := range rest {
		n -= len(b)
	}
	return n, err
}

package nbd

import (
	"crypto/tls"
	"net"
)

// tlsRecordBuffer is how much, in bytes, is read from or written to the socket at
// once under TLS: several records of 16 KiB.
const tlsRecordBuffer = 64 << 10

// recordConn sits between TLS and the socket. It reads many records with one system
// call, and while it is held, gathers written records for one.
type recordConn struct {
	net.Conn
	in         []byte
	start, end int
	held       bool
	out        []byte
}

func newRecordConn(nc net.Conn) *recordConn { return &recordConn{Conn: nc} }

// Read serves from the buffer, which it fills when it is empty.
func (r *recordConn) Read(p []byte) (int, error) {
	if r.start == r.end {
		if r.in == nil {
			r.in = make([]byte, tlsRecordBuffer)
		}
		n, err := r.Conn.Read(r.in)
		r.start, r.end = 0, n
		if n == 0 {
			return 0, err
		}
	}
	n := copy(p, r.in[r.start:r.end])
	r.start += n
	return n, nil
}

// Write sends at once, unless the connection is held.
func (r *recordConn) Write(p []byte) (int, error) {
	if !r.held {
		return r.Conn.Write(p)
	}
	r.out = append(r.out, p...)
	if len(r.out) >= tlsRecordBuffer {
		return len(p), r.flush()
	}
	return len(p), nil
}

func (r *recordConn) flush() error {
	if len(r.out) == 0 {
		return nil
	}
	_, err := r.Conn.Write(r.out)
	r.out = r.out[:0]
	return err
}

// tlsConfig is the configuration of the server's side.
func (o *Options) tlsConfig() *tls.Config { return hardened(o.TLS) }

// hardened is a copy with what NBD demands of TLS, and records of full size from the
// start: the small first records help web pages, not block devices.
func hardened(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	c.DynamicRecordSizingDisabled = true
	return c
}

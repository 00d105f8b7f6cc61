package socket

import (
	"encoding/binary"
	"net"
	"sync"
)

// tlsRecordBuffer is how much, in bytes, is read from or written to the socket at
// once under TLS: several records of 16 KiB.
const tlsRecordBuffer = 128 << 10

// Records sits between TLS and the socket. It reads many records with one system
// call but hands them to TLS one at a time, so that it knows whether another one is
// there; while it is held, it gathers written records for one system call.
type Records struct {
	net.Conn
	in         []byte
	start, end int
	left       int // bytes of the current record not handed over yet

	mu   sync.Mutex // TLS answers a key update from within Read
	held bool
	out  []byte
}

// recordHeader is the length, in bytes, of a TLS record's header; its last two are
// the length of what follows.
const recordHeader = 5

// NewRecords wraps a connection that TLS is about to be spoken on.
func NewRecords(nc net.Conn) *Records { return &Records{Conn: Quick(nc)} }

// Read hands over bytes of the current record, or begins the next.
func (r *Records) Read(p []byte) (int, error) {
	if r.in == nil {
		r.in = make([]byte, tlsRecordBuffer)
	}
	for r.start == r.end || r.left == 0 && r.end-r.start < recordHeader {
		if r.start > 0 {
			r.end = copy(r.in, r.in[r.start:r.end])
			r.start = 0
		}
		n, err := r.Conn.Read(r.in[r.end:])
		r.end += n
		if n == 0 {
			return 0, err
		}
	}
	if r.left == 0 {
		r.left = r.next()
	}
	n := copy(p[:min(len(p), r.left)], r.in[r.start:r.end])
	r.start += n
	r.left -= n
	return n, nil
}

// next is the length of the record at start, whose header has arrived.
func (r *Records) next() int { return recordHeader + int(binary.BigEndian.Uint16(r.in[r.start+3:])) }

// hasRecord tells whether TLS can read a whole record without waiting.
func (r *Records) hasRecord() bool {
	n := r.end - r.start
	return r.left == 0 && n >= recordHeader && n >= r.next()
}

// Write sends at once, unless the connection is held.
func (r *Records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.held {
		return r.Conn.Write(p)
	}
	r.out = append(r.out, p...)
	if len(r.out) >= tlsRecordBuffer {
		return len(p), r.flush()
	}
	return len(p), nil
}

// hold begins to gather records.
func (r *Records) hold() {
	r.mu.Lock()
	r.held = true
	r.mu.Unlock()
}

// letGo sends what was gathered.
func (r *Records) letGo() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = false
	return r.flush()
}

// flush sends what was gathered; it holds mu.
func (r *Records) flush() error {
	if len(r.out) == 0 {
		return nil
	}
	_, err := r.Conn.Write(r.out)
	r.out = r.out[:0]
	return err
}

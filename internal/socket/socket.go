// Package socket writes to network connections without waiting where that is
// possible, and many pieces or TLS records with one system call. It is the edge of
// the data path: clients and other nodes are reached through it.
package socket

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// layered is a connection over another one: TLS.
type layered interface{ NetConn() net.Conn }

// maxIOV is the number of pieces one system call takes (IOV_MAX).
const maxIOV = 1024

// Socket writes to a connection: without waiting if it is a plain socket, through
// net.Conn otherwise (TLS, pipes). One goroutine writes at a time, and one reads.
//
// Plain sockets never block in the kernel, so their system calls are made without
// telling the scheduler (RawSyscall). Telling it has a price that is high where the
// process is idle between requests: it wakes the runtime's monitor thread each time.
type Socket struct {
	net.Conn
	raw     syscall.RawConn // nil if writes cannot avoid waiting
	records *Records        // TLS only
	plain   []byte          // TLS only: less than a record, to be sent
	moved   atomic.Uint64   // bytes read and written

	in, out call
	into    []byte // what is being read
	iov     []unix.Iovec
	wait    bool
}

// call is a system call on a socket that does not block.
type call struct {
	n     int
	errno syscall.Errno
	once  func(fd uintptr) bool // makes it; false: it has to be made again when the socket is ready
}

// make makes the call until it is not interrupted. It tells whether the socket was ready.
func (c *call) make(trap, fd uintptr, p unsafe.Pointer, n uintptr) (ready bool) {
	for {
		r, _, errno := syscall.RawSyscall(trap, fd, uintptr(p), n)
		switch c.n, c.errno = int(r), errno; errno {
		case 0:
			return true
		case syscall.EINTR:
		default:
			c.n = 0
			return errno != syscall.EAGAIN
		}
	}
}

// Init takes a connection over. TLS reads and writes many records at once only if
// it was made over a [Records].
func (s *Socket) Init(nc net.Conn) {
	s.Conn = nc
	if tc, ok := nc.(layered); ok {
		s.records, _ = tc.NetConn().(*Records)
	}
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	s.raw = raw
	s.in.once = func(fd uintptr) bool {
		return s.in.make(unix.SYS_READ, fd, unsafe.Pointer(&s.into[0]), uintptr(len(s.into)))
	}
	s.out.once = func(fd uintptr) bool {
		trap, p, n := uintptr(unix.SYS_WRITEV), unsafe.Pointer(&s.iov[0]), uintptr(len(s.iov))
		if n == 1 {
			trap, p, n = unix.SYS_WRITE, unsafe.Pointer(s.iov[0].Base), uintptr(s.iov[0].Len)
		}
		return s.out.make(trap, fd, p, n) || !s.wait
	}
}

// Direct tells whether Write can avoid waiting.
func (s *Socket) Direct() bool { return s.raw != nil }

// Moved is how many bytes were read and written; it is safe for concurrent use.
func (s *Socket) Moved() uint64 { return s.moved.Load() }

// Write sends what it can of bufs, none of which is empty, and returns the rest.
// With wait, or unless [Socket.Direct], it sends all. The slice is changed.
func (s *Socket) Write(bufs [][]byte, wait bool) ([][]byte, error) {
	if s.raw == nil {
		return nil, s.writeThrough(bufs)
	}
	for len(bufs) > 0 {
		s.iov = s.iov[:0]
		for _, b := range bufs[:min(len(bufs), maxIOV)] {
			v := unix.Iovec{Base: &b[0]}
			v.SetLen(len(b))
			s.iov = append(s.iov, v)
		}
		s.wait = wait
		err := s.raw.Write(s.out.once)
		clear(s.iov) // do not keep buffers alive
		switch {
		case err != nil:
			return bufs, err
		case s.out.errno == syscall.EAGAIN:
			return bufs, nil
		case s.out.errno != 0:
			return bufs, s.out.errno
		}
		s.moved.Add(uint64(s.out.n))
		bufs = advance(bufs, s.out.n)
	}
	return nil, nil
}

// writeThrough sends all with calls that wait. Under TLS small pieces become full
// records, and the records one write.
func (s *Socket) writeThrough(bufs [][]byte) error {
	if s.records == nil {
		for _, b := range bufs {
			if _, err := s.Conn.Write(b); err != nil {
				return err
			}
			s.moved.Add(uint64(len(b)))
		}
		return nil
	}
	s.records.hold()
	for _, b := range bufs {
		for len(b) > 0 {
			if len(s.plain) == 0 && len(b) >= tlsRecord {
				n := len(b) / tlsRecord * tlsRecord
				if _, err := s.Conn.Write(b[:n]); err != nil {
					return err
				}
				s.moved.Add(uint64(n))
				b = b[n:]
				continue
			}
			n := min(len(b), tlsRecord-len(s.plain))
			s.plain = append(s.plain, b[:n]...)
			b = b[n:]
			if len(s.plain) == tlsRecord {
				if err := s.flushPlain(); err != nil {
					return err
				}
			}
		}
	}
	if err := s.flushPlain(); err != nil {
		return err
	}
	return s.records.letGo()
}

// tlsRecord is the most, in bytes, that a TLS record carries.
const tlsRecord = 16 << 10

// flushPlain encrypts what has gathered.
func (s *Socket) flushPlain() error {
	if len(s.plain) == 0 {
		return nil
	}
	_, err := s.Conn.Write(s.plain)
	s.moved.Add(uint64(len(s.plain)))
	s.plain = s.plain[:0]
	return err
}

// Read reads what there is. Under TLS, which reads a record at a time, it goes on
// as long as there are whole ones.
func (s *Socket) Read(p []byte) (int, error) {
	if s.raw != nil && len(p) > 0 {
		return s.readPlain(p)
	}
	n, err := s.Conn.Read(p)
	for s.records != nil && err == nil && n < len(p) && s.records.hasRecord() {
		var m int
		m, err = s.Conn.Read(p[n:])
		n += m
	}
	if n > 0 {
		s.moved.Add(uint64(n))
		err = nil // it comes again
	}
	return n, err
}

func (s *Socket) readPlain(p []byte) (int, error) {
	s.into = p
	err := s.raw.Read(s.in.once)
	s.into = nil
	switch {
	case err != nil:
		return 0, err
	case s.in.errno != 0:
		return 0, s.in.errno
	case s.in.n == 0:
		return 0, io.EOF
	}
	s.moved.Add(uint64(s.in.n))
	return s.in.n, nil
}

// advance drops the first n bytes.
func advance(bufs [][]byte, n int) [][]byte {
	for n > 0 {
		if n < len(bufs[0]) {
			bufs[0] = bufs[0][n:]
			break
		}
		n -= len(bufs[0])
		bufs[0] = nil
		bufs = bufs[1:]
	}
	return bufs
}

// Shutdown ends both directions without waiting for anyone who uses the socket.
func (s *Socket) Shutdown() {
	nc := s.Conn
	if tc, ok := nc.(layered); ok {
		nc = tc.NetConn()
		if rc, ok := nc.(*Records); ok {
			nc = rc.Conn
		}
	}
	if sc, ok := nc.(interface {
		CloseRead() error
		CloseWrite() error
	}); ok {
		sc.CloseRead()
		sc.CloseWrite()
		return
	}
	nc.Close()
}

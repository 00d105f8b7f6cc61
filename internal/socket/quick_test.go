package socket_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"blkd/internal/socket"
)

// pair is a TCP connection; the first side is quick.
func pair(t *testing.T) (quick, plain net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close() })
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return socket.Quick(dialled), accepted
}

// TestQuick moves more than the kernel buffers, in both directions at once.
func TestQuick(t *testing.T) {
	a, b := pair(t)
	want := bytes.Repeat([]byte("0123456789abcde"), 1<<20)
	sent := make(chan error, 2)
	for _, c := range []net.Conn{a, b} {
		go func() {
			n, err := c.Write(want)
			if err == nil && n != len(want) {
				err = io.ErrShortWrite
			}
			sent <- err
		}()
	}
	for _, c := range []net.Conn{a, b} {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("read: %v; as written: %v", err, bytes.Equal(got, want))
		}
	}
	for range 2 {
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
}

// TestQuickEnds: deadlines, the other side's end and the own one end reads and writes
// with the errors that callers look for.
func TestQuickEnds(t *testing.T) {
	a, b := pair(t)
	var p [1]byte
	if n, err := a.Write(nil); n != 0 || err != nil {
		t.Errorf("an empty write: %d, %v", n, err)
	}
	a.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := a.Read(p[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a read behind its deadline: %v", err)
	}
	a.SetReadDeadline(time.Time{})
	a.SetWriteDeadline(time.Unix(1, 0))
	if _, err := a.Write(p[:]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a write behind its deadline: %v", err)
	}
	a.SetWriteDeadline(time.Time{})
	b.(*net.TCPConn).CloseWrite()
	if _, err := a.Read(p[:]); err != io.EOF {
		t.Errorf("a read behind the end: %v", err)
	}
	if _, ok := a.(interface{ CloseWrite() error }); !ok {
		t.Error("it cannot end one direction")
	}
	b.(*net.TCPConn).SetLinger(0)
	b.Close()
	var err error
	for range 1000 {
		if _, err = a.Write(p[:]); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("writes to who is gone: %v", err)
	}
	a.Close()
	if _, err := a.Read(p[:]); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a read of what is closed: %v", err)
	}
}

// TestQuickLeavesOthers: what is no TCP connection is left as it is.
func TestQuickLeavesOthers(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if socket.Quick(a) != a {
		t.Error("a pipe was wrapped")
	}
}

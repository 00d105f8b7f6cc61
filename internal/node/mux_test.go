package node

import (
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// muxed is a mux on loopback that ends with the test.
func muxed(t *testing.T, data func(net.Conn), log io.Writer) (m *mux, dial func() *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m = newMux(l, data, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	done := make(chan error, 1)
	go func() { done <- m.run() }()
	t.Cleanup(func() {
		m.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m, func() *net.TCPConn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.TCPConn)
	}
}

// say writes text, in pieces that arrive one by one.
func say(t *testing.T, c net.Conn, pieces ...string) {
	t.Helper()
	for i, p := range pieces {
		if i > 0 {
			time.Sleep(10 * time.Millisecond) // so that the kernel does not join them
		}
		if _, err := io.WriteString(c, p); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMuxHandsOver: whatever the bytes and however they arrive, each side gets
// its connections whole and nothing of them is lost.
func TestMuxHandsOver(t *testing.T) {
	data := make(chan net.Conn, 1)
	m, dial := muxed(t, func(c net.Conn) { data <- c }, io.Discard)
	for _, tc := range []struct {
		pieces []string
		data   bool
	}{
		{[]string{"BLKDATA\x01payload"}, true},
		{[]string{"B", "LKD", "ATA", "\x01", "pay", "load"}, true},
		{[]string{"BLKDATA\x01"}, true},
		{[]string{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}, false},
		{[]string{"\x16\x03\x01\x02\x00\x01"}, false},
		{[]string{"P"}, false}, // the first byte is enough to tell
		{[]string{"BLKD", "ARE"}, false},
		{[]string{"BLKDATA\x02payload"}, false},
	} {
		c := dial()
		say(t, c, tc.pieces...)
		want := strings.Join(tc.pieces, "")
		var got net.Conn
		if tc.data {
			got, want = <-data, strings.TrimPrefix(want, dataPreamble)
		} else {
			var err error
			if got, err = m.Accept(); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		all, err := io.ReadAll(got)
		if err != nil || string(all) != want {
			t.Errorf("%q: got %q, %v", tc.pieces, all, err)
		}
		say(t, got, "answer")
		if half, ok := got.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
			t.Errorf("%q: one direction cannot be ended", tc.pieces)
		}
		if all, err := io.ReadAll(c); err != nil || string(all) != "answer" {
			t.Errorf("%q: answered %q, %v", tc.pieces, all, err)
		}
		got.Close()
	}
}

// TestMuxWithoutData: a data connection that nobody serves is closed, and logged.
func TestMuxWithoutData(t *testing.T) {
	var log syncBuffer
	_, dial := muxed(t, nil, &log)
	c := dial()
	say(t, c, dataPreamble)
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes", n)
	}
	if !strings.Contains(log.String(), "a data connection was closed: this node serves no volumes") {
		t.Error(log.String())
	}
}

// TestMuxProbe: who connects and goes, or says too little, is not worth a word
// and holds nobody up.
func TestMuxProbe(t *testing.T) {
	var log syncBuffer
	m, dial := muxed(t, nil, &log)
	silent, gone, half := dial(), dial(), dial()
	gone.Close()
	say(t, half, "BLKD")
	half.Close()
	say(t, dial(), "PRI * ")
	if _, err := m.Accept(); err != nil {
		t.Error(err)
	}
	if log.String() != "" {
		t.Error(log.String())
	}
	// Closing ends the connection that has not said anything, and Accept.
	m.Close()
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("it is still open")
	}
	if _, err := m.Accept(); err == nil {
		t.Error("accepted after Close")
	}
}

// TestMuxLateAfterClose: nobody takes a connection that was sorted while the
// listener closed.
func TestMuxLateAfterClose(t *testing.T) {
	m, dial := muxed(t, nil, io.Discard)
	c := dial()
	say(t, c, "PRI * ")
	m.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("it is still open")
	}
}

package socket_test

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"blkd/internal/socket"
)

// BenchmarkHop sends messages of 4 KiB over loopback, so many with a call, and waits for
// one short answer: what the kernel and Go's scheduler take of the processor for a hop,
// both sides and all four wake-ups included.
func BenchmarkHop(b *testing.B) {
	for _, batch := range []int{1, 2, 8, 16} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) { benchHop(b, batch) })
	}
}

func benchHop(b *testing.B, batch int) {
	const message, answer = 4096 + 250, 170
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	ended := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer conn.Close()
		var s socket.Socket
		s.Init(conn)
		buf, got := make([]byte, 512<<10), 0
		for {
			n, err := s.Read(buf)
			if err != nil {
				ended <- err
				return
			}
			if got += n; got >= batch*message {
				got = 0
				if _, err := s.Write([][]byte{buf[:answer]}, true); err != nil {
					ended <- err
					return
				}
			}
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	var s socket.Socket
	s.Init(conn)
	out, in := make([]byte, batch*message), make([]byte, answer)
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before) //nolint:errcheck // it cannot fail
	n := 0
	for b.Loop() {
		if _, err := s.Write([][]byte{out}, true); err != nil {
			b.Fatal(err)
		}
		for left := answer; left > 0; {
			k, err := s.Read(in[:left])
			if err != nil {
				b.Fatal(err)
			}
			left -= k
		}
		n += batch
	}
	unix.Getrusage(unix.RUSAGE_SELF, &after) //nolint:errcheck // likewise
	conn.Close()
	if err := <-ended; err != io.EOF {
		b.Fatal(err)
	}
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(n), "cpu-ns/message")
}

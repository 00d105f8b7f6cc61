package nbd

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"blkd/blockdev"
)

// load keeps depth requests in flight on a device: whatever finished is submitted
// again as one batch, as a caching or replicating user of the client does.
type load struct {
	dev   blockdev.Device
	op    blockdev.Op
	block int64
	done  chan *blockdev.Request
	reqs  []*blockdev.Request
	next  int64
}

func newLoad(dev blockdev.Device, op blockdev.Op, depth int, block int64) *load {
	l := &load{dev: dev, op: op, block: block, done: make(chan *blockdev.Request, depth)}
	for range depth {
		r := &blockdev.Request{Op: op, Len: block, Data: bytes.Repeat([]byte{1}, int(block))}
		r.Done = func(r *blockdev.Request) { l.done <- r }
		l.reqs = append(l.reqs, r)
	}
	return l
}

// run does n requests.
func (l *load) run(tb testing.TB, n int) {
	batch := append([]*blockdev.Request(nil), l.reqs[:min(n, len(l.reqs))]...)
	started, inflight := 0, 0
	for started < n || inflight > 0 {
		batch = batch[:min(len(batch), n-started)]
		for _, r := range batch {
			l.next = (l.next + 7919*l.block) % (l.dev.Size() - l.block)
			r.Off = l.next / l.block * l.block
		}
		started += len(batch)
		inflight += len(batch)
		if len(batch) > 0 {
			l.dev.Submit(batch)
		}
		batch = batch[:0]
		r := <-l.done
		for {
			if r.Err != nil {
				tb.Fatal(r.Err)
			}
			inflight--
			batch = append(batch, r)
			if len(l.done) == 0 {
				break
			}
			r = <-l.done
		}
	}
}

var benchCases = []struct {
	name  string
	op    blockdev.Op
	depth int
	block int64
}{
	{"read4k/qd1", blockdev.OpRead, 1, 4096},
	{"read4k/qd32", blockdev.OpRead, 32, 4096},
	{"read4k/qd128", blockdev.OpRead, 128, 4096},
	{"write4k/qd1", blockdev.OpWrite, 1, 4096},
	{"write4k/qd32", blockdev.OpWrite, 32, 4096},
	{"write4k/qd128", blockdev.OpWrite, 128, 4096},
	{"read1m/qd4", blockdev.OpRead, 4, 1 << 20},
	{"write1m/qd4", blockdev.OpWrite, 4, 1 << 20},
}

const benchSize = 64 << 20

// benchMemory is a device full of data: zeros would be read as holes.
func benchMemory(b testing.TB) blockdev.Device {
	dev := blockdev.NewMemory(benchSize)
	p := make([]byte, 1<<20)
	for i := range p {
		p[i] = byte(i%255) + 1
	}
	for off := int64(0); off < benchSize; off += int64(len(p)) {
		if err := blockdev.WriteAt(dev, p, off, 0); err != nil {
			b.Fatal(err)
		}
	}
	return dev
}

// BenchmarkUnix is server and client in one process over a Unix socket.
func BenchmarkUnix(b *testing.B) {
	s := startServer(b, Options{}, benchMemory(b))
	benchURI(b, s.uri("disk"), DialOptions{})
}

// BenchmarkAsync is the same with a device that finishes on another goroutine.
func BenchmarkAsync(b *testing.B) {
	s := startServer(b, Options{}, newAsync(b, benchMemory(b)))
	benchURI(b, s.uri("disk"), DialOptions{})
}

// BenchmarkTLS is the same over TCP with TLS 1.3; BenchmarkTCP is what to compare it
// with.
func BenchmarkTLS(b *testing.B) {
	ca := newPKI(b)
	s := startServer(b, ca.server(b, TLSRequired), benchMemory(b))
	benchURI(b, "nbds://"+benchListen(b, s)+"/disk", DialOptions{TLS: &tls.Config{RootCAs: ca.pool}})
}

// BenchmarkTCP is server and client in one process over TCP.
func BenchmarkTCP(b *testing.B) {
	s := startServer(b, Options{}, benchMemory(b))
	benchURI(b, "nbd://"+benchListen(b, s)+"/disk", DialOptions{})
}

// benchListen makes a server listen on TCP, at localhost and a port.
func benchListen(b *testing.B, s *testServer) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go s.Serve(l)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort("localhost", port)
}

// BenchmarkURI measures the server that BLKD_NBD_URI names, with the batching
// client alone in this process: run it by turns against several servers.
func BenchmarkURI(b *testing.B) {
	uri := os.Getenv("BLKD_NBD_URI")
	if uri == "" {
		b.Skip("BLKD_NBD_URI names no server")
	}
	benchURI(b, uri, DialOptions{})
}

func benchURI(b *testing.B, uri string, opts DialOptions) {
	for _, bc := range benchCases {
		b.Run(bc.name, func(b *testing.B) {
			c := dialTest(b, uri, opts)
			l := newLoad(c, bc.op, bc.depth, bc.block)
			l.run(b, 1000)
			b.SetBytes(bc.block)
			b.ReportAllocs()
			before := cpu()
			b.ResetTimer()
			l.run(b, b.N)
			b.StopTimer()
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpu is the processor time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestServe is a server for measurements by other programs. It runs for as long as
// the file that BLKD_NBD_SERVE names exists; the Unix socket is that file's name
// with ".sock", and TCP is at the address in BLKD_NBD_LISTEN.
func TestServe(t *testing.T) {
	stop := os.Getenv("BLKD_NBD_SERVE")
	if stop == "" {
		t.Skip("BLKD_NBD_SERVE names no file")
	}
	dev := benchMemory(t)
	s := NewServer(Options{Logger: testLogger(t)})
	if err := s.SetExport(Export{Name: "", Device: dev}); err != nil {
		t.Fatal(err)
	}
	os.Remove(stop + ".sock")
	for network, address := range map[string]string{"unix": stop + ".sock", "tcp": os.Getenv("BLKD_NBD_LISTEN")} {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		go s.Serve(l)
	}
	t.Logf("serving on %s and %s", filepath.Base(stop)+".sock", os.Getenv("BLKD_NBD_LISTEN"))
	for {
		if _, err := os.Stat(stop); err != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	s.Shutdown(context.Background())
}

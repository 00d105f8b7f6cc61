package nbd

import (
	"context"
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
		r := &blockdev.Request{Op: op, Len: block, Data: make([]byte, block)}
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

func benchServer(b *testing.B, dev blockdev.Device) *testServer {
	s := startServer(b, Options{}, dev)
	if err := blockdev.WriteZeroes(s.dev, 0, s.dev.Size(), blockdev.NoHole); err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkUnix is server and client in one process over a Unix socket.
func BenchmarkUnix(b *testing.B) {
	s := benchServer(b, blockdev.NewMemory(benchSize))
	benchURI(b, s.uri("disk"), DialOptions{})
}

// BenchmarkAsync is the same with a device that finishes on another goroutine.
func BenchmarkAsync(b *testing.B) {
	s := benchServer(b, newAsync(b, blockdev.NewMemory(benchSize)))
	benchURI(b, s.uri("disk"), DialOptions{})
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
	dev := blockdev.NewMemory(benchSize)
	if err := blockdev.WriteZeroes(dev, 0, benchSize, blockdev.NoHole); err != nil {
		t.Fatal(err)
	}
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

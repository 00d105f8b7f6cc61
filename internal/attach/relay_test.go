package attach

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"blkd/blockdev"
	"blkd/nbd"
)

// primary serves a volume.
type primary struct{ volume, socket string }

func newPrimary(t testing.TB, volume string, dev blockdev.Device) *primary {
	t.Helper()
	p := &primary{volume, filepath.Join(t.TempDir(), "socket")}
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := nbd.NewServer(nbd.Options{})
	if err := server.SetExport(nbd.Export{Name: volume, Device: dev, HangUp: true, Open: parameters(dev)}); err != nil {
		t.Fatal(err)
	}
	go server.Serve(l)
	t.Cleanup(func() { l.Close() })
	return p
}

func (p *primary) dial(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{}
	var err error
	u.Client, err = nbd.Dial(t.Context(), nbd.URI{Network: "unix", Address: p.socket, Export: p.volume}.String(), nbd.DialOptions{Dial: func(ctx context.Context, network, address string) (_ net.Conn, err error) {
		u.conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return u.conn, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.close)
	return u
}

// silent is a device that answers no request: a primary that hangs.
type silent struct {
	blockdev.Device
	came chan struct{}
}

func (s *silent) Submit(batch []*blockdev.Request) {
	for range batch {
		select {
		case s.came <- struct{}{}:
		default:
		}
	}
}

// TestRelayOutlivesPrimaries: what a primary has left without an answer goes to the
// next one, and the kernel, here another client, keeps its connection.
func TestRelayOutlivesPrimaries(t *testing.T) {
	const size = 1 << 20
	mem := blockdev.NewMemory(size)
	hangs := &silent{mem, make(chan struct{}, 1)}
	first := newPrimary(t, "pg", hangs).dial(t)
	r, err := newRelay("pg", size, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	r.use(first)
	kernel, err := nbd.Dial(t.Context(), "nbd+unix:///pg?socket=relay", nbd.DialOptions{Dial: r.dial, Simple: true})
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	done := make(chan error, 1)
	page := bytes.Repeat([]byte{7}, 4096)
	go func() { done <- blockdev.WriteAt(kernel, page, 8192, 0) }()
	<-hangs.came
	first.close()
	<-first.Lost()
	select {
	case err := <-done:
		t.Fatalf("the write is answered without a primary: %v", err)
	default:
	}
	r.use(newPrimary(t, "pg", mem).dial(t))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4096)
	if err := blockdev.ReadAt(mem, got, 8192); err != nil || !bytes.Equal(got, page) {
		t.Errorf("the next primary has %x…, %v", got[:4], err)
	}
}

// BenchmarkRelay measures 4 KiB reads of a primary on this machine, one at a time and
// 32, with a relay in between and without. A client of ours stands for the kernel.
func BenchmarkRelay(b *testing.B) {
	const size = 1 << 20
	p := newPrimary(b, "pg", blockdev.NewMemory(size))
	r, err := newRelay("pg", size, false)
	if err != nil {
		b.Fatal(err)
	}
	defer r.close()
	r.use(p.dial(b))
	kernel, err := nbd.Dial(b.Context(), "nbd+unix:///pg?socket=relay", nbd.DialOptions{Dial: r.dial, Simple: true})
	if err != nil {
		b.Fatal(err)
	}
	defer kernel.Close()
	for name, dev := range map[string]blockdev.Device{"direct": p.dial(b), "relay": kernel} {
		for _, depth := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/%d", name, depth), func(b *testing.B) { readAll(b, dev, depth) })
		}
	}
}

// readAll has so many goroutines read b.N times together.
func readAll(b *testing.B, dev blockdev.Device, depth int) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var all sync.WaitGroup
	for range depth {
		all.Go(func() {
			page := make([]byte, 4096)
			for left.Add(-1) >= 0 {
				if err := blockdev.ReadAt(dev, page, 8192); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

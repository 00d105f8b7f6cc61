package attach

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"testing"

	"blkd/blockdev"
	"blkd/nbd"
)

// primary serves a device as pg, until it is closed.
type primary struct {
	uri    string
	server *nbd.Server
}

func newPrimary(t *testing.T, dev blockdev.Device) *primary {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p := &primary{"nbd+unix:///pg?socket=" + path, nbd.NewServer(nbd.Options{})}
	if err := p.server.SetExport(nbd.Export{Name: "pg", Device: dev, HangUp: true}); err != nil {
		t.Fatal(err)
	}
	go p.server.Serve(l)
	t.Cleanup(func() { p.server.Close() })
	return p
}

func (p *primary) dial(t *testing.T) *upstream {
	t.Helper()
	u := &upstream{}
	var err error
	u.Client, err = nbd.Dial(t.Context(), p.uri, nbd.DialOptions{Dial: func(ctx context.Context, network, address string) (_ net.Conn, err error) {
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
		s.came <- struct{}{}
	}
}

// TestRelayOutlivesPrimaries: what a primary has left without an answer goes to the
// next one, and the kernel, here another client, keeps its connection.
func TestRelayOutlivesPrimaries(t *testing.T) {
	const size = 1 << 20
	mem := blockdev.NewMemory(size)
	hangs := &silent{mem, make(chan struct{}, 1)}
	first := newPrimary(t, hangs).dial(t)
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
	r.use(newPrimary(t, mem).dial(t))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4096)
	if err := blockdev.ReadAt(mem, got, 8192); err != nil || !bytes.Equal(got, page) {
		t.Errorf("the next primary has %x…, %v", got[:4], err)
	}
}

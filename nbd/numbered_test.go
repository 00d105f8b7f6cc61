package nbd

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"blkd/blockdev"
)

// numbers keeps the numbers of the requests that a device gets.
type numbers struct {
	blockdev.Device
	mu   sync.Mutex
	seen []uint64
}

func (d *numbers) Submit(batch []*blockdev.Request) {
	d.mu.Lock()
	for _, r := range batch {
		d.seen = append(d.seen, r.Number)
	}
	d.mu.Unlock()
	d.Device.Submit(batch)
}

// take returns what was seen since the last call.
func (d *numbers) take() []uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := d.seen
	d.seen = nil
	return seen
}

// TestNumbered: the numbers of mutations reach the device of an export that is
// Numbered, those of other requests are 0, and no other export's clients give any.
func TestNumbered(t *testing.T) {
	dev := &numbers{Device: blockdev.NewMemory(1 << 20)}
	s := startServer(t, Options{}, dev)
	if err := s.SetExport(Export{Name: "nodes", Device: dev, Numbered: true}); err != nil {
		t.Fatal(err)
	}
	const most = 1<<51 - 1
	send := func(name string, opts DialOptions) []uint64 {
		c := dialTest(t, s.uri(name), opts)
		dev.take()
		for _, r := range []*blockdev.Request{
			{Op: blockdev.OpWrite, Len: 512, Data: make([]byte, 512), Number: 1}, {Op: blockdev.OpWriteZeroes, Len: 512, Number: most},
			{Op: blockdev.OpTrim, Len: 512}, {Op: blockdev.OpFlush}, {Op: blockdev.OpRead, Len: 512, Data: make([]byte, 512)},
			{Op: blockdev.OpTrim, Len: 512, Number: 1}, // again
		} {
			done := make(chan error, 1)
			r.Done = func(r *blockdev.Request) { done <- r.Err }
			c.Submit([]*blockdev.Request{r})
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		return dev.take()
	}
	for _, x := range []struct {
		name string
		opts DialOptions
		want []uint64
	}{
		{"nodes", DialOptions{Numbered: true}, []uint64{1, most, 0, 0, 0, 1}},
		{"nodes", DialOptions{}, make([]uint64, 6)},
		{"disk", DialOptions{Numbered: true}, make([]uint64, 6)},
	} {
		if got := send(x.name, x.opts); !slices.Equal(got, x.want) {
			t.Errorf("%s with %+v: %v, not %v", x.name, x.opts, got, x.want)
		}
	}
	if c, err := Dial(context.Background(), s.uri("nodes"), DialOptions{Numbered: true, NoExtended: true}); err == nil || !strings.Contains(err.Error(), "extended headers") {
		t.Errorf("without extended headers: %v, %v", c, err)
	}
}

package fio

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"blkd/blockdev"
)

// countingDevice counts what a load asks for. It finishes every other request on
// another goroutine, as a network client does.
type countingDevice struct {
	blockdev.Device
	reads, writes, flushes, inFlight, deepest atomic.Int64
	fail                                      error
}

func (d *countingDevice) Submit(batch []*blockdev.Request) {
	d.deepest.Store(max(d.deepest.Load(), d.inFlight.Add(int64(len(batch)))))
	for i, r := range batch {
		err := r.Check(d.Size(), false)
		switch r.Op {
		case blockdev.OpRead:
			d.reads.Add(1)
		case blockdev.OpWrite:
			d.writes.Add(1)
		case blockdev.OpFlush:
			d.flushes.Add(1)
		}
		if err == nil {
			err = d.fail
		}
		finish := func() { d.inFlight.Add(-1); r.Finish(err) }
		if i%2 == 0 {
			go finish()
		} else {
			finish()
		}
	}
}

func runLoad(t *testing.T, l load, d *countingDevice) (Sample, error) {
	t.Helper()
	d.Device = blockdev.NewMemory(1 << 20)
	if l.runtime = 50 * time.Millisecond; l.once {
		l.runtime = time.Minute // it has to end by itself
	}
	return drive(context.Background(), l, []blockdev.Device{d}, 1)
}

func TestLoadCountsWhatItDid(t *testing.T) {
	for name, l := range map[string]load{
		"random read":      {readPercent: 100, random: true, block: 4096, depth: 8},
		"sequential write": {block: 128 << 10, depth: 4, flushAtEnd: true},
		"one pass":         {block: 64 << 10, depth: 3, once: true},
		"odd block":        {readPercent: 50, block: 4608, depth: 3},
		"one at a time":    {random: true, block: 512, depth: 1, flushEvery: 1},
		"shared flush":     {random: true, block: 4096, depth: 32, flushEvery: 32},
	} {
		var d countingDevice
		s, err := runLoad(t, l, &d)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := d.reads.Load() + d.writes.Load(); s.ios != got || s.wrote != d.writes.Load()*l.block {
			t.Errorf("%s: counted %d I/Os and %d bytes, the device %d and %d", name, s.ios, s.wrote, got, d.writes.Load()*l.block)
		}
		counted := s.ios
		if l.flushEvery > 0 {
			counted = d.flushes.Load()
			if n := d.writes.Load() / l.flushEvery; counted < n-1 || counted > n {
				t.Errorf("%s: %d flushes for %d writes", name, counted, d.writes.Load())
			}
		} else if want := map[bool]int64{true: 1}[l.flushAtEnd]; d.flushes.Load() != want {
			t.Errorf("%s: %d flushes, want %d", name, d.flushes.Load(), want)
		}
		if l.once && s.ios != d.Size()/l.block {
			t.Errorf("%s: %d requests, want one per block, %d", name, s.ios, d.Size()/l.block)
		}
		if s.Latency.Count() != counted {
			t.Errorf("%s: %d latencies for %d requests", name, s.Latency.Count(), counted)
		}
		if got := d.deepest.Load(); got > l.depth || d.inFlight.Load() != 0 {
			t.Errorf("%s: up to %d in flight, %d left, want at most %d and none", name, got, d.inFlight.Load(), l.depth)
		}
	}
}

func TestLoadStopsAtAnError(t *testing.T) {
	d := countingDevice{fail: blockdev.ErrNoSpace}
	_, err := runLoad(t, load{random: true, block: 4096, depth: 4}, &d)
	if !errors.Is(err, blockdev.ErrNoSpace) || !strings.Contains(err.Error(), "write of 4096 bytes") {
		t.Errorf("got %v, want what failed and why", err)
	}
	if d.inFlight.Load() != 0 {
		t.Errorf("%d requests still in flight", d.inFlight.Load())
	}
	if _, err := runLoad(t, load{block: 2 << 20, depth: 1}, &d); err == nil || !strings.Contains(err.Error(), "1048576") {
		t.Errorf("an export smaller than a request: %v", err)
	}
}

func TestLoadStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d := &countingDevice{Device: blockdev.NewMemory(1 << 20)}
	l := load{random: true, block: 4096, depth: 4, runtime: time.Hour}
	if _, err := drive(ctx, l, []blockdev.Device{d}, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}

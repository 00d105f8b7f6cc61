package verifier

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"blkd/blockdev"
	"blkd/metadata/metapb"
)

// flaky is a connection that breaks now and then. Some reads of it are old, if that
// is asked for.
type flaky struct {
	*blockdev.Memory
	old    *blockdev.Memory // nil: it is honest
	count  atomic.Int64
	closed atomic.Bool
}

var errBroken = errors.New("broken")

func (f *flaky) Close() error { f.closed.Store(true); return nil }

func (f *flaky) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		n := f.count.Add(1)
		switch {
		case f.closed.Load() || n > 100:
			f.closed.Store(true)
			if n%2 == 0 && r.Op == blockdev.OpWrite {
				blockdev.WriteAt(f.Memory, r.Data, r.Off, 0) //nolint:errcheck // memory
			}
			r.Finish(errBroken)
		case f.old != nil && r.Op == blockdev.OpRead && n%10 == 0:
			f.old.Submit([]*blockdev.Request{r})
		default:
			f.Memory.Submit([]*blockdev.Request{r})
		}
	}
}

// crowd runs clients of a device for a while.
func crowd(t *testing.T, shared bool, dial func() Connection) *Crowd {
	t.Helper()
	cfg := CrowdConfig{First: 2, Blocks: 8, Depth: 4, ReadPercent: 20, Shared: shared}
	for range 3 {
		cfg.Dial = append(cfg.Dial, func(context.Context) (Connection, error) { return dial(), nil })
	}
	c := StartCrowd(cfg)
	for i := range cfg.Dial {
		for acknowledged, broken := c.Writes(i); acknowledged < 500 || broken < 2; acknowledged, broken = c.Writes(i) {
			time.Sleep(time.Millisecond)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCrowdOnHonestDevice(t *testing.T) {
	for _, shared := range []bool{false, true} {
		dev := blockdev.NewMemory(size)
		c := crowd(t, shared, func() Connection { return &flaky{Memory: dev} })
		if err := c.Check(dev); err != nil {
			t.Error(err)
		}
		if c.LastSent(0).Before(time.Now().Add(-time.Minute)) {
			t.Errorf("sent at %v", c.LastSent(0))
		}
	}
}

func TestCrowdFindsOldReads(t *testing.T) {
	dev, old := blockdev.NewMemory(size), blockdev.NewMemory(size)
	c := crowd(t, false, func() Connection { return &flaky{Memory: dev, old: old} })
	if err := c.Check(dev); err == nil || !strings.Contains(err.Error(), "was there before") {
		t.Errorf("%v", err)
	}
}

func TestCrowdFindsWrongBlocks(t *testing.T) {
	dev := blockdev.NewMemory(size)
	c := crowd(t, false, func() Connection { return &flaky{Memory: dev} })
	p := make([]byte, blockdev.BlockSize)
	p[0] = 1
	if err := blockdev.WriteAt(dev, p, 3*blockdev.BlockSize, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(dev); err == nil || !strings.Contains(err.Error(), "block 3 holds what nobody wrote there") {
		t.Errorf("%v", err)
	}
}

// TestWritesExpireWithTheNextGeneration: a write that was given up may take effect in
// the generation that was recorded then, and in no later one.
func TestWritesExpireWithTheNextGeneration(t *testing.T) {
	c := StartCrowd(CrowdConfig{Blocks: 1})
	given := time.Now()
	o := c.seen.Write(0, 0, 1)
	c.lost = []openWrite{{o: o, since: given}}
	entry := func(generation uint64, serves bool) *metapb.HistoryEntry {
		e := &metapb.HistoryEntry{Generation: generation}
		if serves {
			e.Certificate = &metapb.Certificate{}
		}
		return e
	}
	limit := func() int64 { return c.seen.Block(0)[0].Limit }
	never := limit()
	c.served(given.Add(-1), &metapb.History{Entries: []*metapb.HistoryEntry{entry(4, true)}}) // asked for too early
	c.served(given.Add(1), &metapb.History{Entries: []*metapb.HistoryEntry{entry(4, true), entry(5, false)}})
	c.served(given.Add(2), &metapb.History{Entries: []*metapb.HistoryEntry{entry(5, true)}})
	c.served(given.Add(3), &metapb.History{Entries: []*metapb.HistoryEntry{entry(5, true), entry(6, false)}})
	if limit() != never {
		t.Error("it expired while it could take effect")
	}
	c.served(given.Add(4), &metapb.History{Entries: []*metapb.HistoryEntry{entry(6, true)}})
	if limit() == never || len(c.lost) != 0 {
		t.Error("it can take effect for ever")
	}
}

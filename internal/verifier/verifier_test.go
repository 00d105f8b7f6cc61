package verifier

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"blkd/blockdev"
)

const size = 256 * blockdev.BlockSize

// after runs a load until it has had a number of answers.
func after(t *testing.T, l *Load, answers int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for l.Counts().Writes < answers {
		if err := l.Acknowledged(ctx, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoadOnHonestDevice(t *testing.T) {
	dev := blockdev.NewMemory(size)
	l := Start(Config{Device: dev, First: 3, Blocks: 200, Depth: 7, ReadPercent: 30, FlushEvery: time.Millisecond})
	after(t, l, 500)
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	c, err := l.Check(dev)
	if err != nil || c.Lost+c.LostDurable+c.Wrong != 0 || c.Blocks != 200 || c.Example != nil {
		t.Errorf("%+v, %v", c, err)
	}
	if n := l.Counts(); n.Writes < 500 || n.Reads == 0 {
		t.Errorf("%+v", n)
	}
	if g := l.Longest(); g.Length() <= 0 || g.To.After(time.Now()) {
		t.Errorf("longest gap %v", g)
	}
}

// liar acknowledges some writes without doing them.
type liar struct {
	*blockdev.Memory
	lies atomic.Bool
}

func (l *liar) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		if r.Op == blockdev.OpWrite && l.lies.Load() {
			r.Finish(nil)
			continue
		}
		l.Memory.Submit([]*blockdev.Request{r})
	}
}

func TestLoadFindsLostWrites(t *testing.T) {
	dev := &liar{Memory: blockdev.NewMemory(size)}
	l := Start(Config{Device: dev, Blocks: 64, Depth: 4, FlushEvery: time.Millisecond})
	after(t, l, 100)
	dev.lies.Store(true)
	flushes := l.Counts().Flushes
	after(t, l, l.Counts().Writes+100)
	for l.Counts().Flushes < flushes+2 {
		time.Sleep(time.Millisecond)
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	c, err := l.Check(dev)
	if err != nil || c.Lost == 0 || c.LostDurable == 0 || c.Wrong != 0 || c.Example == nil {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestLoadFindsOldReads(t *testing.T) {
	dev := &liar{Memory: blockdev.NewMemory(size)}
	dev.lies.Store(true)
	l := Start(Config{Device: dev, Blocks: 4, Depth: 4, ReadPercent: 50})
	err := l.Acknowledged(context.Background(), time.Now().Add(time.Hour)) // returns with the first error
	if l.Stop(); err == nil || !strings.Contains(err.Error(), "it holds version 0") {
		t.Errorf("%v", err)
	}
}

func TestCheckFindsWrongBlocks(t *testing.T) {
	dev := blockdev.NewMemory(size)
	l := Start(Config{Device: dev, Blocks: 4, Depth: 1})
	for i := range l.blocks {
		for l.blocks[i].acked.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	if err := l.Stop(); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, blockdev.BlockSize)
	put := func(n int64) {
		if err := blockdev.WriteAt(dev, p, n*blockdev.BlockSize, 0); err != nil {
			t.Fatal(err)
		}
	}
	l.content.fill(p, 1, 1) // in the place of 0
	put(0)
	l.content.fill(p, 1, l.blocks[1].asked.Load()+1) // never written
	put(1)
	l.content.fill(p, 2, l.blocks[2].acked.Load()) // torn
	p[4000]++
	put(2)
	content{1}.fill(p, 3, 1) // of somebody else
	put(3)
	c, err := l.Check(dev)
	if err != nil || c.Wrong != 4 || c.Lost != 0 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, text := range []string{"block 0 holds block 1", "block 1 holds version", "block 2 is torn"} {
		if !strings.Contains(c.Example.Error(), text) {
			t.Errorf("%v lacks %q", c.Example, text)
		}
	}
}

// frozen keeps what it is sent until it is woken.
type frozen struct {
	*blockdev.Memory
	kept  []*blockdev.Request
	still bool
	sent  chan struct{} // closed when it has kept something
}

func (f *frozen) Submit(batch []*blockdev.Request) {
	if f.still {
		f.kept = append(f.kept, batch...)
		close(f.sent)
		return
	}
	f.Memory.Submit(batch)
}

func TestStale(t *testing.T) {
	refuse := func(f *frozen) {
		for _, r := range f.kept {
			r.Finish(errors.New("no longer primary"))
		}
	}
	for name, tc := range map[string]struct {
		wake func(f *frozen, volume *blockdev.Memory)
		want Refused
	}{
		"refuses":     {func(f *frozen, _ *blockdev.Memory) { refuse(f) }, Refused{Writes: 4, Reads: 4}},
		"goes on":     {func(f *frozen, _ *blockdev.Memory) { f.Memory.Submit(f.kept) }, Refused{Writes: 4, Reads: 4, Accepted: 4, Served: 4}},
		"passes on":   {func(f *frozen, v *blockdev.Memory) { v.Submit(f.kept) }, Refused{Writes: 4, Reads: 4, Accepted: 4}},
		"writes late": {func(f *frozen, v *blockdev.Memory) { blockdev.WriteAt(v, f.kept[1].Data, f.kept[1].Off, 0); refuse(f) }, Refused{Writes: 4, Reads: 4, Accepted: 1}},
	} {
		old, next := &frozen{Memory: blockdev.NewMemory(size), sent: make(chan struct{})}, blockdev.NewMemory(size)
		s, err := NewStale(old, 10, 4)
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 8*blockdev.BlockSize)
		if err := errors.Join(blockdev.ReadAt(old, p, 10*blockdev.BlockSize), blockdev.WriteAt(next, p, 10*blockdev.BlockSize, 0)); err != nil {
			t.Fatal(err)
		}
		old.still = true
		s.Send()
		<-old.sent
		if err := s.Replace(next); err != nil {
			t.Fatal(err)
		}
		tc.wake(old, next)
		if got, err := s.Answers(context.Background(), next); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

package forward

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blkd/blockdev"
	"blkd/blockdev/devicetest"
)

var errGone = errors.New("served elsewhere")

// place serves the shared content until it is closed; after that it answers
// errGone. Of what is under way then, some has taken effect and some never will.
type place struct {
	blockdev.Device
	gone atomic.Bool
}

func (p *place) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		if p.gone.Load() {
			r.Finish(errGone)
			continue
		}
		q := &blockdev.Request{Op: r.Op, Flags: r.Flags, Off: r.Off, Len: r.Len, Data: r.Data, Number: r.Number}
		q.Done = func(q *blockdev.Request) {
			if p.gone.Load() { // the answer is lost, the effect is not
				q.Err = errGone
			}
			r.Finish(q.Err)
		}
		p.Device.Submit([]*blockdev.Request{q})
	}
}

func (p *place) Extents(off, n int64, emit func(blockdev.Extent) bool) error {
	if p.gone.Load() {
		return errGone
	}
	return p.Device.Extents(off, n, emit)
}

// places is a volume that moves.
type places struct {
	content blockdev.Device
	mu      sync.Mutex
	now     *place
	made    int
}

func (s *places) connect(context.Context) (blockdev.Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil && !s.now.gone.Load() {
		return s.now, nil
	}
	if s.made++; s.made%3 == 0 {
		return nil, errors.New("nobody serves it at the moment")
	}
	s.now = &place{Device: s.content}
	return s.now, nil
}

func (s *places) move() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil {
		s.now.gone.Store(true)
	}
}

func (s *places) device(t testing.TB) *Device {
	d := New(Config{Connect: s.connect, Moved: func(err error) bool { return errors.Is(err, errGone) }, Size: s.content.Size})
	t.Cleanup(func() { d.Close() })
	return d
}

func TestConformance(t *testing.T) {
	devicetest.Run(t, func(t *testing.T) blockdev.Device {
		return (&places{content: blockdev.NewMemory(devicetest.MinSize)}).device(t)
	})
}

func TestConformanceWhileMoving(t *testing.T) {
	devicetest.Run(t, func(t *testing.T) blockdev.Device {
		s := &places{content: blockdev.NewMemory(devicetest.MinSize)}
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(rand.IntN(40)) * time.Millisecond):
					s.move()
				}
			}
		}()
		t.Cleanup(func() { close(stop); <-stopped })
		return s.device(t)
	})
}

// TestNumbers: every mutation has a number of its own, and what is sent again has the
// one that it had before.
func TestNumbers(t *testing.T) {
	const writers, writes = 8, 300
	var mu sync.Mutex
	sent := map[uint64]map[byte]int{} // by number, what was written
	s := &places{content: &counting{blockdev.NewMemory(1 << 20), func(r *blockdev.Request) {
		mu.Lock()
		defer mu.Unlock()
		if sent[r.Number] == nil {
			sent[r.Number] = map[byte]int{}
		}
		sent[r.Number][r.Data[0]]++
	}}}
	d := s.device(t)
	var work sync.WaitGroup
	for w := range int64(writers) {
		work.Go(func() {
			buf := make([]byte, blockdev.BlockSize)
			for i := range writes {
				buf[0] = byte(i)
				if err := blockdev.WriteAt(d, buf, w*blockdev.BlockSize, 0); err != nil {
					t.Error(err)
				}
				if rand.IntN(4) == 0 {
					s.move()
				}
			}
		})
	}
	work.Wait()
	again := 0
	for n, values := range sent {
		if n == 0 || n > writers*writes || len(values) != 1 {
			t.Errorf("number %d was given to %v", n, values)
		}
		for _, times := range values {
			again += times - 1
		}
	}
	if again == 0 || len(sent) != writers*writes {
		t.Errorf("%d numbers, %d times sent again", len(sent), again)
	}
}

// counting tells of every mutation.
type counting struct {
	blockdev.Device
	mutates func(*blockdev.Request)
}

func (c *counting) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		if r.Op.Mutates() {
			c.mutates(r)
		}
	}
	c.Device.Submit(batch)
}

// stuck answers nothing until it is let go.
type stuck struct {
	blockdev.Device
	mu      sync.Mutex
	waiting []*blockdev.Request
}

func (s *stuck) Submit(batch []*blockdev.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, batch...)
}

// TestWindow: mutations wait when the oldest has no answer for too long.
func TestWindow(t *testing.T) {
	s := &stuck{Device: blockdev.NewMemory(1 << 20)}
	d := New(Config{Connect: func(context.Context) (blockdev.Device, error) { return s, nil }, Moved: func(error) bool { return false }, Size: s.Size})
	defer d.Close()
	var answered sync.WaitGroup
	count := 2 * blockdev.OpWindow
	answered.Add(count)
	batch := make([]*blockdev.Request, count)
	for i := range batch {
		batch[i] = &blockdev.Request{Op: blockdev.OpTrim, Len: blockdev.BlockSize, Done: func(*blockdev.Request) { answered.Done() }}
	}
	submitted := make(chan struct{})
	go func() { d.Submit(batch); close(submitted) }()
	for full := false; !full; time.Sleep(time.Millisecond) {
		d.mu.Lock()
		full = d.full > 0
		d.mu.Unlock()
	}
	last := uint64(0)
	for open := true; open; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		list := s.waiting
		s.waiting = nil
		s.mu.Unlock()
		for i, r := range list {
			if last == 0 && r.Number > blockdev.OpWindow {
				t.Errorf("number %d is sent, and none has an answer", r.Number)
			}
			if i == len(list)-1 {
				last = r.Number
			}
		}
		for _, r := range list {
			r.Finish(nil)
		}
		select {
		case <-submitted:
			open = last < uint64(count)
		default:
		}
	}
	answered.Wait()
}

// TestNothingIsLostOrOld: each writer overwrites its own block again and again
// and must always find what it wrote last.
func TestNothingIsLostOrOld(t *testing.T) {
	s := &places{content: blockdev.NewMemory(1 << 20)}
	d := s.device(t)
	var work sync.WaitGroup
	for w := range int64(8) {
		work.Go(func() {
			buf := make([]byte, blockdev.BlockSize)
			for n := range uint64(500) {
				binary.LittleEndian.PutUint64(buf, n)
				if err := blockdev.WriteAt(d, buf, w*blockdev.BlockSize, 0); err != nil {
					t.Error(err)
					return
				}
				if rand.IntN(4) == 0 {
					s.move()
				}
				clear(buf)
				if err := blockdev.ReadAt(d, buf, w*blockdev.BlockSize); err != nil {
					t.Error(err)
					return
				}
				if got := binary.LittleEndian.Uint64(buf); got != n {
					t.Errorf("block %d has version %d, %d was written last", w, got, n)
					return
				}
			}
		})
	}
	work.Wait()
	if s.made < 100 {
		t.Errorf("it moved %d times only", s.made)
	}
}

func TestCloseEndsWhatWaits(t *testing.T) {
	d := New(Config{
		Connect: func(context.Context) (blockdev.Device, error) { return nil, errors.New("nobody serves it") },
		Moved:   func(error) bool { return false }, Size: func() int64 { return 1 << 20 },
	})
	answered := make(chan error)
	go func() { answered <- blockdev.Flush(d) }()
	for {
		d.mu.Lock()
		waits := d.others.first != nil
		d.mu.Unlock()
		if waits {
			break
		}
		time.Sleep(time.Millisecond)
	}
	d.Close()
	if err := <-answered; !errors.Is(err, blockdev.ErrClosed) {
		t.Errorf("answered with %v", err)
	}
}

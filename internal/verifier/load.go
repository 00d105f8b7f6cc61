package verifier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"blkd/blockdev"
)

// Config says what a load does.
type Config struct {
	Device blockdev.Device // read and written; the load does not close it
	First  int64           // number of its first block; a block is blockdev.BlockSize bytes
	Blocks int64           // how many it uses, at least Depth; they read as zeros at first
	Depth  int             // requests in flight, besides flushes
	// ReadPercent is how many of the requests are reads, 0 to 100.
	ReadPercent int
	// FlushEvery is the pause between flushes. 0: there are none.
	FlushEvery time.Duration
	// Pause is between an answer and the next request in its place.
	Pause time.Duration
	// Latency is told how long each acknowledged write took, by any goroutine. It may
	// be nil.
	Latency func(time.Duration)
}

// Load is requests in flight, until Stop. Its methods are safe for concurrent use.
type Load struct {
	cfg     Config
	content content
	blocks  []block
	ctx     context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup

	writes, reads, flushes atomic.Int64

	mu      sync.Mutex
	err     error
	last    time.Time // of the last acknowledged write
	longest Gap       // since Mark
	sent    time.Time // when the latest sent one of the acknowledged writes was sent
	acked   chan struct{}
}

// block is what is known of one block. A version is asked for, then acknowledged,
// then durable.
type block struct{ asked, acked, durable atomic.Uint64 }

// Counts is how many requests were acknowledged.
type Counts struct{ Writes, Reads, Flushes int64 }

// Gap is a time between two acknowledgements of writes.
type Gap struct{ From, To time.Time }

// Length is how long it is.
func (g Gap) Length() time.Duration { return g.To.Sub(g.From) }

// Start starts a load.
func Start(cfg Config) *Load {
	l := &Load{cfg: cfg, content: content{rand.Uint64()}, blocks: make([]block, cfg.Blocks), last: time.Now(), acked: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	for i := range cfg.Depth {
		l.work.Go(func() { l.run(int64(i)) })
	}
	if cfg.FlushEvery > 0 {
		l.work.Go(l.flush)
	}
	return l
}

// Stop waits for what is in flight. The error tells what was refused or wrong; each
// place in the queue ends with its first error.
func (l *Load) Stop() error {
	l.cancel()
	l.work.Wait()
	return l.Err()
}

// Err is what was refused or wrong up to now.
func (l *Load) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Counts is what was acknowledged up to now.
func (l *Load) Counts() Counts { return Counts{l.writes.Load(), l.reads.Load(), l.flushes.Load()} }

// Mark forgets the gaps before now.
func (l *Load) Mark() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.longest = Gap{}
}

// Longest is the longest gap that ended since Mark.
func (l *Load) Longest() Gap {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.longest
}

// Acknowledged waits until a write is acknowledged that was sent after a moment.
func (l *Load) Acknowledged(ctx context.Context, after time.Time) error {
	for {
		l.mu.Lock()
		sent, acked, err := l.sent, l.acked, l.err
		l.mu.Unlock()
		if err != nil || sent.After(after) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no write is acknowledged: %w", ctx.Err())
		case <-acked:
		}
	}
}

// run is one place in the queue. Of every Depth blocks one is its own, so that no
// block has two requests in flight.
func (l *Load) run(own int64) {
	p, scratch := make([]byte, blockdev.BlockSize), make([]byte, blockdev.BlockSize)
	depth := int64(l.cfg.Depth)
	mine := (l.cfg.Blocks - own + depth - 1) / depth
	for l.ctx.Err() == nil {
		i := own + depth*rand.Int64N(mine)
		var err error
		if rand.IntN(100) < l.cfg.ReadPercent {
			err = l.read(i, p, scratch)
		} else {
			err = l.write(i, p)
		}
		if err != nil {
			l.fail(err)
			return
		}
		if l.cfg.Pause > 0 {
			select {
			case <-l.ctx.Done():
			case <-time.After(l.cfg.Pause):
			}
		}
	}
}

func (l *Load) write(i int64, p []byte) error {
	b, n := &l.blocks[i], l.cfg.First+i
	version := b.asked.Load() + 1
	b.asked.Store(version)
	l.content.fill(p, n, version)
	sent := time.Now()
	if err := blockdev.WriteAt(l.cfg.Device, p, n*blockdev.BlockSize, 0); err != nil {
		return fmt.Errorf("write of block %d: %w", n, err)
	}
	if l.cfg.Latency != nil {
		l.cfg.Latency(time.Since(sent))
	}
	b.acked.Store(version)
	l.writes.Add(1)
	l.acknowledge(sent)
	return nil
}

func (l *Load) acknowledge(sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if g := (Gap{l.last, now}); g.Length() > l.longest.Length() {
		l.longest = g
	}
	l.last = now
	if sent.After(l.sent) {
		l.sent = sent
	}
	close(l.acked)
	l.acked = make(chan struct{})
}

func (l *Load) read(i int64, p, scratch []byte) error {
	n := l.cfg.First + i
	if err := blockdev.ReadAt(l.cfg.Device, p, n*blockdev.BlockSize); err != nil {
		return fmt.Errorf("read of block %d: %w", n, err)
	}
	version, err := l.content.version(p, scratch, n)
	if err != nil {
		return err
	}
	if want := l.blocks[i].acked.Load(); version != want {
		return fmt.Errorf("read of block %d: version %d was acknowledged, and it holds version %d", n, want, version)
	}
	l.reads.Add(1)
	return nil
}

// flush makes what is acknowledged durable, again and again.
func (l *Load) flush() {
	before := make([]uint64, len(l.blocks))
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-time.After(l.cfg.FlushEvery):
		}
		for i := range l.blocks {
			before[i] = l.blocks[i].acked.Load()
		}
		if err := blockdev.Flush(l.cfg.Device); err != nil {
			l.fail(fmt.Errorf("flush: %w", err))
			return
		}
		for i, version := range before {
			l.blocks[i].durable.Store(version)
		}
		l.flushes.Add(1)
	}
}

func (l *Load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, err)
	close(l.acked)
	l.acked = make(chan struct{})
}

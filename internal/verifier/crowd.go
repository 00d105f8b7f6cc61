package verifier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blkd/blockdev"
	"blkd/internal/history"
	"blkd/metadata/metapb"
)

// CrowdConfig says what a crowd does.
type CrowdConfig struct {
	// Dial connects each client to the volume: one by one, and again whenever its
	// connection breaks. Where a client connects to never changes.
	Dial []func(context.Context) (Connection, error)
	// First is the number of the first block, and Blocks how many are used; they
	// read as zeros at first.
	First, Blocks int64
	// Depth is how many requests each client has in flight. Every second place only
	// reads, and blocks that nobody writes at the moment: where writes wait, what does
	// not wait for them is still asked for.
	Depth       int
	ReadPercent int // of the requests in the other places, 0 to 100
	// Shared has all clients write all blocks, at the same time too. Otherwise each
	// block has one client that writes it, one write at a time, as volumes that are
	// not for cluster file systems are used; all clients read it.
	Shared bool
	// Pause is between an answer and the next request in its place.
	Pause time.Duration
	// Acknowledged is told of each acknowledged write, by any goroutine. It may be nil.
	Acknowledged func(client int, sent time.Time)
}

// Connection is a device that a client has for itself.
type Connection interface {
	blockdev.Device
	Close() error
}

// Crowd is clients that use the same few blocks of a volume, and record
// what they ask and are told. A client whose connection breaks does not know what
// became of its requests, and connects again. Its methods are safe for concurrent use.
type Crowd struct {
	cfg     CrowdConfig
	content content
	seen    *history.Recorder
	values  atomic.Uint64
	ctx     context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup
	members []*member
	busy    []atomic.Bool // by block: it is being written

	mu    sync.Mutex
	wrong error
	lost  []openWrite // writes that were abandoned, and when
}

// openWrite is a write without an answer, and what is known of when it may have
// taken effect.
type openWrite struct {
	client int
	o      *history.Operation
	since  time.Time
	// generation is one that was recorded after the write was given up; 0: none is
	// known yet.
	generation uint64
}

// member is one client.
type member struct {
	acks     atomic.Int64
	errors   atomic.Int64 // connections that broke
	lastSent atomic.Int64 // when the latest sent one of the acknowledged writes was sent, ns of Unix
}

// StartCrowd starts clients.
func StartCrowd(cfg CrowdConfig) *Crowd {
	c := &Crowd{cfg: cfg, content: content{rand.Uint64()}, seen: history.NewRecorder(nil), busy: make([]atomic.Bool, cfg.Blocks)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for range cfg.Dial {
		c.members = append(c.members, &member{})
	}
	for i := range c.members {
		c.work.Go(func() { c.live(i) })
	}
	return c
}

// Stop ends the clients. It waits until what is in flight is answered, or ctx ends.
func (c *Crowd) Stop(ctx context.Context) error {
	c.cancel()
	ended := make(chan struct{})
	go func() { c.work.Wait(); close(ended) }()
	select {
	case <-ended:
		return c.Err()
	case <-ctx.Done():
		return fmt.Errorf("requests have no answer: %w", ctx.Err())
	}
}

// Err is what was read and cannot have been written, up to now.
func (c *Crowd) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wrong
}

// History is what the clients asked and were told.
func (c *Crowd) History() *history.Recorder { return c.seen }

// Writes is how many writes of a client were acknowledged, and how often its
// connection broke.
func (c *Crowd) Writes(client int) (acknowledged, broken int64) {
	m := c.members[client]
	return m.acks.Load(), m.errors.Load()
}

// LastSent is when the latest sent one of a client's acknowledged writes was sent.
func (c *Crowd) LastSent(client int) time.Time {
	return time.Unix(0, c.members[client].lastSent.Load())
}

// Follow tells the history when generations serve, until ctx ends: ask returns the
// records of the volume, as a quorum has them at a moment after it was called.
func (c *Crowd) Follow(ctx context.Context, ask func(context.Context) (*metapb.History, error)) {
	for ctx.Err() == nil {
		began := time.Now()
		if h, err := ask(ctx); err == nil {
			c.served(began, h)
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// served takes in which generation was recorded after a moment, and which serves. A
// write that was given up before can take effect in no generation after the recorded
// one.
func (c *Crowd) served(began time.Time, h *metapb.History) {
	recorded, serves := uint64(0), uint64(0)
	for _, e := range h.Entries {
		recorded = max(recorded, e.Generation)
		if e.Certificate != nil {
			serves = max(serves, e.Generation)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = slices.DeleteFunc(c.lost, func(w openWrite) bool {
		if w.generation == 0 || serves <= w.generation {
			return false
		}
		c.seen.Expire(w.o)
		return true
	})
	for i := range c.lost {
		if w := &c.lost[i]; w.generation == 0 && w.since.Before(began) {
			w.generation = recorded
		}
	}
}

// live is one client: it connects, works until its connection breaks, and connects
// again.
func (c *Crowd) live(client int) {
	for c.ctx.Err() == nil {
		dev, err := c.cfg.Dial[client](c.ctx)
		if err != nil {
			select {
			case <-c.ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		c.resumed(client)
		var work sync.WaitGroup
		var broken atomic.Bool
		for place := range c.cfg.Depth {
			work.Go(func() {
				for c.ctx.Err() == nil && !broken.Load() {
					if err := c.request(client, dev, place%2 == 0); err != nil {
						broken.Store(true)
						dev.Close() //nolint:errcheck // it is broken: the others shall not wait
					}
				}
			})
		}
		work.Wait()
		dev.Close() //nolint:errcheck // nothing is in flight
		if broken.Load() {
			c.members[client].errors.Add(1)
		}
	}
}

// resumed tells the history that a client is admitted again: nothing that it asked for
// before acts any more.
func (c *Crowd) resumed(client int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = slices.DeleteFunc(c.lost, func(w openWrite) bool {
		if w.client != client {
			return false
		}
		c.seen.Expire(w.o)
		return true
	})
}

// request does one request and records it.
func (c *Crowd) request(client int, dev blockdev.Device, writes bool) error {
	block := rand.Int64N(c.cfg.Blocks)
	for range 10 {
		if writes || !c.busy[block].Load() {
			break
		}
		block = rand.Int64N(c.cfg.Blocks)
	}
	p := make([]byte, blockdev.BlockSize)
	var err error
	if writes && rand.IntN(100) >= c.cfg.ReadPercent && c.claim(client, block) {
		err = c.write(client, dev, c.cfg.First+block, p)
		c.busy[block].Store(false)
	} else {
		err = c.read(client, dev, c.cfg.First+block, p)
	}
	if err == nil && c.cfg.Pause > 0 {
		select {
		case <-c.ctx.Done():
		case <-time.After(c.cfg.Pause):
		}
	}
	return err
}

// claim tells whether a client may write a block now.
func (c *Crowd) claim(client int, block int64) bool {
	return c.cfg.Shared || int(block)%len(c.members) == client && c.busy[block].CompareAndSwap(false, true)
}

func (c *Crowd) write(client int, dev blockdev.Device, block int64, p []byte) error {
	value := c.values.Add(1)
	c.content.fill(p, block, value)
	sent := time.Now()
	o := c.seen.Write(client, block, value)
	if err := blockdev.WriteAt(dev, p, block*blockdev.BlockSize, 0); err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.lost = append(c.lost, openWrite{client: client, o: o, since: time.Now()})
		return err
	}
	c.seen.Written(o)
	if c.cfg.Acknowledged != nil {
		c.cfg.Acknowledged(client, sent)
	}
	m := c.members[client]
	m.acks.Add(1)
	for {
		last := m.lastSent.Load()
		if sent.UnixNano() <= last || m.lastSent.CompareAndSwap(last, sent.UnixNano()) {
			return nil
		}
	}
}

func (c *Crowd) read(client int, dev blockdev.Device, block int64, p []byte) error {
	o := c.seen.Read(client, block)
	if err := blockdev.ReadAt(dev, p, block*blockdev.BlockSize); err != nil {
		return err
	}
	value, err := c.content.version(p, make([]byte, blockdev.BlockSize), block)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.wrong = errors.Join(c.wrong, fmt.Errorf("client %d: %w", client, err))
		return nil
	}
	c.seen.Returned(o, value)
	return nil
}

// Check reads every block once more, from each of these devices, and tells whether
// the history of each is strictly linearizable. The crowd has been stopped.
func (c *Crowd) Check(devices ...blockdev.Device) error {
	p := make([]byte, blockdev.BlockSize)
	for i, dev := range devices {
		for block := c.cfg.First; block < c.cfg.First+c.cfg.Blocks; block++ {
			if err := c.read(len(c.members)+i, dev, block, p); err != nil {
				return fmt.Errorf("read of block %d: %w", block, err)
			}
		}
	}
	return errors.Join(c.Err(), c.seen.Check())
}

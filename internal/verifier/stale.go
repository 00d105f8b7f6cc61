package verifier

import (
	"context"
	"fmt"
	"math/rand/v2"

	"blkd/blockdev"
)

// Stale is a client of a primary that is going to stand still. It is for one
// goroutine, and used in the order of its methods.
type Stale struct {
	dev     blockdev.Device
	content content
	first   int64
	count   int64 // of writes, and of reads: the first count blocks are for writes
	sent    []*blockdev.Request
	answers chan *blockdev.Request
}

// The versions of its blocks.
const (
	staleBefore = 1 // while the primary was well
	staleLate   = 2 // asked of it while it stood still
	staleAfter  = 3 // written through the next primary
)

// Refused is how the requests ended that a primary that stood still found when it
// woke up.
type Refused struct {
	Writes, Reads int // that were sent
	// Accepted are the writes that were acknowledged, or that the volume holds.
	Accepted int
	// Served are the reads that were answered with what had been replaced.
	Served int
}

// NewStale writes 2 × count blocks, from the block first on, through the primary.
func NewStale(dev blockdev.Device, first, count int64) (*Stale, error) {
	s := &Stale{dev: dev, content: content{rand.Uint64()}, first: first, count: count, answers: make(chan *blockdev.Request, 2*count)}
	return s, s.write(dev, staleBefore, first, 2*count)
}

func (s *Stale) write(dev blockdev.Device, version uint64, first, count int64) error {
	p := make([]byte, blockdev.BlockSize)
	for n := first; n < first+count; n++ {
		s.content.fill(p, n, version)
		if err := blockdev.WriteAt(dev, p, n*blockdev.BlockSize, 0); err != nil {
			return fmt.Errorf("write of block %d: %w", n, err)
		}
	}
	return nil
}

// Send sends writes of half of the blocks, and reads of the others, to the primary,
// which stands still, and does not wait.
func (s *Stale) Send() {
	for n := s.first; n < s.first+2*s.count; n++ {
		r := &blockdev.Request{Op: blockdev.OpRead, Off: n * blockdev.BlockSize, Len: blockdev.BlockSize,
			Data: make([]byte, blockdev.BlockSize), Done: func(r *blockdev.Request) { s.answers <- r }}
		if n < s.first+s.count {
			r.Op = blockdev.OpWrite
			s.content.fill(r.Data, n, staleLate)
		}
		s.sent = append(s.sent, r)
	}
	go s.dev.Submit(s.sent) // it waits when the socket is full, which nobody empties
}

// Replace writes the blocks that the other one reads, through the next primary.
func (s *Stale) Replace(dev blockdev.Device) error {
	return s.write(dev, staleAfter, s.first+s.count, s.count)
}

// Answers waits, when the old primary is awake again, until each request has an
// answer, and then looks into the volume for those that should not have been granted.
func (s *Stale) Answers(ctx context.Context, dev blockdev.Device) (Refused, error) {
	r := Refused{Writes: int(s.count), Reads: int(s.count)}
	granted := map[int64]bool{}
	scratch := make([]byte, blockdev.BlockSize)
	for range s.sent {
		select {
		case q := <-s.answers:
			n := q.Off / blockdev.BlockSize
			switch version, err := s.content.version(q.Data, scratch, n); {
			case q.Err != nil:
			case q.Op == blockdev.OpWrite:
				granted[n] = true
			case err != nil || version != staleAfter:
				r.Served++
			}
		case <-ctx.Done():
			return r, fmt.Errorf("requests to the primary that stood still have no answer: %w", ctx.Err())
		}
	}
	err := s.held(dev, granted)
	r.Accepted = len(granted)
	return r, err
}

// held adds the late writes that a device holds.
func (s *Stale) held(dev blockdev.Device, granted map[int64]bool) error {
	p, scratch := make([]byte, blockdev.BlockSize), make([]byte, blockdev.BlockSize)
	for n := s.first; n < s.first+s.count; n++ {
		if err := blockdev.ReadAt(dev, p, n*blockdev.BlockSize); err != nil {
			return fmt.Errorf("read of block %d: %w", n, err)
		}
		version, err := s.content.version(p, scratch, n)
		if err != nil {
			return err
		}
		if version != staleBefore {
			granted[n] = true
		}
	}
	return nil
}

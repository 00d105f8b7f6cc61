package blockdev

import (
	"errors"
	"sync"

	"blkd/internal/mutant"
)

// flusher answers flushes and FUA writes. All that wait when a sync begins share
// it (group commit).
type flusher struct {
	mu      sync.Mutex
	waiting []*Request
	wake    chan struct{}
	closed  bool // nobody answers any more
}

// flushLater finishes r when everything done so far is durable.
func (s *Store) flushLater(r *Request) {
	s.counters.flushes.Add(1)
	if s.durable.Load() == s.log.written.Load() && !s.imageDirty.Load() {
		r.Finish(s.failed())
		return
	}
	s.flusher.mu.Lock()
	if s.flusher.closed {
		s.flusher.mu.Unlock()
		r.Finish(ErrClosed)
		return
	}
	s.flusher.waiting = append(s.flusher.waiting, r)
	s.flusher.mu.Unlock()
	if s.flusher.wake != nil {
		select {
		case s.flusher.wake <- struct{}{}:
		default:
		}
	}
}

// answerFlushes syncs once and answers every flush that waited before.
func (s *Store) answerFlushes() {
	s.flusher.mu.Lock()
	waiting := s.flusher.waiting
	s.flusher.waiting = nil
	s.flusher.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	err := s.Sync()
	for _, r := range waiting {
		r.Finish(err)
	}
}

// Sync makes everything that was appended before durable, then answers the
// flushes that waited for it. A failure is final: the store has failed.
func (s *Store) Sync() error {
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	if err := s.failed(); err != nil {
		return err
	}
	seq, target := s.hist.end(), s.log.written.Load()
	image := s.imageDirty.Swap(false)
	if target == s.durable.Load() && !image {
		s.durableSeq.Store(uint64(seq))
		return nil
	}
	s.counters.syncs.Add(1)
	if err := s.syncFiles(image); err != nil {
		return s.fail(err)
	}
	s.durable.Store(target)
	s.durableSeq.Store(uint64(seq))
	return nil
}

// Durable is the position up to which the entries of a replica's log survive
// power loss. Right after it was opened that is all of them; Sync raises it to
// what was the last one when it was called.
func (s *Store) Durable() Seq { return Seq(s.durableSeq.Load()) }

// syncFiles syncs the log, and the image beside it if asked.
func (s *Store) syncFiles(image bool) error {
	if mutant.On(mutant.StoreSkipLogSync) {
		return nil
	}
	if !image || mutant.On(mutant.StoreSkipImageSync) {
		return s.log.f.Sync()
	}
	if s.o.Manual { // one after the other: seeded runs repeat
		return errors.Join(s.image.Sync(), s.log.f.Sync())
	}
	done := make(chan error, 1)
	go func() { done <- s.image.Sync() }()
	err := s.log.f.Sync()
	return errors.Join(<-done, err)
}

// runFlusher is the goroutine that answers flushes.
func (s *Store) runFlusher() {
	for {
		select {
		case <-s.flusher.wake:
			s.answerFlushes()
		case <-s.stop:
			s.closeFlusher()
			return
		}
	}
}

// closeFlusher answers what waits and refuses what comes later.
func (s *Store) closeFlusher() {
	s.flusher.mu.Lock()
	s.flusher.closed = true
	s.flusher.mu.Unlock()
	s.answerFlushes()
}

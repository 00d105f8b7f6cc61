package metadata

import (
	"context"
	"sync/atomic"

	"blkd/internal/mutant"
)

// readBatch is the reads that wait for one answer of the leader.
type readBatch struct {
	waiting atomic.Int64 // callers that have not given up
	done    chan struct{}
	ids     []uint64 // of the attempts; the answer to any of them will do
	age     int      // ticks since the last attempt
}

// readWaits are the batches that are not answered, by the ids of their attempts.
type readWaits struct {
	byID  map[uint64]*readBatch
	list  []*readBatch // each once
	last  uint64       // id given
	again bool         // ask again for all: the leader is another one
}

func newReadWaits() readWaits { return readWaits{byID: make(map[uint64]*readBatch)} }

func (w *readWaits) answer(ids []uint64) {
	for _, id := range ids {
		if b := w.byID[id]; b != nil {
			close(b.done)
			w.forget(b)
		}
	}
}

// forget drops a batch.
func (w *readWaits) forget(b *readBatch) {
	for _, id := range b.ids {
		delete(w.byID, id)
	}
	keep := w.list[:0]
	for _, other := range w.list {
		if other != b {
			keep = append(keep, other)
		}
	}
	w.list = keep
}

// ReadIndex waits until the state that View shows is at least as new as every
// command that was answered, by any member, before this call. It works on every
// member, and needs a leader and a majority: without them it waits until ctx ends.
func (s *Server) ReadIndex(ctx context.Context) error {
	if mutant.On(mutant.QuorumStaleRead) {
		return nil
	}
	var b *readBatch
	s.inbox.put(func(n *inboxItems) {
		if n.reads == nil {
			n.reads = &readBatch{done: make(chan struct{})}
		}
		b = n.reads
		b.waiting.Add(1)
	})
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		b.waiting.Add(-1)
		return context.Cause(ctx)
	case <-s.done:
		return s.err()
	}
}

// read asks the leader on behalf of a new batch, and again for those whose request
// or answer must have got lost.
func (s *Server) read(fresh *readBatch, tick bool) error {
	w := &s.readers
	if fresh != nil {
		w.list = append(w.list, fresh)
		fresh.age = s.config.ElectionTick
	}
	again := w.again && s.lead != 0
	for _, b := range append([]*readBatch(nil), w.list...) {
		if b.waiting.Load() == 0 {
			w.forget(b)
			continue
		}
		if tick {
			b.age++
		}
		if s.lead == 0 || (b.age < s.config.ElectionTick && !again) {
			continue
		}
		w.last++
		b.age, b.ids, w.byID[w.last] = 0, append(b.ids, w.last), b
		if err := s.core.ReadIndex(w.last); err != nil {
			return err
		}
	}
	w.again = w.again && !again
	return nil
}

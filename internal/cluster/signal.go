package cluster

import (
	"math/rand/v2"
	"sync"
	"time"
)

// signal wakes everybody who waits for a change.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed at the next fire.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

// fire wakes those who wait.
func (s *signal) fire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// backoff is a pause that doubles from least to most, with jitter of half of it,
// so that nodes that failed together do not come back together.
type backoff struct {
	least, most time.Duration
	pause       time.Duration
}

func (b *backoff) next() time.Duration {
	b.pause = min(max(b.least, 2*b.pause), b.most)
	return b.pause/2 + time.Duration(rand.Int64N(int64(b.pause/2)+1))
}

func (b *backoff) reset() { b.pause = 0 }

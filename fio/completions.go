package fio

import "sync"

// completions hands finished slots from the goroutines that call Done to the one that
// submits.
type completions struct {
	mu    sync.Mutex
	slots []*slot
	ready chan struct{} // holds a token while slots may be non-empty
}

func (c *completions) init(depth int) {
	c.slots = make([]*slot, 0, depth)
	c.ready = make(chan struct{}, 1)
}

// push adds a finished slot; it never blocks.
func (c *completions) push(s *slot) {
	c.mu.Lock()
	c.slots = append(c.slots, s)
	c.mu.Unlock()
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// take waits until there is a finished slot and appends all of them to into.
func (c *completions) take(into []*slot) []*slot {
	for {
		c.mu.Lock()
		into = append(into, c.slots...)
		c.slots = c.slots[:0]
		c.mu.Unlock()
		if len(into) > 0 {
			return into
		}
		<-c.ready
	}
}

package replication

import (
	"slices"

	"blkd/internal/history"
)

// expire ends writes that were under way: they have happened, or never will.
func (c *clients) expire(over func(*op) bool) {
	c.open = slices.DeleteFunc(c.open, func(o *op) bool {
		if !over(o) {
			return false
		}
		for _, w := range o.writes {
			c.seen.Expire(w)
		}
		return true
	})
}

// checkHistory checks what clients were told up to now: strict linearizability (I7).
func (s *sim) checkHistory() {
	if err := s.seen.Check(); err != nil {
		s.fatalf("what clients were told cannot be: %v", err)
	}
}

// recount begins a history of blocks that hold these values. What was under way
// returns what they hold from now on, or never takes effect.
func (s *sim) recount(values map[int64]uint64) {
	s.checkHistory()
	s.seen, s.open = history.NewRecorder(values), nil
	for _, n := range s.nodes {
		for _, o := range n.reqs {
			if o.read != nil {
				o.read = s.seen.Read(n.id, o.block)
			}
			o.ended = o.writes != nil
		}
	}
}

// begin tells the history of a write of a block.
func (s *sim) begin(n *simNode, o *op, block int64, p []byte) {
	if len(o.writes) == 0 {
		s.open = append(s.open, o)
	}
	s.nextTag++
	putTag(p, s.nextTag)
	o.writes = append(o.writes, s.seen.Write(n.id, block, s.nextTag))
}

package replication

import "blkd/blockdev"

// client begins an operation at a node that thinks it serves, or at any.
func (s *sim) client() {
	n := s.nodes[s.rnd.IntN(len(s.nodes))]
	if n.core == nil || n.paused > s.now || n.core.role == Secondary || len(n.reqs) > 12 {
		return
	}
	if s.rnd.IntN(8) == 0 {
		r := &Request{Op: blockdev.OpFlush}
		n.reqs[r] = &op{r: r, block: -1}
		n.core.Submit(s.clock(n), []*Request{r})
		s.effects(n)
		return
	}
	var batch []*Request
	for range 1 + s.rnd.IntN(3) {
		b := s.rnd.Int64N(6)
		h := s.history(b)
		o := &op{block: b, gen: n.core.gen, begun: h.version}
		r := &Request{Op: blockdev.OpRead, Off: b * blockSize, Len: blockSize, Data: make([]byte, blockSize)}
		if s.rnd.IntN(2) == 0 {
			if len(h.open) >= 6 {
				continue
			}
			s.nextTag++
			r.Op, o.write = blockdev.OpWrite, s.nextTag
			r.FUA = s.rnd.IntN(10) == 0
			putTag(r.Data, o.write)
			h.begin(o.write, o.gen)
		} else {
			o.begun = h.beginRead()
		}
		o.r = r
		n.reqs[r] = o
		batch = append(batch, r)
		s.ops++
	}
	n.core.Submit(s.clock(n), batch)
	s.effects(n)
}

func (s *sim) done(n *simNode, r *Request) {
	o := n.reqs[r]
	if o == nil {
		s.fatalf("%s answers a request twice, or one of an earlier run", n.name)
	}
	delete(n.reqs, r)
	if o.block < 0 {
		return
	}
	h := s.history(o.block)
	if r.Err != nil {
		if o.write == 0 {
			h.endRead(o.begun)
		}
		return // unknown: a write may or may not happen
	}
	s.answered++
	if o.write != 0 {
		s.logf("%s answers write %d of block %d", n.name, o.write, o.block)
		if !h.ack(o.write) {
			s.fatalf("%s of generation %d answers write %d of block %d, which cannot have taken effect", n.name, n.core.gen, o.write, o.block)
		}
		return
	}
	s.reads++
	if v := tagOf(r.Data); !h.read(o.begun, v) {
		s.fatalf("%s of generation %d reads %d from block %d; possible: %s", n.name, n.core.gen, v, o.block, h)
	}
}

func (s *sim) history(b int64) *history {
	h := s.blocks[b]
	if h == nil {
		h = newHistory()
		s.blocks[b] = h
	}
	return h
}

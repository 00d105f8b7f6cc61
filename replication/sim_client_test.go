package replication

import (
	"errors"

	"blkd/blockdev"
)

// clients is what the clients of the simulation know.
type clients struct {
	blocks   map[int64]*history
	nextTag  uint64
	attached uint64 // the highest attachment whose takeover was reported as done

	answered, reads, flushes, takeovers int
}

func (c *clients) init() { c.blocks, c.attached = map[int64]*history{}, 1 }

// op is a client's operation.
type op struct {
	block      int64    // the first
	writes     []uint64 // tags, one a block
	read       int      // of the block's history; 0: it is no read
	attachment uint64
}

// client begins operations at a node that thinks it serves: of the newest client,
// or of one that does not know yet that the volume was taken over.
func (s *sim) client() {
	var servers []*simNode
	for _, n := range s.nodes {
		if s.awake(n) && n.core.role != Secondary && len(n.reqs) <= 12 {
			servers = append(servers, n)
		}
	}
	if len(servers) == 0 {
		return
	}
	n := servers[s.rnd.IntN(len(servers))]
	attachment := s.rec.Attachment
	if attachment > 1 && s.rnd.IntN(8) == 0 {
		attachment--
	}
	var batch []*Request
	for range 1 + s.rnd.IntN(3) {
		r, o := s.request(n, attachment)
		if r == nil {
			continue
		}
		n.reqs[r] = o
		batch = append(batch, r)
	}
	n.core.Submit(s.clock(n), batch)
	s.effects(n)
}

// request makes a request; nil if too many writes of a block are open.
func (s *sim) request(n *simNode, attachment uint64) (*Request, *op) {
	b := s.rnd.Int64N(6)
	r := &Request{Op: blockdev.OpWrite, Off: b * blockSize, FUA: s.rnd.IntN(10) == 0, Attachment: attachment}
	o := &op{block: b, attachment: attachment}
	switch x := s.rnd.IntN(16); {
	case x == 0:
		r.Op, r.FUA = blockdev.OpFlush, false
	case x == 1: // of a part of a block, which has to be read for that
		r.Off += 1024
		r.Data = make([]byte, 512)
	case x < 9:
		r.Op, r.FUA = blockdev.OpRead, false
		r.Data = make([]byte, blockSize)
		o.read = s.history(b).beginRead()
	default:
		k := 1 + s.rnd.Int64N(3)
		for i := range k {
			if s.history(b + i).busy() {
				return nil, nil
			}
		}
		r.Data = make([]byte, k*blockSize)
		for i := range k {
			s.nextTag++
			o.writes = append(o.writes, s.nextTag)
			putTag(r.Data[i*blockSize:], s.nextTag)
			s.history(b + i).begin(openWrite{tag: s.nextTag, gen: n.core.gen, attachment: attachment})
		}
	}
	r.Len = int64(len(r.Data))
	return r, o
}

// unanswered forgets the requests of a node that is gone.
func (s *sim) unanswered(n *simNode) {
	for _, o := range n.reqs {
		if o.read != 0 {
			s.history(o.block).endRead(o.read)
		}
	}
	n.reqs = map[*Request]*op{}
}

func (s *sim) done(n *simNode, r *Request) {
	o := n.reqs[r]
	if o == nil {
		s.fatalf("%s answers a request twice, or one of an earlier run", n.name)
	}
	delete(n.reqs, r)
	if r.Err != nil {
		s.failedRequest(n, r, o)
		return
	}
	s.answered++
	h := s.history(o.block)
	switch {
	case r.Op == blockdev.OpFlush:
		s.flushes++
		s.flushedTo(n, r.last)
	case o.read != 0:
		s.reads++
		if v := tagOf(r.Data); !h.read(o.read, v) {
			s.fatalf("%s of generation %d reads %d from block %d; possible: %s", n.name, n.core.gen, v, o.block, h)
		}
	default:
		s.logf("%s answers %v of block %d", n.name, o.writes, o.block)
		for i, tag := range o.writes {
			if !s.history(o.block + int64(i)).ack(tag) {
				s.fatalf("%s of generation %d answers write %d of block %d, which cannot have taken effect", n.name, n.core.gen, tag, o.block+int64(i))
			}
		}
		if r.FUA || s.rec.Durability == DurableWrite && n.core.gen == s.rec.Generation {
			s.flushedTo(n, r.last)
		}
	}
}

// failedRequest checks that a client is told no other errors than that it has to
// ask elsewhere, or that it has no right to ask any more. A write may have happened.
func (s *sim) failedRequest(n *simNode, r *Request, o *op) {
	if o.read != 0 {
		s.history(o.block).endRead(o.read)
	}
	var bad *blockdev.ChecksumError
	if errors.As(r.Err, &bad) {
		s.unmended++ // nobody else could be asked
		return
	}
	fenced := errors.Is(r.Err, ErrFenced) && o.attachment < s.rec.Attachment
	if !errors.Is(r.Err, ErrMoved) && !fenced {
		s.fatalf("%s answers a request with %v", n.name, r.Err)
	}
}

// checkTakeover does what reports a takeover as done: from then on nothing of the
// client before acts any more (I15).
func (s *sim) checkTakeover() {
	for _, n := range s.nodes {
		if n.core == nil || n.core.role != Primary || n.core.gen != s.rec.Generation {
			continue
		}
		if x := n.core.Status(); x.Settled && x.Attachment > s.attached {
			for _, f := range n.core.p.inflight.all() {
				if f.req.Attachment < x.Attachment {
					s.fatalf("the takeover by client %d is done, and a write of client %d is under way", x.Attachment, f.req.Attachment)
				}
			}
			s.attached = x.Attachment
			for _, h := range s.blocks {
				h.fence(s.attached)
			}
		}
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

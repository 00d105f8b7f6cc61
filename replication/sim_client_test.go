package replication

import (
	"errors"

	"blkd/blockdev"
	"blkd/internal/history"
)

// clients is what the clients of the simulation know.
type clients struct {
	seen     *history.Recorder // of all blocks, since a recovery
	open     []*op             // writes that may take effect at any time
	nextTag  uint64
	attached uint64 // the highest attachment whose takeover was reported as done

	answered, reads, flushes, takeovers int
}

func (c *clients) init() { c.seen, c.attached = history.NewRecorder(nil), 1 }

// op is a client's operation.
type op struct {
	block      int64                // the first
	writes     []*history.Operation // one a block
	read       *history.Operation   // nil: it is no read
	gen        Generation
	attachment uint64
	ended      bool // by a recovery: it may not be answered
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
		n.reqs[r] = o
		batch = append(batch, r)
	}
	n.core.Submit(s.clock(n), batch)
	s.effects(n)
}

// request makes a request.
func (s *sim) request(n *simNode, attachment uint64) (*Request, *op) {
	b := s.rnd.Int64N(6)
	if n.disk.size > simSize && s.rnd.IntN(4) == 0 {
		b = n.disk.size/blockSize - 3 // the end of a volume that has grown
	}
	r := &Request{Op: blockdev.OpWrite, Off: b * blockSize, FUA: s.rnd.IntN(10) == 0, Attachment: attachment}
	o := &op{block: b, gen: n.core.gen, attachment: attachment}
	switch x := s.rnd.IntN(16); {
	case x == 0:
		r.Op, r.FUA = blockdev.OpFlush, false
	case x == 1: // of a part of a block, which has to be read for that
		r.Off += 1024
		r.Data = make([]byte, 512)
	case x < 9:
		r.Op, r.FUA = blockdev.OpRead, false
		r.Data = make([]byte, blockSize)
		o.read = s.seen.Read(n.id, b)
	default:
		k := 1 + s.rnd.Int64N(3)
		r.Data = make([]byte, k*blockSize)
		for i := range k {
			s.begin(n, o, b+i, r.Data[i*blockSize:])
		}
	}
	r.Len = int64(len(r.Data))
	return r, o
}

// unanswered forgets the requests of a node that is gone.
func (s *sim) unanswered(n *simNode) { n.reqs = map[*Request]*op{} }

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
	switch {
	case r.Op == blockdev.OpFlush:
		s.flushes++
		s.flushedTo(n, r.last)
	case o.read != nil:
		s.reads++
		s.seen.Returned(o.read, tagOf(r.Data))
		s.logf("%s answers %v of block %d", n.name, o.read, o.block)
	case o.ended:
		s.fatalf("%s of generation %d answers a write of block %d that a recovery has ended", n.name, n.core.gen, o.block)
	default:
		s.logf("%s answers %v of block %d", n.name, o.writes, o.block)
		for _, w := range o.writes {
			s.seen.Written(w)
		}
		if r.FUA || s.rec.Durability == DurableWrite && n.core.gen == s.rec.Generation {
			s.flushedTo(n, r.last)
		}
	}
}

// failedRequest checks that a client is told no other errors than that it has to
// ask elsewhere, or that it has no right to ask any more. A write may have happened.
func (s *sim) failedRequest(n *simNode, r *Request, o *op) {
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
			s.expire(func(o *op) bool { return o.attachment < s.attached })
		}
	}
}

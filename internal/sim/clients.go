package sim

import (
	"errors"
	"math/rand/v2"
	"time"

	"blkd/blockdev"
	"blkd/internal/history"
	"blkd/replication"
)

const (
	hotBlocks  = 8  // writes, with the values of each recorded
	trimBlocks = 16 // from hotBlocks on: trims and zeroes too
)

// clients is what the clients of the simulation know.
type clients struct {
	draws    *rand.Rand
	pace     float64           // ms between two batches
	seen     *history.Recorder // of the hot blocks, since a recovery
	open     []*op             // writes that may take effect at any time
	nextTag  uint64
	attached uint64 // the highest attachment whose takeover was reported as done
}

func (c *clients) init(s *sim) {
	c.draws = rand.New(rand.NewPCG(s.rnd.Uint64(), 5))
	c.pace = []float64{1.5, 1.5, 5, 20}[c.draws.IntN(4)] * s.tempo
	c.seen, c.attached = history.NewRecorder(nil), s.rec.Attachment
	var next func()
	next = func() {
		if !s.idle {
			s.client()
		}
		s.at(s.now+instant(c.draws.ExpFloat64()*c.pace*float64(time.Millisecond)), nil, next)
	}
	s.at(0, nil, next)
}

// op is a client's operation.
type op struct {
	block      int64                // the first
	writes     []*history.Operation // one a hot block
	read       *history.Operation   // nil: it is no read of a hot block
	reads      bool
	since      int // reads: versions of the block before that were over when it began
	gen        replication.Generation
	attachment uint64
	ended      bool // by a recovery: it may not be answered
	gateway    *gateway
	passed     *passed // the gateway will send it again, if it has to; nil: nobody will
}

// client begins operations at a node that thinks it serves: of the newest client,
// or of one that does not know yet that the volume was taken over.
func (s *sim) client() {
	var servers []*node
	for _, n := range s.nodes[:s.data] {
		if s.awake(n) && len(n.reqs) <= 12 {
			if role, _ := n.core.Role(); role != replication.Secondary {
				servers = append(servers, n)
			}
		}
	}
	if len(servers) == 0 {
		return
	}
	n := servers[s.draws.IntN(len(servers))]
	attachment := s.rec.Attachment
	if attachment > 2 && s.draws.IntN(8) == 0 {
		attachment--
	}
	var batch []*replication.Request
	for range 1 + s.draws.IntN(3) {
		batch = append(batch, s.request(n, attachment))
	}
	n.core.Submit(s.clock(n), batch)
	s.effects(n)
}

// request makes a request.
func (s *sim) request(n *node, attachment uint64) *replication.Request {
	b := s.draws.Int64N(hotBlocks - 2)
	if end := n.disk.size / blockSize; end > volumeBlocks && s.draws.IntN(4) == 0 {
		b = end - 3 // of a volume that has grown
	}
	_, gen := n.core.Role()
	r := &replication.Request{Op: blockdev.OpWrite, Off: b * blockSize, FUA: s.draws.IntN(10) == 0, Attachment: attachment}
	o := &op{block: b, gen: gen, attachment: attachment}
	n.reqs[r] = o
	switch x := s.draws.IntN(18); {
	case x == 0:
		r.Op, r.FUA = blockdev.OpFlush, false
	case x == 1: // of a part of a block, which has to be read for that
		r.Off += 1024
		r.Data = make([]byte, 512)
	case x < 9:
		r.Op, r.FUA = blockdev.OpRead, false
		r.Data = make([]byte, blockSize)
		if s.draws.IntN(4) == 0 { // where trims are
			o.block = hotBlocks + s.draws.Int64N(trimBlocks)
			r.Off = o.block * blockSize
		}
		if s.code != nil && s.draws.IntN(4) == 0 {
			r.Map, r.Data, r.Len = make([]byte, 1), nil, blockSize
		}
		s.beginRead(n, o)
	case x < 11:
		if s.large() && s.draws.IntN(2) == 0 {
			o.block, r.Len = s.stripes(s.draws, hotBlocks, trimBlocks)
			r.Off, r.Data = o.block*blockSize, make([]byte, r.Len)
			s.nextTag++
			putTag(r.Data, s.nextTag)
			return r
		}
		o.block = hotBlocks + s.draws.Int64N(trimBlocks-3)
		r.Off, r.Len = o.block*blockSize, (1+s.draws.Int64N(3))*blockSize
		r.Op = []blockdev.Op{blockdev.OpTrim, blockdev.OpWriteZeroes, blockdev.OpWrite}[s.draws.IntN(3)]
		if r.Op == blockdev.OpWrite {
			r.Data = make([]byte, r.Len)
			s.nextTag++
			putTag(r.Data, s.nextTag)
		}
		return r
	default:
		k := 1 + s.draws.Int64N(3)
		if s.large() && s.draws.IntN(2) == 0 {
			b, k = s.stripes(s.draws, 0, hotBlocks)
			o.block, r.Off, k = b, b*blockSize, k/blockSize
		}
		r.Data = make([]byte, k*blockSize)
		for i := range k {
			s.begin(n, o, b+i, r.Data[i*blockSize:])
		}
	}
	r.Len = max(r.Len, int64(len(r.Data)))
	return r
}

// large tells whether writes of whole stripes do not pass through the log.
func (s *sim) large() bool { return s.code != nil && s.limits.LargeBytes > 0 }

// stripes draws a range of whole stripes out of n blocks from first on: its first block,
// and its length in bytes.
func (s *sim) stripes(rnd *rand.Rand, first, n int64) (block, length int64) {
	k := int64(s.code.K())
	at := rnd.Int64N(n / k)
	return first + at*k, (1 + rnd.Int64N(min(2, n/k-at))) * k * blockSize
}

func (s *sim) beginRead(n *node, o *op) {
	o.reads, o.since = true, len(s.versions[o.block])-1
	if o.block < hotBlocks || o.block >= hotBlocks+trimBlocks {
		o.read = s.seen.Read(n.id, o.block)
	}
}

// begin tells the history of a write of a block.
func (s *sim) begin(n *node, o *op, block int64, p []byte) {
	if len(o.writes) == 0 {
		s.open = append(s.open, o)
	}
	s.nextTag++
	putTag(p, s.nextTag)
	o.writes = append(o.writes, s.seen.Write(n.id, block, s.nextTag))
}

// unanswered forgets the requests of a node that is gone.
func (s *sim) unanswered(n *node) { clear(n.reqs) }

func (s *sim) done(n *node, r *replication.Request) {
	o := n.reqs[r]
	if o == nil {
		s.violate("answer", "%s answers a request twice, or one of an earlier run", n.name)
	}
	delete(n.reqs, r)
	if o.gateway != nil {
		s.answered(n, r, o)
		return
	}
	if r.Err != nil {
		s.failedRequest(n, r, o)
		return
	}
	s.note("answer", uint64(n.id), uint64(r.Op), uint64(r.Off), uint64(r.Last()))
	s.Answered++
	switch {
	case r.Op == blockdev.OpFlush:
		s.Flushes++
		s.flushedTo(n, r.Last())
		s.toldFlushed(n, r)
	case o.reads:
		s.Reads++
		s.toldRead(n)
		tag := uint64(0)
		switch {
		case r.Map == nil:
			tag = tagOf(r.Data)
		case r.Map[0] != 0:
			return // it may be data, and nothing else is said
		default:
			s.Holes++
		}
		if o.read != nil {
			s.seen.Returned(o.read, tag)
		}
		s.logf("%s answers that block %d is %d", n.name, o.block, tag)
		s.readBy(n, o, tag)
	case o.ended:
		s.violate("S8", "%s answers a write of block %d that a recovery has ended", n.name, o.block)
	default:
		s.logf("%s answers %v of block %d: %v", n.name, r.Op, o.block, o.writes)
		for _, w := range o.writes {
			s.seen.Written(w)
		}
		s.writtenBy(n, r)
	}
}

// failedRequest checks that a client is told no other errors than that it has to
// ask elsewhere, or that it has no right to ask any more. A write may have happened.
func (s *sim) failedRequest(n *node, r *replication.Request, o *op) {
	var bad *blockdev.ChecksumError
	if errors.As(r.Err, &bad) {
		s.Unmended++ // nobody else could be asked
		return
	}
	fenced := errors.Is(r.Err, replication.ErrFenced) && o.attachment < s.rec.Fenced
	if !errors.Is(r.Err, replication.ErrMoved) && !fenced {
		s.violate("L4", "%s answers a request with %v", n.name, r.Err)
	}
}

// expire ends writes that were under way: they have happened, or never will.
func (s *sim) expire(over func(*op) bool) {
	kept := s.open[:0]
	for _, o := range s.open {
		if !over(o) {
			kept = append(kept, o)
			continue
		}
		for _, w := range o.writes {
			s.seen.Expire(w)
		}
	}
	s.open = kept
}

// checkHistory checks what clients were told up to now.
func (s *sim) checkHistory() {
	if err := s.seen.Check(); err != nil {
		s.violate("I7", "what clients were told cannot be: %v", err)
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
			o.since = 0
			o.ended = o.writes != nil
		}
	}
}

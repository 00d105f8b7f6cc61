package sim

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"blkd/blockdev"
	"blkd/replication"
)

// gateway is a client that sends again what has no answer, and does not wait for
// others that write the same blocks: over another connection to the same primary, when
// nothing of the broken one is under way there any more, or to the primary of a later
// generation.
type gateway struct {
	id         uint64
	session    uint64
	op         uint64 // the last one begun in it
	attachment uint64
	pending    []*passed // without an answer, in their order

	place  *node // to which they were sent,
	inc    replication.Incarnation
	gen    replication.Generation
	broken bool // over a connection that is no more
}

// passed is a mutation that a gateway passes on.
type passed struct {
	*op
	request replication.Request
	sent    *replication.Request // nil: not over this connection
	times   int
}

// acted is a block that an operation has written.
type acted struct {
	client, session, op uint64
	block               int64
}

const (
	gateways    = 2
	gatewayOps  = 6   // under way at each
	gatewayPace = 4.0 // ms between looks
	gatewayID   = 100 // of the first one in histories
)

// openGateways makes the gateways of a seed that has some.
func (s *sim) openGateways() {
	if !s.shared || s.bare {
		return
	}
	for i := range gateways {
		g := &gateway{id: uint64(i + 1)}
		s.gateways = append(s.gateways, g)
		var next func()
		next = func() {
			s.pass(g)
			s.at(s.now+instant(s.passes.ExpFloat64()*gatewayPace*s.tempo*float64(time.Millisecond)), nil, next)
		}
		s.at(0, nil, next)
	}
}

// pass sends what has no answer to the primary, and begins something new.
func (s *sim) pass(g *gateway) {
	if g.attachment != s.rec.Attachment {
		s.beginSession(g)
	}
	if g.place != nil && s.passes.IntN(100) == 0 {
		g.broken = true
	}
	if !s.findPlace(g) {
		return
	}
	if !s.idle && len(g.pending) < gatewayOps && s.passes.IntN(3) == 0 {
		for range 1 + s.passes.IntN(3) {
			g.pending = append(g.pending, s.mutation(g))
		}
	}
	var batch []*replication.Request
	for _, p := range g.pending {
		if p.sent == nil {
			r := p.request
			p.sent, p.gen = &r, g.gen
			p.times++
			g.place.reqs[&r] = p.op
			batch = append(batch, &r)
		}
	}
	if len(batch) > 0 {
		g.place.core.Submit(s.clock(g.place), batch)
		s.effects(g.place)
	}
}

// beginSession gives up what has no answer.
func (s *sim) beginSession(g *gateway) {
	for _, p := range g.pending {
		p.passed = nil
	}
	g.session, g.op, g.attachment, g.pending, g.place = g.session+1, 0, s.rec.Attachment, nil, nil
}

// findPlace follows the primary.
func (s *sim) findPlace(g *gateway) bool {
	if n := g.place; n != nil && n.inc == g.inc && n.core != nil {
		if _, gen := n.core.Role(); gen == g.gen && !g.broken {
			return n.paused <= s.now
		}
	}
	for _, n := range s.nodes[:s.data] {
		if !s.awake(n) {
			continue
		}
		role, gen := n.core.Role()
		again := gen == g.gen && n == g.place && n.inc == g.inc
		if role == replication.Secondary || gen < g.gen || again && g.underWay() {
			continue
		}
		for _, p := range g.pending {
			p.sent = nil
		}
		g.place, g.inc, g.gen, g.broken = n, n.inc, gen, false
		return true
	}
	return false
}

// underWay tells whether the place has not ended all that was sent to it.
func (g *gateway) underWay() bool {
	return slices.ContainsFunc(g.pending, func(p *passed) bool { return p.sent != nil && g.place.reqs[p.sent] != nil })
}

// mutation draws one.
func (s *sim) mutation(g *gateway) *passed {
	g.op++
	block, n := s.passes.Int64N(hotBlocks-2), 1+s.passes.Int64N(3)
	whole := s.large() && s.passes.IntN(2) == 0
	if whole {
		block, n = s.stripes(s.passes, 0, hotBlocks)
		n /= blockSize
	}
	p := &passed{op: &op{block: block, attachment: g.attachment}, request: replication.Request{
		Op: blockdev.OpWrite, Off: block * blockSize, Len: n * blockSize, Attachment: g.attachment, FUA: s.passes.IntN(10) == 0,
		Origin: blockdev.Origin{Client: g.id, Session: g.session, Op: g.op},
	}}
	p.passed, p.gateway = p, g
	x := s.passes.IntN(8)
	if whole {
		x = 7
	}
	switch x {
	case 0: // of a part of blocks, which have to be read for that
		p.block = hotBlocks + s.passes.Int64N(trimBlocks-3)
		p.request.Off, p.request.Len = p.block*blockSize+1024, p.request.Len-512
		p.request.Data = make([]byte, p.request.Len)
	case 1:
		p.block = hotBlocks + s.passes.Int64N(trimBlocks-3)
		p.request.Off = p.block * blockSize
		p.request.Op = []blockdev.Op{blockdev.OpTrim, blockdev.OpWriteZeroes}[s.passes.IntN(2)]
	default:
		p.request.Data = make([]byte, p.request.Len)
		for i := range n {
			s.nextTag++
			putTag(p.request.Data[i*blockSize:], s.nextTag)
			p.writes = append(p.writes, s.seen.Write(gatewayID+int(g.id), block+i, s.nextTag))
		}
		s.open = append(s.open, p.op)
	}
	return p
}

// answered takes in what a place answers to a gateway.
func (s *sim) answered(n *node, r *replication.Request, o *op) {
	p, g := o.passed, o.gateway
	if p == nil || p.sent != r || g.broken {
		return // over a connection that is no more
	}
	switch {
	case errors.Is(r.Err, replication.ErrMoved):
		g.broken = true
		return
	case r.Err != nil:
		s.failedRequest(n, r, o)
	default:
		s.note("passed", g.id, g.session, r.Origin.Op, uint64(r.Last()))
		s.logf("%s answers operation %d.%d.%d: %v", n.name, g.id, g.session, r.Origin.Op, o.writes)
		s.Answered++
		if p.times > 1 {
			s.Repeated++
		}
		if o.ended {
			s.violate("S8", "%s answers a write of block %d that a recovery has ended", n.name, o.block)
		}
		s.checkActed(n, &p.request)
		for _, w := range o.writes {
			s.seen.Written(w)
		}
		s.writtenBy(n, r)
	}
	o.passed = nil
	g.pending = slices.DeleteFunc(g.pending, func(x *passed) bool { return x == p })
}

// checkActed checks that an operation that is answered has acted on all its blocks.
func (s *sim) checkActed(n *node, r *replication.Request) {
	for b := r.Off / blockSize; b*blockSize < r.Off+r.Len; b++ {
		if !s.acted[acted{r.Origin.Client, r.Origin.Session, r.Origin.Op, b}] {
			s.violate("once", "%s answers operation %+v, which has not written block %d", n.name, r.Origin, b)
		}
	}
}

// actedBy checks that no operation writes a block twice.
func (s *sim) actedBy(n *node, e *blockdev.Entry) {
	if e.Origin.Client == 0 {
		return
	}
	s.acts(e, func(block int64, _ uint64) {
		a := acted{e.Origin.Client, e.Origin.Session, e.Origin.Op, block}
		if s.acted[a] {
			s.violate("once", "%s commits entry %d of operation %+v, which has written block %d before", n.name, e.Seq, e.Origin, block)
		}
		s.acted[a] = true
	})
}

// checkSessions checks that members with the same log know the same operations.
func (s *sim) checkSessions(a, b *node) {
	_, last := a.disk.Last()
	if x, y := a.disk.Sessions(last).Append(nil), b.disk.Sessions(last).Append(nil); !slices.Equal(x, y) {
		s.violate("once", "%s and %s have everything up to %d, and do not know the same operations: %x, %x", a.name, b.name, last, x, y)
	}
}

// passing is what the simulation knows of gateways.
type passing struct {
	shared   bool // the seed has some
	passes   *rand.Rand
	gateways []*gateway
	acted    map[acted]bool
}

// shares makes it a seed with gateways, or not.
func (s *sim) shares(seed uint64) {
	s.shared, s.passes, s.acted = seed/8%2 == 0, rand.New(rand.NewPCG(seed, 7)), map[acted]bool{}
}

// forgetActed begins anew, after a recovery has lost some of the log.
func (s *sim) forgetActed() {
	clear(s.acted)
	for i := range s.committed {
		s.actedBy(s.nodes[0], &s.committed[i])
	}
	for _, g := range s.gateways {
		s.beginSession(g)
	}
}

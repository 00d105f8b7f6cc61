package replication

import (
	"fmt"
	"slices"
	"strings"

	"blkd/blockdev"
)

// checks are what the simulation knows and no node does.
type checks struct {
	committed []blockdev.Entry // everything ever committed, by seq from 1
	appended  map[Mark]appended
	flushed   Seq        // survives any power loss
	bound     Generation // highest generation that served
	begun     map[Generation]Incarnation
	round     int

	grown int64 // the largest size that was committed, bytes

	recoveries, shapes, evictions, resizes, mended, unmended, comparisons int
}

// appended is what an entry was when it was first appended (I11).
type appended struct {
	prev Generation
	kind blockdev.EntryKind
	off  int64
	tag  uint64
}

func (c *checks) init() {
	c.appended = map[Mark]appended{}
	c.begun = map[Generation]Incarnation{}
}

// role is told of every change of a role. Strict linearizability: what was not
// answered when a generation serves has happened by then, or never will.
func (s *sim) role(n *simNode, r Role, g Generation) {
	s.logf("%s is %s of generation %d", n.name, r, g)
	if r == Sealing {
		if by := s.begun[g]; by != 0 {
			s.fatalf("generation %d is begun by run %d of %s, after run %d (I1)", g, n.inc, n.name, by)
		}
		s.begun[g] = n.inc
	}
	if r != Primary || g <= s.bound {
		return
	}
	if n.disk.size < s.grown {
		s.fatalf("%s serves %d bytes, and the volume was made %d large", n.name, n.disk.size, s.grown)
	}
	s.bound = g
	s.expire(func(o *op) bool { return o.gen < g })
}

// certified checks that a certificate proves what it should (S4).
func (s *sim) certified(n *simNode, c *Certificate) {
	end := Mark{}
	for _, x := range c.Seals {
		if m := find(c.Members, x.Node); m == nil || m.Amnesiac {
			s.fatalf("%s certifies a seal of %s, which does not count", n.name, x.Node)
		}
		if x.End.Generation > end.Generation || x.End.Generation == end.Generation && x.End.Seq > end.Seq {
			end = x.End
		}
	}
	if len(c.Seals) < c.Needed || c.End != end || c.Committed > end.Seq || c.Serving < c.Sealed || c.Sealed < c.Asked {
		s.fatalf("%s serves on this certificate: %+v", n.name, *c)
	}
}

// appendedBy checks log matching (I11): the same place and generation is the same
// entry after the same one, everywhere.
func (s *sim) appendedBy(n *simNode, prev Generation, e blockdev.Entry) {
	x := appended{prev, e.Kind, e.Off, 0}
	if len(e.Data) > 0 {
		x.tag = tagOf(e.Data)
	}
	at := Mark{e.Gen, e.Seq}
	if was, ok := s.appended[at]; !ok {
		s.appended[at] = x
	} else if was != x {
		s.fatalf("%s appends %+v as %+v, which was %+v", n.name, x, at, was)
	}
}

// committedBy checks that all nodes commit the same log, and that whoever commits
// first may (I3).
func (s *sim) committedBy(n *simNode, e blockdev.Entry) {
	i := int(e.Seq) - 1
	switch {
	case i < len(s.committed):
		if g := s.committed[i]; g.Gen != e.Gen {
			s.fatalf("%s commits entry %d of generation %d, another one of generation %d was committed there", n.name, e.Seq, e.Gen, g.Gen)
		}
	case i == len(s.committed):
		e.Data = slices.Clone(e.Data)
		s.committed = append(s.committed, e)
		if e.Kind == entryMark {
			s.grown = max(s.grown, e.Off)
		}
		s.checkHeld(n, e)
	default:
		s.fatalf("%s commits entry %d, only %d were committed", n.name, e.Seq, len(s.committed))
	}
}

// checkHeld checks that W of the recorded members hold what a primary commits
// while the quorum knows of no later one.
func (s *sim) checkHeld(n *simNode, e blockdev.Entry) {
	if n.core.role == Secondary {
		s.fatalf("%s commits entry %d before its primary", n.name, e.Seq)
	}
	if s.rec.Generation != n.core.gen {
		return
	}
	set := s.rec.set()
	holders := 0
	for _, m := range set {
		x := s.node(m.Node)
		known := n.core.p.base.member(m.Node)
		switch {
		case x.power && x.core == nil, known != nil && known.Incarnation != m.Incarnation: // it held it when it said so
			holders++
		case m.Amnesiac:
		case s.rec.Durability == DurableWrite && x.disk.durable() < e.Seq:
		case x.disk.holds(e.Gen, e.Seq):
			holders++
		}
	}
	w := s.rec.Policy.ackQuorum(len(set))
	if e.Seq > n.core.p.first {
		w = max(w, s.rec.MinCopies)
	}
	if holders < w {
		s.fatalf("%s commits entry %d, which %d of %v hold, not %d", n.name, e.Seq, holders, set, w)
	}
}

// check is called at every step.
func (s *sim) check() {
	s.checkReaders()
	s.checkTakeover()
	if s.round++; s.round%16 == 0 {
		s.checkSafe()
	}
}

// checkReaders checks I6: at no instant may two nodes answer local reads.
func (s *sim) checkReaders() {
	var names []string
	for _, n := range s.nodes {
		if n.core == nil {
			continue
		}
		n.core.now = max(n.core.now, s.clock(n))
		s.checkFenced(n)
		if n.disk.prom != n.core.prom {
			s.fatalf("%s has promised generation %d, its disk says %d (I2)", n.name, n.core.prom, n.disk.prom)
		}
		if n.core.leaseValid() {
			names = append(names, fmt.Sprintf("%s of generation %d", n.name, n.core.gen))
		}
	}
	if len(names) > 1 {
		s.fatalf("two nodes may answer reads: %s", strings.Join(names, ", "))
	}
}

// checkFenced checks that nothing of a client is appended after it has lost the
// volume.
func (s *sim) checkFenced(n *simNode) {
	for _, f := range n.core.p.inflight.all() {
		if f.req.Attachment < n.core.p.base.Attachment && f.last > n.core.p.fence {
			s.fatalf("%s appends a write of client %d, client %d has taken the volume over", n.name, f.req.Attachment, n.core.p.base.Attachment)
		}
	}
}

// checkSafe checks I5: so many seals as a promotion needs contain everything that
// was committed.
func (s *sim) checkSafe() {
	if len(s.committed) == 0 {
		return
	}
	e := s.committed[len(s.committed)-1]
	set := s.rec.set()
	lacking := 0
	for _, m := range set {
		if n := s.node(m.Node); !m.Amnesiac && !(n.power && n.core == nil && s.rec.Durability != DurableWrite) && !n.disk.holds(e.Gen, e.Seq) {
			lacking++
		}
	}
	if need := s.rec.Policy.sealQuorum(len(set)); lacking >= need {
		s.fatalf("entry %d of generation %d is committed, and %d of the members %v lack it, where %d seals suffice", e.Seq, e.Gen, lacking, set, need)
	}
}

// flushedTo is told of an answered flush: what was answered before it survives
// (I13).
func (s *sim) flushedTo(n *simNode, seq Seq) {
	s.flushed = max(s.flushed, seq)
	if s.rec.Generation != n.core.gen {
		return
	}
	set := s.rec.set()
	safe := 0
	for _, m := range set {
		if x := s.node(m.Node); x.disk.durable() >= seq {
			safe++
		}
	}
	if w := s.rec.Policy.ackQuorum(len(set)); safe < w {
		s.fatalf("%s answers a flush up to entry %d, which is durable at %d of %v, not %d", n.name, seq, safe, set, w)
	}
}

// recovered is told that the quorum ends a recovery. What was flushed must be
// there, and there to stay; of the rest, what is there counts from now on.
func (s *sim) recovered(p Proposal) {
	s.recoveries++
	n := s.node(p.Promote)
	_, last := n.disk.Last()
	if d := n.disk.durable(); d < last {
		s.fatalf("the volume is recovered with the log of %s up to %d, durable up to %d", n.name, last, d)
	}
	common := min(Seq(len(s.committed)), last)
	if common > 0 && !n.disk.holds(s.committed[common-1].Gen, common) {
		s.fatalf("the volume is recovered with the log of %s, which has another entry %d than was committed", n.name, common)
	}
	if common < s.flushed {
		s.fatalf("the volume is recovered with the log of %s up to %d, flushed was everything up to %d", n.name, last, s.flushed)
	}
	s.committed = s.committed[:common]
	tail, err := n.disk.ReadLog(common, 1<<30)
	if err != nil {
		s.fatalf("%v", err)
	}
	values := map[int64]uint64{}
	for _, list := range [][]blockdev.Entry{s.committed, tail} {
		for _, e := range list {
			for off := int64(0); off < e.Len; off += blockSize {
				values[(e.Off+off)/blockSize] = tagOf(e.Data[off:])
			}
		}
	}
	s.recount(values)
}

// checkImage checks that a replica that was copied has in its image what its log
// has committed (I16), or what was committed since.
func (s *sim) checkImage(n *simNode) {
	values := map[int64][]uint64{}
	for _, e := range s.committed {
		for off := int64(0); off < e.Len; off += blockSize {
			b, tag := (e.Off+off)/blockSize, tagOf(e.Data[off:])
			if e.Seq <= n.disk.commit {
				values[b] = values[b][:0]
			} else if values[b] == nil {
				values[b] = []uint64{0}
			}
			values[b] = append(values[b], tag)
		}
	}
	for b := range n.disk.size / blockSize {
		if v := n.disk.image[b]; v != 0 && !slices.Contains(values[b], v) || v == 0 && len(values[b]) == 1 && values[b][0] != 0 {
			s.fatalf("block %d of %s is %d; what was committed, for it up to entry %d, makes it %v", b, n.name, v, n.disk.commit, values[b])
		}
	}
}

// level tells whether all members are UpToDate and the same.
func (s *sim) level() bool {
	var first *simNode
	for _, m := range s.rec.Members {
		n := s.node(m.Node)
		if m.State != UpToDate || m.Amnesiac || n.core == nil || m.Incarnation != n.inc || len(n.reqs) > 0 {
			return false
		}
		_, last := n.disk.Last()
		if n.disk.commit != last {
			return false
		}
		if first == nil {
			first = n
			continue
		}
		if _, l := first.disk.Last(); l != last {
			return false
		}
		for b := range int64(64) {
			if first.disk.image[b] != n.disk.image[b] {
				s.fatalf("block %d: %s has %d, %s has %d, both with everything up to %d", b, first.name, first.disk.image[b], n.name, n.disk.image[b], last)
			}
		}
	}
	return true
}

package sim

import (
	"fmt"
	"slices"
	"strings"

	"blkd/blockdev"
	"blkd/internal/model"
	"blkd/replication"
)

// oracle is what the simulation knows and no node does.
type oracle struct {
	committed []blockdev.Entry     // everything ever committed, by seq from 1
	versions  [mostBlocks][]uint64 // the committed values of each block, in order
	appended  map[replication.Mark]appended
	grown     int64                  // the largest size that was committed, bytes
	flushed   replication.Seq        // survives any power loss
	bound     replication.Generation // highest generation that served
	begun     map[replication.Generation]replication.Incarnation
	promised  map[*node]replication.Mark // the promise: lineage (as Seq) and generation
	poured    pouring
	written   map[uint64][]uint64 // what large writes have written, by batch
	changes   int                 // of the record, since the faults ended
	round     int
}

// appended is what an entry was when it was first appended (I11).
type appended struct {
	prev replication.Generation
	kind blockdev.EntryKind
	off  int64
	tag  uint64
}

func (c *oracle) init() {
	c.appended, c.written = map[replication.Mark]appended{}, map[uint64][]uint64{}
	c.begun = map[replication.Generation]replication.Incarnation{}
	c.promised = map[*node]replication.Mark{}
	for b := range c.versions {
		c.versions[b] = []uint64{0}
	}
}

// roleChanged is told of every change of a role. What was not answered when a generation
// serves has happened by then, or never will.
func (s *sim) roleChanged(n *node, r replication.Role, g replication.Generation) {
	s.note("role", uint64(n.id), uint64(r), uint64(g))
	s.replay.Became(n.id, model.Role(r), uint64(g), s.known(n))
	s.logf("%s is %s of generation %d", n.name, r, g)
	if r == replication.Sealing {
		if by := s.begun[g]; by != 0 {
			s.violate("I1", "generation %d is begun by run %x of %s, after run %x", g, n.inc, n.name, by)
		}
		s.begun[g] = n.inc
		if g == s.rec.Generation && (s.rec.Primary != n.name || s.rec.PrimaryIncarnation != n.inc) {
			s.violate("S1", "generation %d is begun by run %x of %s, the quorum named run %x of %s", g, n.inc, n.name, s.rec.PrimaryIncarnation, s.rec.Primary)
		}
	}
	if r != replication.Primary || g <= s.bound {
		return
	}
	s.bound = g
	s.Generations++
	s.expire(func(o *op) bool { return o.gen < g && o.passed == nil })
	s.served(n, g)
}

// served checks that who serves has everything that was committed.
func (s *sim) served(n *node, g replication.Generation) {
	if n.disk.Committed() < replication.Seq(len(s.committed)) {
		s.violate("S5", "%s serves generation %d with %d committed entries, %d were committed", n.name, g, n.disk.Committed(), len(s.committed))
	}
	if n.disk.size < s.grown {
		s.violate("S5", "%s serves %d bytes, and the volume was made %d large", n.name, n.disk.size, s.grown)
	}
}

// sized notes a size that is committed.
func (s *sim) sized(e *blockdev.Entry) {
	if e.Kind == blockdev.EntryMark {
		s.grown = max(s.grown, e.Off)
	}
}

// certified checks that a certificate proves what it should.
func (s *sim) certified(n *node, c *replication.Certificate) {
	s.Certified++
	end, known := replication.Mark{}, replication.Seq(0)
	for _, x := range c.Seals {
		i := slices.IndexFunc(c.Members, func(m replication.Member) bool { return m.Node == x.Node })
		if i < 0 || c.Members[i].Amnesiac {
			s.violate("S8", "%s certifies a seal of %s, which does not count", n.name, x.Node)
		}
		if x.End.Generation > end.Generation || x.End.Generation == end.Generation && x.End.Seq > end.Seq {
			end = x.End
		}
		known = max(known, x.Commit)
	}
	if len(c.Seals) < c.Needed || c.End != end || c.Serving < c.Sealed || c.Sealed < c.Asked {
		s.violate("S4", "%s serves on this certificate: %+v", n.name, *c)
	}
	if known > end.Seq || c.Committed > end.Seq {
		s.violate("I12", "%s serves a log up to %v, of which up to %d was known to be committed", n.name, end, max(known, c.Committed))
	}
}

// appendedBy checks log matching: the same place and generation is the same entry
// after the same one, everywhere.
func (s *sim) appendedBy(n *node, prev replication.Generation, e *blockdev.Entry) {
	x := appended{prev, e.Kind, e.Off, 0}
	if len(e.Data) > 0 {
		x.tag = tagOf(e.Data)
	}
	at := replication.Mark{Generation: e.Gen, Seq: e.Seq}
	if was, ok := s.appended[at]; !ok {
		s.appended[at] = x
		s.wrote(e)
	} else if was != x {
		s.violate("I11", "%s appends %+v as %+v, which was %+v", n.name, x, at, was)
	}
}

// committedBy checks that all nodes commit the same log, and that whoever commits
// first may.
func (s *sim) committedBy(n *node, e *blockdev.Entry) {
	i := int(e.Seq) - 1
	switch {
	case i < len(s.committed):
		if g := s.committed[i]; g.Gen != e.Gen {
			s.violate("S5", "%s commits entry %d of generation %d, another one of generation %d was committed there", n.name, e.Seq, e.Gen, g.Gen)
		}
	case i == len(s.committed):
		s.committed = append(s.committed, *e)
		s.sized(e)
		s.actedBy(n, e)
		if _, _, large := largeWrite(e); large > 0 {
			s.Large++
		}
		s.acts(e, func(b int64, tag uint64) { s.versions[b] = append(s.versions[b], tag) })
		s.note("commit", uint64(n.id), uint64(e.Seq), uint64(e.Gen))
		s.checkHeld(n, e)
	default:
		s.violate("S5", "%s commits entry %d, only %d were committed", n.name, e.Seq, len(s.committed))
	}
}

// checkHeld checks that W of the recorded members hold what a primary commits
// while the quorum knows of no later one.
func (s *sim) checkHeld(n *node, e *blockdev.Entry) {
	role, gen := n.core.Role()
	if role == replication.Secondary {
		s.violate("I16", "%s commits entry %d before its primary", n.name, e.Seq)
	}
	if s.rec.Generation != gen {
		return
	}
	view := n.core.View()
	set := s.rec.Set()
	holders := 0
	for _, m := range set {
		x := s.node(m.Node)
		known := view.Counted().Member(m.Node)
		switch {
		case known != nil && known.Incarnation != m.Incarnation || m.Incarnation != x.inc || x.forgets(s): // it held it when it said so
			holders++
		case m.Amnesiac:
		case s.rec.Durability == replication.DurableWrite && x.disk.durable() < e.Seq:
		case x.disk.holds(e.Gen, e.Seq):
			holders++
		}
	}
	w := s.rec.Policy.AckQuorum(len(set))
	if e.Seq > view.First() {
		w = max(w, s.rec.MinCopies)
	}
	if holders < w {
		s.violate("S3", "%s commits entry %d, which %d of %v hold, not %d", n.name, e.Seq, holders, set, w)
	}
}

// check is called at every step.
func (s *sim) check() {
	s.checkReaders()
	if s.round++; s.round%16 == 0 {
		s.checkTakeover()
		s.checkSafe()
		s.checkOld()
		s.checkReach()
		s.checkShards()
	}
}

// checkReaders checks that at no instant two nodes may answer local reads, and that
// promises are kept.
func (s *sim) checkReaders() {
	var first *node
	for _, n := range s.nodes[:s.data] {
		if n.core == nil {
			continue
		}
		view := n.core.View()
		if role, _ := n.core.Role(); role != replication.Secondary {
			s.checkFenced(n, view)
			if view.CanRead(s.clock(n)) {
				if first != nil {
					_, g := first.core.Role()
					_, h := n.core.Role()
					s.violate("I6", "two nodes may answer reads: %s of generation %d, %s of generation %d", first.name, g, n.name, h)
				}
				first = n
			}
		}
		if n.disk.prom != view.Promised() {
			s.violate("I2", "%s has promised generation %d, its disk says %d", n.name, view.Promised(), n.disk.prom)
		}
		was, is := s.promised[n], replication.Mark{Generation: n.disk.prom, Seq: replication.Seq(n.disk.lineage)}
		if was != is {
			if was.Seq == is.Seq && is.Generation < was.Generation {
				s.violate("I2", "%s had promised generation %d, and now %d", n.name, was.Generation, is.Generation)
			}
			s.promised[n] = is
		}
	}
}

// checkFenced checks that nothing of a client is appended after it has lost the
// volume.
func (s *sim) checkFenced(n *node, view replication.View) {
	admitted, fence := view.Counted().Attachment, view.Fence()
	view.Undone(func(attachment uint64, last replication.Seq) {
		if attachment < admitted && last > fence {
			s.violate("S10", "%s appends a write of client %d, client %d has taken the volume over", n.name, attachment, admitted)
		}
	})
}

// checkTakeover does what reports a takeover as done: from then on nothing of the
// client before acts any more.
func (s *sim) checkTakeover() {
	for _, n := range s.primaries() {
		if _, gen := n.core.Role(); gen != s.rec.Generation || n.core.View().Counted().Attachment <= s.attached {
			continue
		}
		x := n.core.Status()
		if !x.Settled {
			continue
		}
		n.core.View().Undone(func(attachment uint64, _ replication.Seq) {
			if attachment < x.Attachment {
				s.violate("I15", "the takeover by client %d is done, and a write of client %d is under way", x.Attachment, attachment)
			}
		})
		s.attached = x.Attachment
		s.expire(func(o *op) bool { return o.attachment < s.attached })
	}
}

// checkSafe checks that so many seals as a promotion needs contain everything that
// was committed.
func (s *sim) checkSafe() {
	if len(s.committed) == 0 {
		return
	}
	e := &s.committed[len(s.committed)-1]
	set := s.rec.Set()
	lacking := 0
	for _, m := range set {
		n := s.node(m.Node)
		if !m.Amnesiac && !n.forgets(s) && m.Incarnation == n.inc && !n.disk.holds(e.Gen, e.Seq) {
			lacking++
		}
	}
	if need := s.rec.Policy.SealQuorum(len(set)); lacking >= need {
		s.violate("I5", "entry %d of generation %d is committed, and %d of the members %v lack it, where %d seals suffice", e.Seq, e.Gen, lacking, set, need)
	}
}

// forgets tells whether a node that is down will count for nothing when it is back.
func (n *node) forgets(s *sim) bool {
	return !n.registered && (n.old || n.boot != n.booted && s.rec.Durability != replication.DurableWrite || n.ioError)
}

// checkOld checks that a disk of an earlier time counts for nothing, not in a recovery
// either. What is on one that an operator has emptied comes from primaries since: its
// log may well be the best.
func (s *sim) checkOld() {
	for _, n := range s.nodes[:s.data] {
		if m := s.rec.Member(n.name); n.old && n.registered && m != nil && m.Incarnation == n.inc && m.State == replication.UpToDate && !m.Amnesiac {
			s.violate("S11", "%s has the disk of an earlier time, and counts: %v", n.name, s.rec.Members)
		}
	}
}

// flushedTo is told of an answered flush: what was answered before it survives.
func (s *sim) flushedTo(n *node, seq replication.Seq) {
	s.flushed = max(s.flushed, min(seq, replication.Seq(len(s.committed))))
	if _, gen := n.core.Role(); s.rec.Generation != gen {
		return
	}
	set := s.rec.Set()
	safe := 0
	for _, m := range set {
		if x := s.node(m.Node); x.disk.durable() >= seq || m.Incarnation == 0 || x.old && !x.registered { // its other disk had it
			safe++
		}
	}
	if w := s.rec.Policy.AckQuorum(len(set)); safe < w {
		s.violate("S7", "%s answers a flush up to entry %d, which is durable at %d of %v, not %d", n.name, seq, safe, set, w)
	}
}

// writtenBy checks that what a client was told is committed.
func (s *sim) writtenBy(n *node, r *replication.Request) {
	if r.Last() > replication.Seq(len(s.committed)) {
		s.violate("I3", "%s answers a write whose last entry is %d, %d are committed", n.name, r.Last(), len(s.committed))
	}
	if _, gen := n.core.Role(); r.FUA || s.rec.Durability == replication.DurableWrite && gen == s.rec.Generation {
		s.flushedTo(n, r.Last())
	}
}

// readBy checks that a block had the value at some moment of the read.
func (s *sim) readBy(n *node, o *op, tag uint64) {
	if !slices.Contains(s.versions[o.block][o.since:], tag) {
		rule := "S6"
		if slices.Contains(s.versions[o.block][:o.since], tag) {
			rule = "I8"
		}
		s.violate(rule, "%s answers that block %d is %d; committed were, while it was read: %v", n.name, o.block, tag, s.versions[o.block][o.since:])
	}
}

// mendedBy checks that a block that is reported as mended can be read.
func (s *sim) mendedBy(n *node, off int64, from replication.NodeID) {
	s.Mended++
	if n.name == from || n.disk.rot[off/blockSize] {
		s.violate("S12", "%s has mended block %d with what %s has; it is still bad: %v", n.name, off/blockSize, from, n.disk.rot[off/blockSize])
	}
}

// rebuiltAt checks that a block of a shard that is reported as rebuilt can be read, or
// will be as soon as its node follows.
func (s *sim) rebuiltAt(n *node, off int64, at replication.NodeID) {
	s.Mended++
	row, m := off/blockSize, &s.node(at).shard
	if m.rot[row] && !m.prepared(row) {
		s.violate("S12", "%s has rebuilt row %d of the shard on %s; it is still bad", n.name, row, at)
	}
}

func (s *sim) compared(n *node, x *replication.Comparison, results []replication.Compared, err error) {
	s.logf("%s has compared %d bytes at %d: %+v, %v", n.name, x.Len, x.Off, results, err)
	for _, r := range results {
		switch {
		case r.Differs:
			s.violate("equal", "%s and %s differ in the %d bytes at %d", n.name, r.Node, x.Len, x.Off)
		case r.Unreadable && !x.Read:
			s.violate("equal", "%s could not read what it was not to read", r.Node)
		case !r.Silent:
			s.Comparisons++
		}
	}
}

// evictedBy checks that an eviction that is reported as done was recorded.
func (s *sim) evictedBy(p *node, core *replication.Core, n *node, keep bool) {
	s.Evictions++
	rec := core.View().Record()
	if m := rec.Member(n.name); p.core != core || m != nil && !(keep && m.State == replication.Inconsistent) {
		s.violate("evict", "%s tells that %s is evicted, the record says %v", p.name, n.name, rec.Members)
	}
}

// recorded is told of every change of the record, and of the proposal that has made
// it; nil: it was none of a core's.
func (s *sim) recorded(old, rec *replication.Record, p *replication.Proposal) {
	if old == nil || rec.Number == old.Number {
		return // only the mark has moved
	}
	if s.quiet {
		s.changes++
	}
	if rec.Generation > old.Generation+1 || rec.Generation < old.Generation || rec.Number != old.Number+1 ||
		p != nil && (p.Generation != old.Generation || p.Number != old.Number) {
		s.violate("I10", "the record goes from (%d, %d) to (%d, %d) by proposal %+v", old.Generation, old.Number, rec.Generation, rec.Number, p)
	}
	switch {
	case p == nil:
	case p.Recover:
		s.recovered(p)
		return
	case p.Shape != nil:
		s.Shapes++
	case s.code != nil && len(rec.Members) < len(old.Members):
		s.Moves++
	}
	for _, m := range rec.Set() {
		was := old.Member(m.Node)
		if n := s.node(m.Node); !m.Amnesiac && (was == nil || was.State != replication.UpToDate || was.Amnesiac) && n.inc == m.Incarnation {
			n.emptied = false
			if n.core != nil { // it may have died meanwhile
				s.checkImage(n)
			}
		}
	}
	s.excuse(old, rec)
	for _, n := range s.nodes[:s.data] {
		s.checkCounted(n, rec)
	}
}

// checkReach checks that what a member that counts lacks is in the log of every other
// one: whoever is primary can bring it level. One is excused; see excuse.
func (s *sim) checkReach() {
	for _, a := range s.rec.Set() {
		for _, b := range s.rec.Set() {
			x, y := s.node(a.Node), s.node(b.Node)
			switch {
			case !counts(x, a) || !counts(y, b):
			case x.disk.baseSeq <= y.disk.last():
				y.excused &^= 1 << x.id // it has come level since
			case y.excused&(1<<x.id) == 0:
				s.violate("reach", "%s counts and has the log from %d on only, %s counts and ends at %d", x.name, x.disk.baseSeq+1, y.name, y.disk.last())
			}
		}
	}
}

// excuse notes who comes to count though the primary had given others up: where too few
// were left to let one of those go, it had to come first, and its log may begin behind
// what they have. They need not be brought level by it, for they are let go next; but
// by all others, and by it as well once they have come so far, or have counted anew.
// When the change was asked for matters, not when it is decided: one that answers again
// in between is waited for again, and what has been asked for cannot be taken back.
func (s *sim) excuse(old, rec *replication.Record) {
	counted := func(r *replication.Record, n *node) bool {
		m := r.Member(n.name)
		return m != nil && m.State == replication.UpToDate && !m.Amnesiac
	}
	p := s.node(rec.Primary)
	for _, y := range s.nodes[:s.data] {
		if !counted(rec, y) || !counted(old, y) {
			y.excused = 0
			continue
		}
		for _, x := range s.nodes[:s.data] {
			switch {
			case !counted(rec, x):
				y.excused &^= 1 << x.id
			case !counted(old, x) && p != nil && p.gaveUp&(1<<y.id) != 0:
				y.excused |= 1 << x.id
			}
		}
	}
}

// counts tells whether a member's run is the one that is recorded, and has forgotten
// nothing.
func counts(n *node, m replication.Member) bool {
	return n.registered && n.inc == m.Incarnation && !m.Amnesiac && !n.old && !n.emptied
}

// checkCounted checks that a primary counts over the set that is recorded, whatever
// it knows of it.
func (s *sim) checkCounted(n *node, rec *replication.Record) {
	if n.core == nil {
		return
	}
	role, gen := n.core.Role()
	view := n.core.View()
	if role != replication.Chosen && role != replication.Primary || gen != rec.Generation || rec.Lineage != view.Counted().Lineage {
		return
	}
	same := func(r *replication.Record) bool {
		if r == nil {
			return false
		}
		for _, m := range s.nodes {
			a, b := rec.Member(m.name), r.Member(m.name)
			void := a != nil && a.Incarnation == 0 // an operator has said so
			if in, out := a != nil && a.State == replication.UpToDate, b != nil && b.State == replication.UpToDate; in != out && !void {
				return false
			}
		}
		return true
	}
	if !same(view.Counted()) && !same(view.Asked()) {
		s.violate("I4", "%s counts over %v, or %+v; recorded is %v", n.name, view.Counted().Members, view.Asked(), rec.Members)
	}
}

// recovered is told that the quorum ends a recovery. What was flushed must be
// there, and there to stay; of the rest, what is there counts from now on.
func (s *sim) recovered(p *replication.Proposal) {
	s.Recoveries++
	n := s.node(p.Promote)
	disk := n.disk
	if n.old && !n.registered {
		disk = &n.newest.disk // it asked with that, and gets it back
	}
	_, last := disk.Last()
	if d := disk.durable(); d < last {
		s.violate("S8", "the volume is recovered with the log of %s up to %d, durable up to %d", n.name, last, d)
	}
	common := min(replication.Seq(len(s.committed)), last)
	if common > 0 && !disk.holds(s.committed[common-1].Gen, common) {
		s.violate("S8", "the volume is recovered with the log of %s, which has another entry %d than was committed", n.name, common)
	}
	if common < s.flushed && len(p.Waived) == 0 {
		s.violate("I13", "the volume is recovered with the log of %s up to %d, flushed was everything up to %d", n.name, last, s.flushed)
	}
	n.emptied = false
	s.committed = s.committed[:common:common]
	tail, err := disk.ReadLog(common, 1<<30)
	if err != nil {
		s.violate("S8", "%v", err)
	}
	s.restart(tail)
	s.forgetActed()
}

// restart begins a history with what is committed, and with a tail that is to be.
func (s *sim) restart(tail []blockdev.Entry) {
	values := map[int64]uint64{}
	for b := range s.versions {
		s.versions[b] = []uint64{0}
	}
	s.grown, s.poured = 0, pouring{}
	for i, list := range [][]blockdev.Entry{s.committed, tail} {
		for j := range list {
			if i == 0 {
				s.sized(&list[j])
			}
			s.acts(&list[j], func(b int64, tag uint64) {
				values[b] = tag
				if i == 0 {
					s.versions[b] = append(s.versions[b], tag)
				}
			})
		}
	}
	s.flushed = min(s.flushed, replication.Seq(len(s.committed)))
	s.recount(values)
}

// checkImage checks that a replica that was copied has in its image what its log
// has committed, or what was committed since.
func (s *sim) checkImage(n *node) {
	if s.code != nil {
		return // see checkShards
	}
	var values [mostBlocks][]uint64
	for i := range s.committed {
		e := &s.committed[i]
		each(e, func(b int64, tag uint64) {
			if e.Seq <= n.disk.Committed() {
				values[b] = values[b][:0]
			} else if values[b] == nil {
				values[b] = []uint64{0}
			}
			values[b] = append(values[b], tag)
		})
	}
	for b, v := range n.disk.image {
		if list := values[b]; v != 0 && !slices.Contains(list, v) || v == 0 && len(list) == 1 && list[0] != 0 {
			s.violate("I16", "block %d of %s is %d; what was committed, for it up to entry %d, makes it %v", b, n.name, v, n.disk.Committed(), list)
		}
	}
}

// level tells whether all members are UpToDate and the same.
func (s *sim) level() bool {
	var first *node
	for _, m := range s.rec.Members {
		n := s.node(m.Node)
		if m.State != replication.UpToDate || m.Amnesiac || n.core == nil || m.Incarnation != n.inc || len(n.reqs) > 0 {
			return false
		}
		_, last := n.disk.Last()
		if n.disk.Committed() != last {
			return false
		}
		if first == nil {
			first = n
			continue
		}
		if _, l := first.disk.Last(); l != last {
			return false
		}
		s.checkSessions(first, n)
		for b := range int64(mostBlocks) {
			if s.code != nil {
				break // see checkShards
			}
			if first.disk.image[b] != n.disk.image[b] {
				s.violate("equal", "block %d: %s has %d, %s has %d, both with everything up to %d", b, first.name, first.disk.image[b], n.name, n.disk.image[b], last)
			}
		}
	}
	for _, g := range s.gateways {
		if len(g.pending) > 0 {
			return false
		}
	}
	return len(s.rec.Members) >= min(s.replicas, s.data)
}

func (s *sim) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "record %+v", *s.rec)
	for _, n := range s.nodes {
		if v := n.voter; v != nil {
			fmt.Fprintf(&b, "\n%s in the quorum: takes part %v, is a member %v, %+v", n.name, v.taking, v.member, v.status)
		}
		if n.core == nil {
			fmt.Fprintf(&b, "\n%s without a replica, up: %v", n.name, n.up)
			continue
		}
		gen, seq := n.disk.Last()
		fmt.Fprintf(&b, "\n%s inc %d last (%d,%d) promised %d requests %d %+v", n.name, n.inc, gen, seq, n.disk.prom, len(n.reqs), n.core.Status())
	}
	return b.String()
}

package replication

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"blkd/blockdev"
)

var (
	simSeeds = flag.Int("sim.seeds", 300, "seeds of the simulation")
	simSeed  = flag.Uint64("sim.seed", 0, "run only this seed, with a trace")
)

// sim is a cluster of cores under a seeded scheduler: messages are delayed, lost
// with their connection, and cut off one way; processes crash, machines lose
// power, pause and come back; the quorum answers late.
type sim struct {
	t         *testing.T
	rnd       *rand.Rand
	trace     bool
	now       Instant
	nodes     []*simNode
	wires     map[[2]int]*wire
	rec       *Record
	undecided map[*Proposal]Proposal
	todo      []event

	committed []blockdev.Entry // ghost: everything ever committed, by seq from 1
	blocks    map[int64]*history
	ops       int
	answered  int
	reads     int
	quiet     bool
	nextTag   uint64
	bound     Generation // highest generation that served
	faults    float64
}

type simNode struct {
	id      int
	name    NodeID
	disk    *memReplica
	core    *Core // nil: down
	inc     Incarnation
	paused  Instant // until
	skew    Instant
	power   bool // the last stop lost what was not synced
	records []*Record
	reqs    map[*Request]*op
	failed  bool
}

// wire carries messages one way, in order.
type wire struct {
	queue []*Message
	cut   bool
	up    bool
}

// event is something that will happen on a node.
type event struct {
	at   Instant
	node int
	inc  Incarnation
	do   func()
}

// op is a client's operation.
type op struct {
	block   int64
	write   uint64 // tag; 0: read
	gen     Generation
	begun   int // of the block's history
	flushed bool
	r       *Request
}

func newSim(t *testing.T, seed uint64, n int, policy Policy) *sim {
	s := &sim{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), wires: map[[2]int]*wire{}, undecided: map[*Proposal]Proposal{},
		blocks: map[int64]*history{}, faults: 1}
	s.rec = &Record{Lineage: 7, Generation: 1, Number: 1, Policy: policy, MinCopies: 1, Durability: DurableFlush}
	if policy == AckMajority {
		s.rec.MinCopies = 2
	}
	for i := range n {
		nd := &simNode{id: i, name: NodeID(fmt.Sprintf("n%d", i+1)), disk: newMemReplica(), reqs: map[*Request]*op{}}
		nd.skew = Instant(s.rnd.Int64N(int64(time.Hour)))
		if s.rnd.IntN(2) == 0 {
			nd.disk.retain = 1 + s.rnd.IntN(20)
		}
		s.nodes = append(s.nodes, nd)
		nd.inc = Incarnation(s.rnd.Uint64() | 1)
		s.rec.Members = append(s.rec.Members, Member{Node: nd.name, Incarnation: nd.inc, State: UpToDate})
		for j := range n {
			if j != i {
				s.wires[[2]int{i, j}] = &wire{}
			}
		}
	}
	s.rec.Primary, s.rec.PrimaryIncarnation = s.nodes[0].name, s.nodes[0].inc
	for _, nd := range s.nodes {
		s.boot(nd, true)
	}
	for i, a := range s.nodes {
		for _, b := range s.nodes[:i] {
			s.connect(a, b)
		}
	}
	return s
}

func (s *sim) logf(format string, args ...any) {
	if s.trace {
		s.t.Logf("%8.1fms "+format, append([]any{float64(s.now) / 1e6}, args...)...)
	}
}

func (s *sim) fatalf(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("at %v: "+format, append([]any{time.Duration(s.now)}, args...)...)
}

func (s *sim) boot(n *simNode, fresh bool) {
	n.disk.onCommit = func(e blockdev.Entry) { s.commitGhost(n, e) }
	n.core = NewCore(Config{Self: n.name, Incarnation: n.inc, Replica: n.disk, Gate: n.disk, Now: s.clock(n), Fresh: fresh,
		Events: Events{
			Note: func(text string) { s.logf("%s: %s", n.name, text) },
			Role: func(r Role, g Generation) { s.role(n, r, g) },
		}})
	s.deliverRecord(n, s.rec)
}

func (s *sim) clock(n *simNode) Instant { return s.now + n.skew }

// role checks S1: the bound of the strict order is that a generation serves.
func (s *sim) role(n *simNode, r Role, g Generation) {
	s.logf("%s is %s of generation %d", n.name, r, g)
	if r != Primary {
		return
	}
	if g > s.bound {
		s.bound = g
		for _, h := range s.blocks {
			h.expire(g)
		}
	}
}

// commitGhost checks that all nodes commit the same log.
func (s *sim) commitGhost(n *simNode, e blockdev.Entry) {
	i := int(e.Seq) - 1
	switch {
	case i < len(s.committed):
		if g := s.committed[i]; g.Gen != e.Gen || g.Off != e.Off || g.Kind != e.Kind || len(e.Data) > 0 && tagOf(g.Data) != tagOf(e.Data) {
			s.fatalf("%s commits entry %d of generation %d, another one of generation %d was committed there", n.name, e.Seq, e.Gen, g.Gen)
		}
	case i == len(s.committed):
		e.Data = slices.Clone(e.Data)
		s.committed = append(s.committed, e)
	default:
		s.fatalf("%s commits entry %d, only %d were committed", n.name, e.Seq, len(s.committed))
	}
}

func (s *sim) deliverRecord(n *simNode, r *Record) {
	inc := n.inc
	s.later(n, s.delay(5), func() {
		if n.core == nil || n.inc != inc {
			return
		}
		n.core.Record(s.clock(n), r)
		s.effects(n)
	})
}

func (s *sim) delay(ms float64) time.Duration {
	d := s.rnd.ExpFloat64() * ms
	if s.rnd.IntN(50) == 0 {
		d *= 20
	}
	return time.Duration(d * float64(time.Millisecond))
}

func (s *sim) later(n *simNode, d time.Duration, do func()) {
	s.todo = append(s.todo, event{s.now.add(d), n.id, n.inc, do})
}

// effects carries out what a core asked for.
func (s *sim) effects(n *simNode) {
	if n.core == nil {
		return
	}
	e := n.core.Take()
	for _, x := range e.Sends {
		to := s.node(x.To)
		w := s.wires[[2]int{n.id, to.id}]
		if !w.up {
			continue
		}
		m := *x.Msg
		m.Entries = slices.Clone(m.Entries)
		for i := range m.Entries {
			m.Entries[i].Data = slices.Clone(m.Entries[i].Data)
		}
		m.Data = slices.Clone(m.Data)
		w.queue = append(w.queue, &m)
		if s.trace && (m.Kind != MsgAppend || len(m.Entries) > 0) && m.Kind != MsgAck {
			s.logf("%s -> %s %s gen %d prev (%d,%d) %d entries, last (%d,%d) held %d durable %d copy %d", n.name, x.To, m.Kind, m.Gen, m.PrevGen, m.PrevSeq, len(m.Entries), m.LastGen, m.LastSeq, m.Held, m.Durable, m.Copy)
		}
	}
	if e.Failed != nil {
		s.fatalf("%s failed: %v", n.name, e.Failed)
	}
	for _, r := range e.Done {
		s.done(n, r)
	}
	inc := n.inc
	alive := func() bool { return n.core != nil && n.inc == inc }
	for _, r := range e.Reads {
		read := func() {
			if !alive() {
				return
			}
			n.disk.read(r.Data, r.Off/blockSize*blockSize)
			n.core.Read(s.clock(n), r, nil)
			s.effects(n)
		}
		if r.job == nil && s.rnd.IntN(2) == 0 {
			read()
		} else {
			s.later(n, s.delay(1), read)
		}
	}
	if e.Sync {
		snap := n.disk.memState.clone()
		cuts := n.disk.prom
		s.later(n, s.delay(4), func() {
			if !alive() {
				return
			}
			if n.disk.prom == cuts && !n.disk.incomplete && !snap.incomplete {
				if _, last := n.disk.Last(); last >= snap.baseSeq+Seq(len(snap.log)) {
					n.disk.synced = snap
				} else {
					n.disk.synced = n.disk.memState.clone()
				}
			} else {
				n.disk.synced = n.disk.memState.clone()
			}
			n.core.Synced(s.clock(n), nil)
			s.effects(n)
		})
	}
	for _, p := range e.Proposals {
		s.propose(n, p)
	}
}

func (s *sim) node(name NodeID) *simNode {
	return s.nodes[slices.IndexFunc(s.nodes, func(n *simNode) bool { return n.name == name })]
}

// propose decides a proposal some time later, and tells the result later still.
func (s *sim) propose(n *simNode, p Proposal) {
	inc := n.inc
	ask := event{s.now.add(s.delay(10)), -1, 0, nil}
	key := &p
	s.undecided[key] = p
	ask.do = func() {
		delete(s.undecided, key)
		ok, why := s.decide(n, p)
		if ok {
			return
		}
		s.later(n, s.delay(5), func() {
			if n.core != nil && n.inc == inc {
				n.core.Refused(s.clock(n), p.ID, why)
				s.effects(n)
			}
		})
	}
	s.todo = append(s.todo, ask)
}

func (s *sim) decide(n *simNode, p Proposal) (bool, string) {
	if s.rec.Generation != p.Generation || s.rec.Number != p.Number {
		return false, fmt.Sprintf("the record is (%d, %d), not (%d, %d)", s.rec.Generation, s.rec.Number, p.Generation, p.Number)
	}
	r := *s.rec
	r.Number++
	if p.Members == nil {
		m := r.member(p.Promote)
		if m == nil || m.State != UpToDate || m.Amnesiac || m.Incarnation != p.PromoteInc {
			return false, "not promotable"
		}
		r.Generation++
		r.Primary, r.PrimaryIncarnation = p.Promote, p.PromoteInc
	} else {
		for _, m := range p.Members {
			if old := r.member(m.Node); m.State == UpToDate && old.Incarnation != m.Incarnation {
				return false, "another incarnation"
			}
		}
		r.Members = p.Members
		if len(r.set()) < r.MinCopies {
			return false, "too few copies"
		}
	}
	s.logf("quorum: (%d, %d) %s asked: primary %s members %v: %s", r.Generation, r.Number, n.name, r.Primary, r.Members, p.Why)
	s.publish(&r)
	return true, ""
}

func (s *sim) publish(r *Record) {
	s.rec = r
	for _, n := range s.nodes {
		if n.core != nil {
			s.deliverRecord(n, r)
		}
	}
}

// promotable lists who may be promoted.
func (s *sim) promotable() []*simNode {
	var out []*simNode
	for _, n := range s.nodes {
		if m := s.rec.member(n.name); n.core != nil && m.State == UpToDate && !m.Amnesiac && m.Incarnation == n.inc {
			out = append(out, n)
		}
	}
	return out
}

func (s *sim) promote(n *simNode) {
	r := *s.rec
	r.Number++
	r.Generation++
	r.Primary, r.PrimaryIncarnation = n.name, n.inc
	s.logf("quorum: promotes %s to generation %d", n.name, r.Generation)
	s.publish(&r)
}

// crash stops a node; power loses what was not synced.
func (s *sim) crash(n *simNode, power bool) {
	s.logf("%s stops, power loss %v", n.name, power)
	n.core, n.power = nil, power
	for _, o := range n.reqs {
		_ = o // unanswered for ever
	}
	n.reqs = map[*Request]*op{}
	for _, m := range s.nodes {
		if m != n {
			s.reset(n, m)
		}
	}
	if power {
		n.disk.memState = n.disk.synced.clone()
	}
}

// reset breaks the connection between two nodes.
func (s *sim) reset(a, b *simNode) {
	for _, x := range [][2]*simNode{{a, b}, {b, a}} {
		w := s.wires[[2]int{x[0].id, x[1].id}]
		w.queue = nil
		if w.up {
			w.up = false
			if x[0].core != nil {
				x[0].core.Disconnected(s.clock(x[0]), x[1].name)
				s.effects(x[0])
			}
		}
	}
}

func (s *sim) connect(a, b *simNode) {
	if a.core == nil || b.core == nil {
		return
	}
	for _, x := range [][2]*simNode{{a, b}, {b, a}} {
		w := s.wires[[2]int{x[0].id, x[1].id}]
		if w.up || w.cut {
			return
		}
	}
	for _, x := range [][2]*simNode{{a, b}, {b, a}} {
		s.wires[[2]int{x[0].id, x[1].id}].up = true
		x[0].core.Connected(s.clock(x[0]), x[1].name)
		s.effects(x[0])
	}
}

// restart registers a new incarnation, as the quorum does it.
func (s *sim) restart(n *simNode) {
	n.inc = Incarnation(s.rnd.Uint64() | 1)
	r := *s.rec
	r.Number++
	r.Members = slices.Clone(r.Members)
	m := r.member(n.name)
	m.Incarnation = n.inc
	if n.power && m.State == UpToDate {
		m.Amnesiac = true
	}
	if n.disk.incomplete {
		m.State = Inconsistent
	}
	s.logf("%s starts again, members %v", n.name, r.Members)
	s.publish(&r)
	s.boot(n, false)
}

// mayLosePower tells whether enough members remain to seal without n, whatever
// becomes of the changes that were asked for. The other case is recovery.
func (s *sim) mayLosePower(n *simNode) bool {
	for _, members := range append([][]Member{s.rec.Members}, s.asking()...) {
		r := Record{Members: members}
		set, sound := r.set(), 0
		for _, m := range set {
			x := s.node(m.Node)
			if !m.Amnesiac && m.Node != n.name && (x.core != nil || !x.power) {
				sound++
			}
		}
		if r.member(n.name).State == UpToDate && sound < s.rec.Policy.sealQuorum(len(set)) {
			return false
		}
	}
	return true
}

// asking is the member lists that may still be recorded.
func (s *sim) asking() [][]Member {
	var lists [][]Member
	for _, p := range s.undecided {
		if p.Members != nil {
			lists = append(lists, p.Members)
		}
	}
	return lists
}

// step lets one thing happen.
func (s *sim) step() {
	s.now += Instant(s.rnd.Int64N(int64(time.Millisecond)))
	for i := 0; i < len(s.todo); i++ {
		e := s.todo[i]
		if e.at > s.now {
			continue
		}
		if e.node >= 0 && s.nodes[e.node].inc == e.inc && s.nodes[e.node].paused > s.now {
			continue
		}
		s.todo = slices.Delete(s.todo, i, i+1)
		i--
		if e.node < 0 || s.nodes[e.node].inc == e.inc {
			e.do()
		}
	}
	for _, n := range s.nodes {
		if n.core != nil && n.paused <= s.now && s.rnd.IntN(20) == 0 {
			n.core.Tick(s.clock(n))
			s.effects(n)
		}
	}
	for i := range s.nodes {
		for j := range s.nodes {
			w := s.wires[[2]int{i, j}]
			if w == nil || w.cut {
				continue
			}
			for len(w.queue) > 0 && s.rnd.IntN(3) > 0 {
				s.receive(i, j, w)
			}
		}
	}
	if s.rnd.IntN(4) == 0 {
		s.client()
	}
	if !s.quiet {
		s.disturb()
	}
	s.checkReaders()
}

func (s *sim) receive(i, j int, w *wire) {
	to := s.nodes[j]
	if to.core == nil || to.paused > s.now {
		return
	}
	m := w.queue[0]
	w.queue = w.queue[1:]
	to.core.Receive(s.clock(to), s.nodes[i].name, m)
	s.effects(to)
}

// disturb breaks something now and then, and mends it.
func (s *sim) disturb() {
	n := s.nodes[s.rnd.IntN(len(s.nodes))]
	m := s.nodes[s.rnd.IntN(len(s.nodes))]
	switch x := s.rnd.Float64() * 2000 / s.faults; {
	case x < 1 && n.core != nil:
		s.crash(n, false)
	case x < 2 && n.core != nil && s.mayLosePower(n):
		s.crash(n, true)
	case x < 3 && n.core != nil:
		d := time.Duration(s.rnd.Int64N(int64(3 * time.Second)))
		s.logf("%s pauses for %v", n.name, d)
		n.paused = s.now.add(d)
	case x < 5 && n != m:
		s.logf("%s and %s lose their connection", n.name, m.name)
		s.reset(n, m)
	case x < 7 && n != m:
		s.logf("the way from %s to %s is cut", n.name, m.name)
		s.wires[[2]int{n.id, m.id}].cut = true
	case x < 11 && n != m:
		s.wires[[2]int{n.id, m.id}].cut = false
	case x < 13:
		if p := s.promotable(); len(p) > 0 {
			s.promote(p[s.rnd.IntN(len(p))])
		}
	case x < 16:
		for _, p := range s.nodes {
			if p.core != nil && p.core.role == Primary && p != m && p.paused <= s.now {
				if err := p.core.Handover(s.clock(p), m.name); err == nil {
					s.logf("%s hands over to %s", p.name, m.name)
				}
				s.effects(p)
			}
		}
	case x < 40:
		s.mend(n, m)
	}
}

func (s *sim) mend(n, m *simNode) {
	if n.core == nil && s.rnd.IntN(4) == 0 {
		s.restart(n)
	}
	if n != m {
		s.connect(n, m)
	}
}

// failover is what the quorum's leader does: it replaces a primary that does not
// serve.
func (s *sim) failover() {
	for _, n := range s.nodes {
		if n.core != nil && n.core.role != Secondary && n.core.gen == s.rec.Generation {
			return
		}
	}
	if p := s.promotable(); len(p) > 0 {
		s.promote(p[s.rnd.IntN(len(p))])
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
		if n.core.leaseValid() {
			names = append(names, fmt.Sprintf("%s of generation %d", n.name, n.core.gen))
		}
	}
	if len(names) > 1 {
		s.fatalf("two nodes may answer reads: %s", strings.Join(names, ", "))
	}
}

// settle ends all faults and checks that everything becomes level.
func (s *sim) settle() {
	s.quiet = true
	for _, w := range s.wires {
		w.cut = false
	}
	deadline := s.now.add(60 * time.Second)
	for round := 0; ; round++ {
		s.step()
		for _, n := range s.nodes {
			n.paused = 0
			if n.core == nil {
				s.restart(n)
			}
			for _, m := range s.nodes {
				if m != n {
					s.connect(n, m)
				}
			}
		}
		if round%2000 == 1999 {
			s.failover()
		}
		if s.level() {
			return
		}
		if s.now > deadline {
			s.fatalf("not level a minute after the last fault: %s", s.describe())
		}
	}
}

func (s *sim) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "record %+v", *s.rec)
	for _, n := range s.nodes {
		if n.core == nil {
			fmt.Fprintf(&b, "\n%s down", n.name)
			continue
		}
		gen, seq := n.disk.Last()
		fmt.Fprintf(&b, "\n%s inc %d %s gen %d prom %d last (%d,%d) commit %d durable %d requests %d parked %d inflight %d", n.name, n.inc, n.core.role, n.core.gen,
			n.core.prom, gen, seq, n.disk.commit, n.core.durable, len(n.reqs), len(n.core.p.parked), n.core.p.inflight.len())
		for _, p := range n.core.p.peers {
			fmt.Fprintf(&b, "\n   peer %s up %v ready %v next %d held %d durable %d sealed %v behind %v", p.node, p.up, p.ready, p.next, p.held, p.durable, p.sealed, p.behind)
		}
		if j := n.core.p.join; j != nil {
			fmt.Fprintf(&b, "\n   join %+v", *j)
		}
	}
	return b.String()
}

// level tells whether all members are UpToDate and the same.
func (s *sim) level() bool {
	var first *simNode
	for _, m := range s.rec.Members {
		n := s.node(m.Node)
		if m.State != UpToDate || m.Amnesiac || n.core == nil || m.Incarnation != n.inc {
			return false
		}
		_, last := n.disk.Last()
		if n.disk.commit != last || len(n.reqs) > 0 {
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

func TestSimulation(t *testing.T) {
	seeds := *simSeeds
	if testing.Short() {
		seeds /= 10
	}
	var answered, reads, gens, imports int
	for seed := uint64(1); seed <= uint64(seeds); seed++ {
		if *simSeed != 0 {
			seed = *simSeed
		}
		name := fmt.Sprintf("seed=%d", seed)
		ok := t.Run(name, func(t *testing.T) {
			n, policy := 2+int(seed%2), AckAll
			if seed%4 == 3 {
				policy = AckMajority
			}
			s := newSim(t, seed, n, policy)
			s.trace = *simSeed != 0
			s.faults = []float64{0.3, 1, 3}[seed%3]
			for range 6000 {
				s.step()
				if s.rnd.IntN(600) == 0 {
					s.failover()
				}
			}
			s.settle()
			answered += s.answered
			reads += s.reads
			gens += int(s.rec.Generation)
			for _, n := range s.nodes {
				imports += n.disk.imports
			}
		})
		if !ok || *simSeed != 0 {
			break
		}
	}
	t.Logf("%d answered, %d of them reads; %d generations; %d pieces copied", answered, reads, gens, imports)
}

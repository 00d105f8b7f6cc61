package replication

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"blkd/blockdev"
)

var (
	simSeeds = flag.Int("sim.seeds", 300, "seeds of the simulation")
	simFirst = flag.Uint64("sim.first", 1, "the first of them")
	simSeed  = flag.Uint64("sim.seed", 0, "run only this seed, with a trace")
)

// sim is a cluster of cores under a seeded scheduler: messages are delayed, lost
// with their connection, and cut off one way; processes crash, machines lose
// power, pause, become slow and come back; the quorum answers late or not at all.
type sim struct {
	t     failer
	rnd   *rand.Rand
	trace bool
	now   Instant
	nodes []*simNode
	wires map[[2]int]*wire
	todo  []event
	limit Limits

	// The quorum.
	rec *Record

	// Faults.
	quiet   bool
	idle    bool // no client begins anything
	profile int
	faults  float64
	scale   time.Duration // intervals are that much shorter than usual
	syncMs  float64       // how long a sync takes on average
	readMs  float64       // and each half of a read

	checks
	clients
}

// failer is what the simulation needs of a test. A failure does not return.
type failer interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
}

type simNode struct {
	id     int
	name   NodeID
	disk   *memReplica
	core   *Core // nil: down
	inc    Incarnation
	paused Instant // until
	deaf   Instant // until: the quorum is not reachable
	slow   Instant // until: it does little
	skew   Instant
	rate   int64 // of its clock: so many ns too many in a ms
	power  bool  // the last stop lost what was not synced
	reqs   map[*Request]*op
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
	node int // -1: the quorum
	inc  Incarnation
	do   func()
}

// simConfig is the volume that a seed simulates.
type simConfig struct {
	nodes int
	shape Shape
}

// configOf spreads the seeds over the kinds of volumes.
func configOf(seed uint64) simConfig {
	c := simConfig{2 + int(seed%2), Shape{AckAll, 1, DurableFlush}}
	switch seed % 8 {
	case 3, 7:
		c.shape.Policy, c.shape.MinCopies = AckMajority, 2
	case 4:
		c.shape.MinCopies = 2
	}
	switch seed % 10 {
	case 5:
		c.shape.Durability = DurableWrite
	case 6:
		c = simConfig{1, Shape{AckAll, 1, DurableFlush}}
	case 9:
		c = simConfig{5, Shape{AckMajority, 2, DurableFlush}}
	}
	return c
}

func newSim(t failer, seed uint64, cfg simConfig) *sim {
	s := &sim{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), wires: map[[2]int]*wire{}, faults: 1, scale: 1, syncMs: 4, readMs: 1}
	if s.rnd.IntN(3) > 0 {
		s.scale = 6
	}
	s.profile = s.rnd.IntN(profiles)
	s.checks.init()
	s.clients.init()
	s.rec = &Record{Lineage: 7, Generation: 1, Number: 1, Policy: cfg.shape.Policy, MinCopies: cfg.shape.MinCopies,
		Durability: cfg.shape.Durability, Attachment: 1}
	if s.rnd.IntN(2) == 0 {
		s.limit = Limits{EntryBytes: blockSize, SendBytes: 10000, CopyBytes: blockSize, LagBytes: 1 << 18}
	}
	for i := range cfg.nodes {
		n := &simNode{id: i, name: NodeID(fmt.Sprintf("n%d", i+1)), disk: newMemReplica(), reqs: map[*Request]*op{}}
		n.skew = Instant(s.rnd.Int64N(int64(time.Hour)))
		n.rate = s.rnd.Int64N(2001) - 1000
		if s.rnd.IntN(2) == 0 {
			n.disk.retain = 1 + s.rnd.IntN(20)
		}
		s.nodes = append(s.nodes, n)
		n.inc = Incarnation(s.rnd.Uint64() | 1)
		s.rec.Members = append(s.rec.Members, Member{Node: n.name, Incarnation: n.inc, State: UpToDate})
		for j := range cfg.nodes {
			if j != i {
				s.wires[[2]int{i, j}] = &wire{}
			}
		}
	}
	s.rec.Primary, s.rec.PrimaryIncarnation = s.nodes[0].name, s.nodes[0].inc
	for _, n := range s.nodes {
		s.boot(n, true)
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
	n.disk.onCommit = func(e blockdev.Entry) { s.committedBy(n, e) }
	n.disk.onAppend = func(prev Generation, e blockdev.Entry) { s.appendedBy(n, prev, e) }
	n.core = NewCore(Config{Self: n.name, Incarnation: n.inc, Replica: n.disk, Gate: n.disk, Now: s.clock(n), Fresh: fresh,
		Durable: n.disk.durable(), Limits: s.limit, Times: s.times(),
		Events: Events{
			Note:   func(text string) { s.logf("%s: %s", n.name, text) },
			Role:   func(r Role, g Generation) { s.role(n, r, g) },
			Served: func(c *Certificate) { s.certified(n, c) },
			Mended: func(off int64, from NodeID) { s.mendedBy(n, off, from) },
		}})
	s.deliverRecord(n)
}

// times are the usual ones, but shorter.
func (s *sim) times() (t Times) {
	t = t.withDefaults()
	for _, d := range []*time.Duration{&t.Lease, &t.Drift, &t.Probe, &t.Drop, &t.Slow, &t.Retry} {
		*d /= s.scale
	}
	return t
}

func (s *sim) clock(n *simNode) Instant {
	return s.now + n.skew + s.now*Instant(n.rate)/Instant(time.Millisecond)
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
		s.send(n, x)
	}
	if e.Failed != nil {
		s.fatalf("%s failed: %v", n.name, e.Failed)
	}
	for _, r := range e.Done {
		s.done(n, r)
	}
	for _, r := range e.Reads {
		s.readLocal(n, r)
	}
	if e.Sync {
		s.sync(n)
	}
	for _, p := range e.Proposals {
		s.propose(n, p)
	}
}

func (s *sim) send(n *simNode, x Send) {
	w := s.wires[[2]int{n.id, s.node(x.To).id}]
	if !w.up {
		return
	}
	m := *x.Msg
	m.Entries = slices.Clone(m.Entries)
	for i := range m.Entries {
		m.Entries[i].Data = slices.Clone(m.Entries[i].Data)
	}
	m.Data = slices.Clone(m.Data)
	w.queue = append(w.queue, &m)
	if s.trace && (m.Kind != MsgAppend || len(m.Entries) > 0) && m.Kind != MsgAck {
		s.logf("%s -> %s %s gen %d prev (%d,%d) %d entries, last (%d,%d) held %d durable %d copy %d", n.name, x.To, m.Kind, m.Gen,
			m.PrevGen, m.PrevSeq, len(m.Entries), m.LastGen, m.LastSeq, m.Held, m.Durable, m.Copy)
	}
}

func (s *sim) readLocal(n *simNode, r *Request) {
	inc := n.inc
	var err error
	answer := func() {
		if n.core != nil && n.inc == inc {
			n.core.Read(s.clock(n), r, err)
			s.effects(n)
		}
	}
	read := func() {
		if n.core == nil || n.inc != inc {
			return
		}
		err = n.disk.read(r.Data, r.Off/blockSize*blockSize)
		if s.rnd.IntN(2) == 0 {
			answer()
		} else {
			s.later(n, s.delay(s.readMs), answer)
		}
	}
	if r.job == nil && s.rnd.IntN(2) == 0 {
		read()
	} else {
		s.later(n, s.delay(s.readMs), read)
	}
}

func (s *sim) sync(n *simNode) {
	snap, cuts, core := n.disk.memState.clone(), n.disk.cuts, n.core
	s.later(n, s.delay(s.syncMs), func() {
		if n.core != core {
			return // of a run, or of a replica, that is no more
		}
		if n.disk.cuts == cuts {
			n.disk.synced = snap
		}
		n.core.Synced(s.clock(n), nil)
		s.effects(n)
	})
}

func (s *sim) node(name NodeID) *simNode {
	return s.nodes[slices.IndexFunc(s.nodes, func(n *simNode) bool { return n.name == name })]
}

// reset breaks the connection between two nodes.
func (s *sim) reset(a, b *simNode) {
	if a == b {
		return
	}
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
	if a == b || a.core == nil || b.core == nil {
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

// step lets one thing happen.
func (s *sim) step() {
	s.now += Instant(s.rnd.Int64N(int64(time.Millisecond)))
	s.events()
	for _, n := range s.nodes {
		if s.awake(n) && s.rnd.IntN(20) == 0 {
			n.core.Tick(s.clock(n))
			s.effects(n)
		}
	}
	for i := range s.nodes {
		for j, n := range s.nodes {
			w := s.wires[[2]int{i, j}]
			if w == nil || w.cut || n.slow > s.now && s.rnd.IntN(100) > 0 {
				continue
			}
			for len(w.queue) > 0 && s.rnd.IntN(3) > 0 && s.awake(n) {
				s.receive(i, n, w)
			}
		}
	}
	if !s.idle && s.rnd.IntN(3) == 0 {
		s.client()
	}
	if !s.quiet {
		s.disturb()
	}
	s.check()
}

func (s *sim) awake(n *simNode) bool { return n.core != nil && n.paused <= s.now }

// events lets what is due happen.
func (s *sim) events() {
	for i := 0; i < len(s.todo); i++ {
		e := s.todo[i]
		if e.at > s.now || e.node >= 0 && s.nodes[e.node].inc == e.inc && s.nodes[e.node].paused > s.now {
			continue
		}
		s.todo = slices.Delete(s.todo, i, i+1)
		i--
		if e.node < 0 || s.nodes[e.node].inc == e.inc {
			e.do()
		}
	}
}

func (s *sim) receive(from int, to *simNode, w *wire) {
	m := w.queue[0]
	w.queue = w.queue[1:]
	to.core.Receive(s.clock(to), s.nodes[from].name, m)
	s.effects(to)
}

// runSeed is one run of the simulation.
func runSeed(t failer, seed uint64, trace bool) *sim {
	s := newSim(t, seed, configOf(seed))
	s.trace = trace
	s.faults = []float64{0.5, 1, 3}[seed%3]
	for range 6000 {
		s.step()
		if s.rnd.IntN(600/int(s.scale)) == 0 {
			s.failover()
		}
	}
	s.settle()
	return s
}

func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		runSeed(t, *simSeed, true)
		return
	}
	seeds := *simSeeds
	if testing.Short() {
		seeds /= 10
	}
	var sum tally
	for seed := *simFirst; seed < *simFirst+uint64(seeds); seed++ {
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			sum.add(runSeed(t, seed, false))
		})
		if !ok {
			break
		}
	}
	t.Logf("%+v", sum)
}

// tally is what happened in many runs.
type tally struct {
	answered, reads, flushes, generations, copies, recoveries, takeovers, shapes, evictions, resizes, rejoins, mended, unmended, comparisons int
}

func (sum *tally) add(s *sim) {
	sum.answered += s.answered
	sum.reads += s.reads
	sum.flushes += s.flushes
	sum.generations += int(s.rec.Generation)
	sum.recoveries += s.recoveries
	sum.takeovers += s.takeovers
	sum.shapes += s.shapes
	sum.evictions += s.evictions
	sum.resizes += s.resizes
	sum.mended += s.mended
	sum.unmended += s.unmended
	sum.comparisons += s.comparisons
	for _, n := range s.nodes {
		sum.copies += n.disk.imports
		sum.rejoins += n.disk.rejoins
	}
}

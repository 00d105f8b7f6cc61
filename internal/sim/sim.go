package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"blkd/blockdev"
	"blkd/internal/erasure"
	"blkd/internal/model"
	"blkd/metadata"
	"blkd/replication"
)

// instant is a time of the simulation, or of a node's clock.
type instant = replication.Instant

// sim is a cluster: messages are delayed, lost with their connection, and cut off
// one way; processes crash, machines lose power, pause, become slow and come back;
// the quorum answers late or not at all.
type sim struct {
	rnd   *rand.Rand // of everything but what the plan says
	dice  *rand.Rand // of checks
	out   io.Writer  // of the trace; nil: nobody reads it
	hash  uint64     // of everything that has happened
	now   instant
	nodes []*node
	data  int // so many of them may have replicas, the first ones
	wires [][]wire
	todo  queue
	turn  uint64 // orders events of one time

	setup
	quiet   bool        // all faults have ended
	damaged bool        // a scenario has changed a shard behind everybody's back
	joins   int         // invitations that were sent
	struck  func(*node) // what happens to a node that is cut off
	cutOff  bool        // one was
	idle    bool        // no client begins anything
	bare    bool        // a scenario: nothing is promoted by itself
	gone    bool        // nobody has what the volume held: it is never level again
	readMs  float64
	syncMs  float64 // how long a sync takes on average

	quorum
	oracle
	replay *model.Replay
	clients
	passing
	Tally
}

// setup is what a seed says of the cluster.
type setup struct {
	shape    replication.Shape
	code     *erasure.Code // nil: a mirror
	replicas int
	spares   int  // nodes without a replica, at first
	external bool // the quorum is not among the nodes that fail
	raft     bool // the quorum is Raft on all nodes, not one list
	scale    time.Duration
	tempo    float64 // everything is that much rarer
	limits   replication.Limits
	profile  int
	faults   float64
}

type node struct {
	id         int
	name       replication.NodeID
	witness    bool
	disk       *disk
	has        bool              // it has a replica on its disk
	up         bool              // it runs,
	registered bool              // and the quorum knows
	core       *replication.Core // nil: no replica is open
	inc        replication.Incarnation
	paused     instant // until
	deaf       instant // until: the quorum is not reachable
	slow       instant // until: it does little
	lazy       instant // until: its disk is slow
	excused    uint64  // it may lack what the logs of these nodes do not have, a bit for each
	gaveUp     uint64  // whom it had given up when it asked for its last change of the members
	skew       instant
	rate       int64 // of its clock: so many ns too many in a ms
	reqs       map[*replication.Request]*op

	identity
	replayed
	run       int    // counts its starts and its ends
	voter     *voter // its part in the quorum; nil: none, or it is no Raft
	store     *store // its metadata; nil: it is no Raft
	left      bool   // its metadata disk has failed in this run
	replacing bool   // an operator has asked to replace it
	detector  *metadata.Detector
	beats     []uint64 // sent to each
	watches   int      // the runs of nodes that the detector knows of
	image     *image   // of an earlier time; nil: none
	codedNode
	newest *image // what was there when it got that
}

// wire carries messages one way, in order.
type wire struct {
	queue  []*replication.Message
	due    []instant
	cut    bool
	up     bool
	armed  bool // its next message has its event
	dialed bool // somebody connects these two
}

func newSim(seed uint64, c setup, out io.Writer) *sim {
	s := &sim{setup: c, rnd: rand.New(rand.NewPCG(seed, 3)), dice: rand.New(rand.NewPCG(seed, 6)), out: out, hash: 14695981039346656037, readMs: 1, syncMs: 4}
	s.shares(seed)
	return s
}

// build makes the cluster, which begins to work.
func (s *sim) build() {
	s.data = s.replicas + s.spares
	total := s.data
	if s.external || total == 2 {
		total++ // a witness
	}
	for i := range total {
		n := &node{id: i, name: replication.NodeID(fmt.Sprintf("n%d", i+1)), witness: i >= s.data, disk: newDisk(), up: true, registered: true,
			reqs: map[*replication.Request]*op{}, beats: make([]uint64, total)}
		n.disk.staging = s.code != nil
		n.skew = instant(s.rnd.Int64N(int64(time.Hour)))
		n.rate = s.rnd.Int64N(2001) - 1000
		if s.rnd.IntN(2) == 0 {
			n.disk.retain = 1 + s.rnd.IntN(20)
		}
		if s.bare {
			n.skew, n.rate, n.disk.retain = 0, 0, 1<<30
		}
		s.nodes = append(s.nodes, n)
		s.wires = append(s.wires, make([]wire, total))
	}
	s.oracle.init()
	s.chronicle.init()
	s.startReplay()
	s.found()
	s.clients.init(s)
	s.openGateways()
	for _, n := range s.nodes[:s.replicas] {
		if s.raft {
			s.reconcile(n.voter)
		} else {
			s.told(n, s.rec)
		}
	}
	for i, a := range s.nodes {
		s.pulse(a)
		for _, b := range s.nodes[:i] {
			s.connect(a, b)
		}
	}
}

// note enters what happens into the trace.
func (s *sim) note(what string, numbers ...uint64) {
	h := s.hash
	for i := range len(what) {
		h = (h ^ uint64(what[i])) * 1099511628211
	}
	h = (h ^ uint64(s.now)) * 1099511628211
	for _, x := range numbers {
		h = (h ^ x) * 1099511628211
	}
	s.hash = h
}

// logf writes a line of the trace for people.
func (s *sim) logf(format string, args ...any) {
	if s.out != nil {
		fmt.Fprintf(s.out, "%10.3fms "+format+"\n", append([]any{float64(s.now) / 1e6}, args...)...)
	}
}

func (s *sim) at(t instant, n *node, do func()) {
	e := event{n: n, do: do}
	if n != nil {
		e.inc = n.inc
	}
	s.todo.push(due{at: t, turn: s.turn}, e)
	s.turn++
}

// later lets something happen at a node, if it is still the same run of it.
func (s *sim) later(n *node, d time.Duration, do func()) { s.at(s.now+instant(d), n, do) }

// step lets one thing happen.
func (s *sim) step() {
	when, e := s.todo.pop()
	s.now = max(s.now, when.at)
	if e.n != nil {
		switch {
		case e.n.inc != e.inc || !e.n.up:
			return
		case e.n.paused > s.now:
			when.at = s.looks(e.n)
			s.todo.push(when, e)
			return
		}
	}
	e.do()
	s.check()
}

// looks is when to see again whether a paused node is awake, which may be early.
func (s *sim) looks(n *node) instant { return min(n.paused, s.now+instant(20*time.Millisecond)) }

// run lets time pass.
func (s *sim) run(d time.Duration) {
	end := s.now + instant(d)
	for s.todo.next() <= end {
		s.step()
	}
	s.now = end
}

// scaled is an interval of the nodes', as short as the seed makes them.
func (s *sim) scaled(d time.Duration) time.Duration { return d / s.scale }

// delay draws a time that is usually about so many milliseconds.
func (s *sim) delay(ms float64) time.Duration {
	d := s.rnd.ExpFloat64() * ms
	if s.rnd.IntN(50) == 0 {
		d *= 20
	}
	return time.Duration(d * float64(time.Millisecond))
}

func (s *sim) between(a, b time.Duration) time.Duration {
	return a + time.Duration(s.rnd.Int64N(int64(b-a)))
}

func (s *sim) clock(n *node) instant {
	return s.now + n.skew + s.now*instant(n.rate)/instant(time.Millisecond)
}

func (s *sim) node(name replication.NodeID) *node {
	for _, n := range s.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

func (s *sim) awake(n *node) bool { return n.core != nil && n.paused <= s.now }

// boot opens a node's replica. Made tells that its store was made just now.
func (s *sim) boot(n *node, rec *replication.Record, made bool) {
	_, promised := n.disk.Promised()
	lost := made && rec.Lost(n.name, promised)
	if lost {
		_, _ = n.disk.Reset(0, 0), n.shard.Reset(0, 0)
	}
	n.has = true
	n.disk.synced, n.disk.doomed = n.disk.content, false // what is found is synced
	n.disk.onCommit = func(e *blockdev.Entry) { s.committedBy(n, e) }
	n.disk.onAppend = func(prev replication.Generation, e *blockdev.Entry) {
		s.appendedBy(n, prev, e)
		s.replay.Appended(n.id, uint64(e.Gen), uint64(e.Seq))
	}
	n.disk.writes = watcher{}
	replica := s.replica(n)
	n.core = replication.NewCore(replication.Config{Self: n.name, Incarnation: n.inc, Replica: replica, Coded: n.coded, Gate: n.disk, Now: s.clock(n),
		Fresh: made && !lost, Durable: n.disk.durable(), Limits: s.limits, Times: s.times(),
		Events: replication.Events{
			Note:    s.notes(n),
			Role:    func(r replication.Role, g replication.Generation) { s.roleChanged(n, r, g) },
			Served:  func(c *replication.Certificate) { s.certified(n, c) },
			Mended:  func(off int64, from replication.NodeID) { s.mendedBy(n, off, from) },
			Rebuilt: func(off int64, at replication.NodeID) { s.rebuiltAt(n, off, at) },
		}})
	s.opened(n, made)
	core := n.core
	for _, m := range s.nodes {
		s.dial(n, m)
	}
	s.tick(n, core)
	s.effects(n)
}

// notes takes down what a core says for people; nil: nobody reads it.
func (s *sim) notes(n *node) func(string) {
	if s.out == nil {
		return nil
	}
	return func(text string) { s.logf("%s: %s", n.name, text) }
}

// times are the usual ones, but shorter.
func (s *sim) times() replication.Times {
	t := replication.Times{Lease: 600 * time.Millisecond, Drift: 2 * time.Millisecond, Probe: 100 * time.Millisecond,
		Drop: 700 * time.Millisecond, Slow: 3 * time.Second, Retry: 100 * time.Millisecond}
	for _, d := range []*time.Duration{&t.Lease, &t.Drift, &t.Probe, &t.Drop, &t.Slow, &t.Retry} {
		*d = s.scaled(*d)
	}
	return t
}

// tick lets a core's time pass as long as it lives.
func (s *sim) tick(n *node, core *replication.Core) {
	s.later(n, s.between(s.scaled(20*time.Millisecond), s.scaled(50*time.Millisecond)), func() {
		if n.core == core {
			core.Tick(s.clock(n))
			s.effects(n)
			s.tick(n, core)
		}
	})
}

// effects carries out what a core asked for.
func (s *sim) effects(n *node) {
	if n.core == nil {
		return
	}
	core := n.core
	s.stepped(n)
	if x := n.disk.strike; x != nil && x.now {
		defer s.struck(n)
		if !x.after {
			return // nothing of this step is seen by others
		}
	}
	e := core.Take()
	for _, x := range e.Sends {
		s.send(n, x)
	}
	for _, r := range e.Done {
		s.done(n, r)
	}
	if e.Failed != nil {
		s.failed(n, e.Failed)
		return
	}
	for _, r := range e.Reads {
		s.readLocal(n, core, r)
	}
	for _, t := range e.Tasks {
		s.runTask(n, core, t)
	}
	if e.Sync {
		s.sync(n, core)
	}
	for _, p := range e.Proposals {
		s.propose(n, p)
	}
}

// send puts a message on the wire.
func (s *sim) send(n *node, x replication.Send) {
	to := s.node(x.To)
	s.said(n, x)
	w := &s.wires[n.id][to.id]
	if !w.up {
		return
	}
	m := *x.Msg
	m.Entries, m.Data = slices.Clone(m.Entries), slices.Clone(m.Data)
	w.queue = append(w.queue, &m)
	due := s.now + instant(s.delay(0.3))
	if k := len(w.due); k > 0 {
		due = max(due, w.due[k-1])
	}
	w.due = append(w.due, due)
	if m.Kind == replication.MsgJoin {
		s.joins++
	}
	s.note("send", uint64(n.id), uint64(to.id), uint64(m.Kind), uint64(m.Gen), uint64(m.PrevSeq), uint64(m.LastSeq), uint64(m.Held), uint64(len(m.Entries)))
	if s.out != nil && (m.Kind != replication.MsgAppend || len(m.Entries) > 0) && m.Kind != replication.MsgAck {
		s.logf("%s -> %s %s gen %d prev (%d,%d) %d entries, last (%d,%d) held %d durable %d copy %d", n.name, x.To, m.Kind, m.Gen,
			m.PrevGen, m.PrevSeq, len(m.Entries), m.LastGen, m.LastSeq, m.Held, m.Durable, m.Copy)
	}
	s.arm(n, to)
}

// arm lets the first message of a wire arrive when it is due.
func (s *sim) arm(from, to *node) {
	w := &s.wires[from.id][to.id]
	if w.armed || w.cut || len(w.queue) == 0 {
		return
	}
	w.armed = true
	s.at(max(s.now, w.due[0]), nil, func() { s.arrive(from, to) })
}

func (s *sim) arrive(from, to *node) {
	w := &s.wires[from.id][to.id]
	w.armed = false
	switch {
	case w.cut || len(w.queue) == 0:
		return // it is armed again when that ends
	case to.core == nil:
		w.queue, w.due = nil, nil // the connection is for a replica that is not there
		return
	case w.due[0] > s.now: // another one, of a later connection
	case to.paused > s.now:
		w.due[0] = s.looks(to)
	case to.slow > s.now && s.rnd.IntN(3) > 0:
		w.due[0] = s.now + instant(s.delay(30))
	default:
		m := w.queue[0]
		w.queue, w.due = w.queue[1:], w.due[1:]
		s.receive(from, to, m)
	}
	s.arm(from, to)
}

// receive lets a core act on a message, and checks that it does not where it must not.
func (s *sim) receive(from, to *node, m *replication.Message) {
	_, last := to.disk.Last()
	commit, promised := to.disk.Committed(), to.core.View().Promised()
	s.replay.Heard(to.id, uint64(m.Gen))
	to.core.Receive(s.clock(to), from.name, m)
	if m.To != to.inc || m.Kind == replication.MsgAppend && m.Gen < promised && m.Lineage == to.disk.lineage {
		rule := "S2"
		if m.To != to.inc {
			rule = "I9"
		}
		if _, now := to.disk.Last(); now != last || to.disk.Committed() != commit {
			s.violate(rule, "%s has promised generation %d, and a %v of generation %d for run %x changes its log from (%d, %d) to (%d, %d)", to.name,
				promised, m.Kind, m.Gen, m.To, last, commit, now, to.disk.Committed())
		}
	}
	s.effects(to)
}

// readLocal reads from the disk, at one moment, and tells the core at another.
func (s *sim) readLocal(n *node, core *replication.Core, r *replication.Request) {
	var err error
	var rest bool
	answer := func() {
		if n.core == core {
			if rest {
				core.ReadRest(s.clock(n), r)
			} else {
				core.Read(s.clock(n), r, err)
			}
			s.effects(n)
		}
	}
	read := func() {
		if n.core != core {
			return
		}
		rest, err = s.read(n, r)
		if s.rnd.IntN(2) == 0 {
			answer()
		} else {
			s.later(n, s.delay(s.readMs), answer)
		}
	}
	if n.reqs[r] != nil && s.rnd.IntN(2) == 0 {
		read()
	} else {
		s.later(n, s.delay(s.readMs), read)
	}
}

func (s *sim) sync(n *node, core *replication.Core) {
	snap, cuts := n.disk.content, n.disk.cuts
	ms := s.syncMs
	if n.lazy > s.now {
		ms *= 50
	}
	s.later(n, s.delay(ms), func() {
		if n.core != core {
			return // of a run, or of a replica, that is no more
		}
		err := n.disk.fails()
		n.disk.doomed = n.disk.doomed || err != nil
		if !n.disk.doomed && n.disk.cuts == cuts {
			n.disk.synced = snap
		}
		core.Synced(s.clock(n), err)
		s.effects(n)
	})
}

// failed ends a node whose disk has failed: nobody knows what of the last writes the
// kernel has kept.
func (s *sim) failed(n *node, err error) {
	s.logf("%s fails: %v", n.name, err)
	s.DiskErrors++
	n.ioError = true
	s.tear(n) // before: nothing is done to a store that has failed
	n.tasks = nil
	n.disk.losePower(func(most int) int { return s.rnd.IntN(most + 1) })
	s.lostPower(n)
	s.crash(n, false)
}

// reset breaks the connection between two nodes. It is made again some time later.
func (s *sim) reset(a, b *node) {
	if a == b {
		return
	}
	for _, x := range [][2]*node{{a, b}, {b, a}} {
		w := &s.wires[x[0].id][x[1].id]
		w.queue, w.due = nil, nil
		if w.up {
			w.up = false
			if x[0].core != nil {
				x[0].core.Disconnected(s.clock(x[0]), x[1].name)
				s.effects(x[0])
			}
		}
	}
	s.dial(a, b)
}

// dial connects two nodes when nothing is in the way; what ends that dials again.
func (s *sim) dial(a, b *node) {
	w := &s.wires[min(a.id, b.id)][max(a.id, b.id)]
	if a == b || w.dialed || s.bare {
		return
	}
	w.dialed = true
	s.at(s.now+instant(s.delay(15*s.tempo/float64(s.scale))), nil, func() {
		w.dialed = false
		s.connect(a, b)
	})
}

func (s *sim) connect(a, b *node) bool {
	if a.core == nil || b.core == nil || !a.up || !b.up {
		return false
	}
	for _, x := range [][2]*node{{a, b}, {b, a}} {
		if w := &s.wires[x[0].id][x[1].id]; w.up || w.cut {
			return w.up
		}
	}
	for _, x := range [][2]*node{{a, b}, {b, a}} {
		s.wires[x[0].id][x[1].id].up = true
	}
	for _, x := range [][2]*node{{a, b}, {b, a}} {
		if x[0].core != nil {
			x[0].core.Connected(s.clock(x[0]), x[1].name, replication.WireVersion)
			s.effects(x[0])
		}
	}
	return true
}

package sim

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"blkd/internal/replicas"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"

	"go.etcd.io/raft/v3/raftpb"
)

// voter is a run of a node's part in the quorum, whether it votes or learns: the Raft
// core of production on a disk of the simulation, and what is around it there.
type voter struct {
	n        *node
	core     *metadata.Core // nil: the node is blank, and waits to be let in
	log      *metadata.Log
	id       uint64 // of Raft
	first    uint64 // index that its log ended at when it started
	taking   bool   // it exchanges messages
	answered bool   // its registration was
	member   bool   // its run is registered, and its state has that

	todo  []func() // what has come in since its last round
	woken bool     // there will be a round
	busy  instant  // until: its disk syncs, and nothing else happens

	status  metadata.ServerStatus // after its last round
	waiting map[string][]waiting  // answers that it owes, by request
	led     uint64                // the term in which it led at its last round; 0: it did not
	steward *metadata.Steward     // of this reign; nil: it does not lead

	volume *metapb.Volume // as its state has it,
	rec    *replication.Record
	news   bool // nodes may have changed since its detector was told
	reads  map[uint64]*reading
	asked  map[*node]bool    // which others have answered, or cannot, when it started
	shown  map[uint64]uint64 // how far the others have shown to be, by Raft id
}

// waiting is who waits for an answer.
type waiting struct {
	a    *asking
	from *voter // nil: an operator
}

const raftTick = 50 * time.Millisecond

// quiet is for logs that nobody reads.
var quiet = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError + 1}))

// openVoter opens a node's part in the quorum with what is on its disk.
func (s *sim) openVoter(n *node, founders *metapb.Command) *voter {
	v := &voter{n: n, id: n.raftID, news: true, waiting: map[string][]waiting{}, reads: map[uint64]*reading{},
		asked: map[*node]bool{}, shown: map[uint64]uint64{}}
	n.store.wrote = func(e *raftpb.Entry) { s.wroteEntry(n, e) }
	var err error
	if v.log, err = metadata.OpenLogOn(n.store, string(n.name)); err == nil {
		v.core, err = metadata.NewCore(metadata.CoreConfig{ID: v.id, Log: v.log, Founders: founders, Logger: quiet, SnapshotEntries: 40, KeepEntries: 10})
	}
	if err == nil {
		v.first, err = v.log.LastIndex()
	}
	if err != nil {
		s.violate("quorum", "%s cannot open its log: %v", n.name, err)
	}
	n.voter, s.raftNodes[v.id] = v, n
	s.raftTick(v)
	s.process(v)
	return v
}

// closeVoter ends a node's part in the quorum.
func (s *sim) closeVoter(n *node, power bool, survive func(most int) int) {
	if n.store == nil {
		return
	}
	n.voter, n.store.last = nil, nil
	if power {
		n.store.losePower(survive)
	}
}

// when lets something happen at a run of a voter, as soon as it is awake then.
func (s *sim) when(v *voter, at instant, do func()) {
	s.at(at, nil, func() {
		switch {
		case v.n.voter != v:
		case v.n.paused > s.now:
			s.when(v, s.looks(v.n), do)
		default:
			do()
		}
	})
}

// raftTick lets Raft's time pass, by the node's own clock.
func (s *sim) raftTick(v *voter) {
	d := instant(s.scaled(raftTick))
	d -= d * instant(v.n.rate) / instant(time.Millisecond)
	s.when(v, s.now+d, func() {
		s.raftTick(v)
		s.give(v, v.core.Tick)
	})
}

// give has something done in the next round, if there is one.
func (s *sim) give(v *voter, do func()) {
	if v.n.voter != v {
		return
	}
	v.todo = append(v.todo, do)
	switch {
	case v.woken:
	case v.busy > s.now:
		v.woken = true
		s.when(v, v.busy, func() { s.process(v) })
	default:
		s.process(v)
	}
}

// process does what has come in: see metadata.Server.
func (s *sim) process(v *voter) {
	todo := v.todo
	v.todo, v.woken = nil, false
	for _, do := range todo {
		do()
	}
	seen := v.n.store.syncs
	synced := func() {
		for ; seen < v.n.store.syncs; seen++ {
			v.busy = max(v.busy, s.now) + instant(s.syncTime(v.n))
		}
	}
	out, err := v.core.Process(func(list []*raftpb.Message) {
		synced() // before what it promises is sent
		for _, m := range list {
			s.post(v, m)
		}
	})
	synced()
	s.processed(v, &out)
	if err != nil {
		s.stepAside(v, err)
		return
	}
	v.settle()
	for _, a := range out.Applied {
		s.answers(v, a)
	}
	for _, id := range out.Reads {
		s.readDone(v, id)
	}
	if out.Changed {
		s.stateChanged(v)
	}
}

// syncTime is how long a sync of the metadata takes.
func (s *sim) syncTime(n *node) time.Duration {
	if s.founding {
		return 0
	}
	d := s.scaled(s.delay(s.syncMs))
	if n.lazy > s.now {
		d *= 50
	}
	return d
}

// settle forgets what a leader owed when it leads no longer, or in another term.
func (v *voter) settle() {
	led := uint64(0)
	if v.status.Leader == v.id {
		led = v.status.Term
	}
	if led != v.led {
		v.led, v.steward = led, nil
		clear(v.waiting)
	}
}

// stepAside is what a node does whose metadata disk has failed, or that ends in the
// middle of a write.
func (s *sim) stepAside(v *voter, err error) {
	x := v.n.store.last
	if x == nil {
		s.violate("quorum", "%s steps aside from the quorum: %v", v.n.name, err)
	}
	s.logf("%s steps aside from the quorum: %v", v.n.name, err)
	switch {
	case errors.Is(err, errBroken):
		s.closeVoter(v.n, false, nil) // it serves on, without the quorum
		v.n.left = true
	default:
		s.crash(v.n, x.power)
	}
}

// post sends a message to another member. It may be lost, be repeated, and overtake.
func (s *sim) post(v *voter, m *raftpb.Message) {
	to := s.raftNodes[m.GetTo()]
	if !v.taking || to == nil || to.voter == nil || to.voter.id != m.GetTo() {
		return
	}
	w := to.voter
	if s.founding {
		s.mail = append(s.mail, func() { s.hand(w, m) })
		return
	}
	copies := 1
	switch s.rnd.IntN(100) {
	case 0:
		copies = 0
	case 1:
		copies = 2
	}
	for range copies {
		s.when(w, max(s.now, v.busy)+instant(s.flight(to)), func() {
			if w.taking && s.reaches(v.n, to) {
				s.give(w, func() { s.hand(w, m) })
			}
		})
	}
}

// hand gives a message to a member, to which it may be of no use.
func (s *sim) hand(w *voter, m *raftpb.Message) { _ = w.core.Step(m) }

// flight is how long a message to a node takes.
func (s *sim) flight(to *node) time.Duration {
	if to.slow > s.now {
		return s.delay(30)
	}
	return s.delay(0.3)
}

// reaches tells whether what one node has to say about metadata comes to another.
func (s *sim) reaches(from, to *node) bool {
	return !s.wires[from.id][to.id].cut && from.deaf <= s.now && to.deaf <= s.now
}

// stateChanged takes in what a node's own copy of the state tells.
func (s *sim) stateChanged(v *voter) {
	v.news = true
	state := v.core.State()
	if x := state.Volume(volumeName); x != nil && x != v.volume {
		v.volume, v.rec = x, replicas.RecordOf(x)
		s.when(v, s.now+instant(s.delay(1)), func() { s.reconcile(v) })
	}
	s.received(v)
}

// reconcile is what a node does about a new record: see replicas.Manager.
func (s *sim) reconcile(v *voter) {
	n := v.n
	if !v.member || v.rec == nil {
		return
	}
	is := v.rec.Member(n.name) != nil
	switch {
	case n.core == nil && is:
		made := !n.has
		if made {
			s.logf("%s gets a replica", n.name)
			n.disk.empty()
			n.shard = shard{}
		}
		s.boot(n, v.rec, made)
	case n.core == nil:
		return // see sweep
	case !is:
		s.discard(n)
		return
	}
	n.core.Record(s.clock(n), v.rec)
	s.effects(n)
}

// sweep destroys what a node has that was taken away while it was down, when it is
// certain.
func (s *sim) sweep(v *voter) {
	n := v.n
	if n.core != nil || !n.has || v.rec == nil || v.rec.Member(n.name) != nil || len(v.reads) > 3 {
		return
	}
	s.readState(v, func() {
		if n.core == nil && n.has && v.rec.Member(n.name) == nil {
			s.logf("%s has no replica any more", n.name)
			n.has = false
		}
	})
}

// steer is what a node does for the quorum at each heartbeat.
func (s *sim) steer(v *voter) {
	s.sweep(v)
	if s.rnd.IntN(20) == 0 {
		s.readState(v, func() {})
	}
	if v.led == 0 {
		return
	}
	if v.steward == nil {
		v.steward = s.newSteward()
	}
	out := v.steward.Step(metadata.StewardInput{Now: time.Duration(s.clock(v.n)), Wall: s.wall(), State: v.core.State(),
		Verdicts: v.n.detector.Verdicts(), Raft: v.status.Raft()})
	for _, c := range out.Commands {
		if p := c.GetPromote(); p != nil {
			s.logf("quorum: %s asks for a failover to %s because %s", v.n.name, p.To, c.Reason)
			s.Failovers++
		}
		s.sign(c)
		s.give(v, func() { _ = v.core.Propose(c) }) // it asks again for what gets lost
	}
	if out.Change != nil {
		s.logf("quorum: %s changes the members: %s", v.n.name, out.Reason)
		s.give(v, func() { _ = v.core.ProposeConf(out.Change) })
	}
	if out.Transfer != 0 {
		s.logf("quorum: %s hands leadership over: %s", v.n.name, out.Reason)
		s.give(v, func() { _ = v.core.Transfer(out.Transfer) })
	}
}

// reading is a linearizable read that a node waits for.
type reading struct {
	floor uint64 // index that was decided before it began
	then  func()
}

// readState has something done when a node's state is as new as everything that was decided
// before. It may get lost.
func (s *sim) readState(v *voter, then func()) {
	s.readID++
	id := s.readID
	v.reads[id] = &reading{s.index, then}
	s.give(v, func() { _ = v.core.ReadIndex(id) })
}

func (s *sim) readDone(v *voter, id uint64) {
	r := v.reads[id]
	if r == nil {
		return // the network has repeated the answer
	}
	delete(v.reads, id)
	s.QuorumReads++
	if v.status.Applied < r.floor {
		s.violate("quorum", "a read at %s sees the state at index %d, and index %d was decided before it began", v.n.name, v.status.Applied, r.floor)
	}
	r.then()
}

// foundVoters founds the cluster and has the first voter elected.
func (s *sim) foundVoters(found *metapb.Command) {
	s.founding = true
	s.sign(found)
	found.Time = 0 // each founder makes the command for itself
	for _, n := range s.nodes {
		n.raftID, n.store = uint64(n.id+1), newStore()
	}
	s.state.Apply(1, found)
	s.index = 1
	for _, n := range s.nodes {
		s.openVoter(n, found).taking = true
	}
	s.state.ApplyConf(1, s.confOf())
	first := s.voters[0].voter
	for first.led == 0 {
		s.give(first, first.core.Tick)
		s.deliverMail()
	}
}

func (s *sim) confOf() *raftpb.ConfState {
	conf := new(raftpb.ConfState)
	for _, n := range s.nodes {
		if slices.Contains(s.voters, n) {
			conf.Voters = append(conf.Voters, n.raftID)
		} else {
			conf.Learners = append(conf.Learners, n.raftID)
		}
	}
	return conf
}

// deliverMail delivers everything at once, while the cluster is founded.
func (s *sim) deliverMail() {
	for len(s.mail) > 0 {
		mail := s.mail
		s.mail = nil
		for _, do := range mail {
			do()
		}
		for _, n := range s.nodes {
			s.process(n.voter)
		}
	}
}

// mustVote has the founders decide what cannot be refused.
func (s *sim) mustVote(c *metapb.Command) {
	a := s.keep(c)
	first := s.voters[0].voter
	s.give(first, func() {
		if err := first.core.Propose(c); err != nil {
			panic(fmt.Sprintf("the quorum takes no proposal: %v", err))
		}
	})
	s.deliverMail()
	if a.result.GetCode() != metapb.Code_CODE_OK || a.result == nil {
		panic(fmt.Sprintf("the quorum refuses %v: %v", c.Op, a.result))
	}
}

// shows is how far a member has come, by Raft id.
func (v *voter) shows() (x slot) {
	if v != nil {
		x = slot{v.status.Applied, v.id}
	}
	return x
}

// see notes how far another member has shown to be, and refuses one that was replaced.
func (s *sim) see(v *voter, from *node, x slot) {
	if v == nil || v.core == nil {
		return
	}
	v.shown[x.term] = max(v.shown[x.term], x.index)
	if w := from.voter; w != nil && w.id == x.term && v.core.State().Node(string(from.name)).GetId() > x.term && s.reaches(v.n, from) {
		s.logf("%s is told by %s that it was replaced", from.name, v.n.name)
		s.refused(w)
	}
}

// mendVoter ends what is wrong with a node's metadata disk, which it has to be started
// anew for.
func (s *sim) mendVoter(n *node) {
	if n.store == nil {
		return
	}
	n.store.last = nil
	if n.left {
		s.crash(n, false)
	}
}

package sim

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"blkd/internal/replicas"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

const volumeName = "v"

// quorum is the metadata: the commands that were decided, in their order, and the state
// that they make. Raft of all nodes decides; see voter. In the other seeds there is one
// log, decided while a majority of voters is awake and reachable, and a leader's steward.
type quorum struct {
	state   *metadata.State
	index   uint64              // of the last command
	rec     *replication.Record // of the newest state
	voters  []*node
	leader  *node // nil: none
	steward *metadata.Steward
	elected instant // when a leader may be elected next
	runs    int     // of nodes, that were registered
	chronicle
}

// identity is what a node's disk and machine know of its last run.
type identity struct {
	diskID       uint64
	raftID       uint64 // 0: the node is blank
	previous     replication.Incarnation
	tried        []uint64 // runs since that may be registered as well
	registeredAt uint64   // index
	booted       int      // boot, of that run
	boot         int      // how often its machine has been switched on
	clean        bool
	ioError      bool
	old          bool // the disk is one of an earlier time
	emptied      bool // the disk was emptied, and has not been brought level since
}

// found founds the cluster and makes the volume.
func (s *sim) found() {
	s.state = metadata.NewState()
	if s.external || len(s.nodes) == 1 {
		s.voters = s.nodes[len(s.nodes)-1:]
	} else {
		s.voters = s.nodes[:min(len(s.nodes), 3+2*min(len(s.nodes)/5, 1))]
	}
	found := &metapb.FoundCluster{Cluster: 7}
	for _, n := range s.nodes {
		n.diskID = uint64(100 + n.id)
		found.Founders = append(found.Founders, &metapb.Founder{Name: string(n.name), Id: uint64(n.id + 1),
			Address: string(n.name) + ":1", Disk: n.diskID, Voter: slices.Contains(s.voters, n)})
	}
	foundation := &metapb.Command{Op: &metapb.Command_FoundCluster{FoundCluster: found}}
	if s.raft {
		s.foundVoters(foundation)
	} else {
		s.must(foundation)
	}
	for _, n := range s.nodes {
		s.must(s.registration(n))
		n.previous, n.tried, n.registeredAt = n.inc, nil, s.index
		if s.raft {
			n.voter.member = true
		}
	}
	create := &metapb.CreateVolume{Name: volumeName, SizeBytes: volumeBlocks * blockSize, MinCopies: int32(s.shape.MinCopies),
		Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: int32(s.replicas)},
		Ack:    metapb.AckPolicy_ACK_POLICY_ALL, Durability: metapb.Durability_DURABILITY_FLUSH}
	if s.code != nil {
		create.Layout = &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_EC, Data: int32(s.code.K()), Parity: int32(s.code.M())}
	}
	if s.shape.Policy == replication.AckMajority {
		create.Ack = metapb.AckPolicy_ACK_POLICY_MAJORITY
	}
	if s.shape.Durability == replication.DurableWrite {
		create.Durability = metapb.Durability_DURABILITY_WRITE
	}
	for _, n := range s.nodes[:s.replicas] {
		create.Nodes = append(create.Nodes, string(n.name))
	}
	s.must(&metapb.Command{Op: &metapb.Command_CreateVolume{CreateVolume: create}})
	s.must(s.attach("c1", false))
	if !s.raft {
		s.lead(s.voters[0])
	}
	s.founding = false
}

// must decides what cannot be refused.
func (s *sim) must(c *metapb.Command) {
	if s.raft {
		s.mustVote(c)
	} else if r := s.decide(c); r.Code != metapb.Code_CODE_OK {
		panic(fmt.Sprintf("the quorum refuses %v: %s", c.Op, r.Text))
	}
}

// decide applies a command, and sends what it makes of the record to all nodes.
func (s *sim) decide(c *metapb.Command) *metapb.Result { return s.decideFor(c, nil) }

// decideFor decides a command that a proposal has become; nil: none has.
func (s *sim) decideFor(c *metapb.Command, p *replication.Proposal) *metapb.Result {
	if c.Request == nil {
		c.Request = make([]byte, 16)
		binary.LittleEndian.PutUint64(c.Request, s.rnd.Uint64())
		binary.LittleEndian.PutUint64(c.Request[8:], s.rnd.Uint64())
	}
	c.Time = s.wall()
	return s.applied(s.index+1, c, p)
}

// applied makes of the state what a command makes of it.
func (s *sim) applied(index uint64, c *metapb.Command, p *replication.Proposal) *metapb.Result {
	s.index = index
	was := s.state.Volume(volumeName)
	r := s.state.Apply(index, c)
	if c.GetRegisterNode() != nil || c.GetReplaceNode() != nil {
		s.runs++
	}
	v := s.state.Volume(volumeName)
	if v == nil || v == was {
		return r
	}
	old := s.rec
	s.rec = replicas.RecordOf(v)
	s.note("record", s.index, v.Generation, v.Number)
	if old == nil || old.Number < s.rec.Number {
		s.ruled(p)
	}
	s.recorded(old, s.rec, p)
	for _, n := range s.nodes {
		s.deliver(n)
	}
	return r
}

func (s *sim) wall() int64 { return int64(s.now) + 1_700_000_000_000_000_000 }

func bootID(n int) string { return fmt.Sprintf("boot %d", n) }

// registration is how a node's new run makes itself known.
func (s *sim) registration(n *node) *metapb.Command {
	n.inc = replication.Incarnation(s.rnd.Uint64() | 1)
	n.tried = append(slices.Clip(n.tried), uint64(n.inc))
	c := &metapb.RegisterNode{Name: string(n.name), Disk: n.diskID, Incarnation: uint64(n.inc), Previous: uint64(n.previous), Tried: n.tried,
		Clean: n.clean, IoError: n.ioError, Boot: bootID(n.boot), PreviousBoot: bootID(n.booted), Address: string(n.name) + ":1", Witness: n.witness,
		CapacityBytes: 1 << 40, FreeBytes: 1 << 39, VersionMin: 1, VersionMax: 1}
	return &metapb.Command{Op: &metapb.Command_RegisterNode{RegisterNode: c}}
}

// start starts a node that is down. It votes at once, and opens its replica when it
// has registered.
func (s *sim) start(n *node) {
	switch {
	case n.up:
	case s.raft:
		n.up, n.registered = true, false
		s.startVoter(n)
	default:
		n.up, n.registered = true, false
		s.register(n)
	}
}

// register registers a node's new run, as soon as the quorum can decide that.
func (s *sim) register(n *node) {
	if n.registered {
		return
	}
	if n.deaf > s.now || !s.decides() {
		s.later(n, s.delay(20*s.tempo), func() { s.register(n) })
		return
	}
	n.registered = true
	r := s.decide(s.registration(n))
	if r.Code != metapb.Code_CODE_OK {
		s.oldDiskFound(n)
		if r = s.decide(s.registration(n)); r.Code != metapb.Code_CODE_OK {
			s.violate("S11", "%s cannot be started, not even after it was replaced: %s", n.name, r.Text)
		}
	}
	n.previous, n.booted, n.clean, n.ioError, n.tried = n.inc, n.boot, false, false, nil
	s.logf("%s starts again, members %v", n.name, s.rec.Members)
	s.pulse(n)
	if n.has {
		s.boot(n, s.rec, false)
	}
	s.deliver(n)
}

// oldDiskFound is what an operator does about a node that may not start with an old
// disk: puts the newest one back, if others cannot do without, else says that what it
// held counts for nothing, and empties its data directory. A replaced node does not
// start with the directory that it had: that has the Raft id of before.
func (s *sim) oldDiskFound(n *node) {
	if s.spared(n) && s.operator("replace "+string(n.name), s.replacement(n)) {
		s.Replaced++
		s.emptied(n)
		return
	}
	s.restoreNewest(n)
}

func (s *sim) replacement(n *node) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_ReplaceNode{ReplaceNode: &metapb.ReplaceNode{Name: string(n.name)}}}
}

// spared tells whether others can do without what a node has.
func (s *sim) spared(n *node) bool {
	sound := 0
	for _, m := range s.rec.Set() {
		if m.Node != n.name && !m.Amnesiac && s.node(m.Node).registered {
			sound++
		}
	}
	set, m := len(s.rec.Set()), s.rec.Member(n.name)
	spared := m == nil || m.State != replication.UpToDate || sound >= s.rec.Policy.SealQuorum(set) && sound >= s.rec.Policy.AckQuorum(set)
	if s.code != nil {
		spared = spared && sound >= s.code.K()
	}
	return spared
}

// restoreNewest gives a node its newest disk back.
func (s *sim) restoreNewest(n *node) {
	s.logf("%s gets its newest disk back", n.name)
	s.putBack(n, n.newest)
	n.boot++
	n.disk.broken = false
}

// emptied gives a node an empty data directory, without the promise of before.
func (s *sim) emptied(n *node) {
	n.diskID += 1000
	n.previous, n.has, n.old, n.emptied = 0, false, false, true
	n.disk.empty()
	n.disk.lineage, n.disk.prom = 0, 0
	s.otherDisk(n)
	n.disk.broken, n.disk.doomed = false, false
	n.shard = shard{}
	if s.raft {
		n.raftID, n.tried, n.registeredAt, n.store = 0, nil, 0, newStore()
	}
	delete(s.promised, n)
}

// deliver tells a node the newest record, some time later. With Raft its own copy of the
// state tells.
func (s *sim) deliver(n *node) {
	if s.raft {
		return
	}
	r := s.rec
	s.later(n, s.delay(5), func() { s.told(n, r) })
}

func (s *sim) told(n *node, r *replication.Record) {
	switch {
	case n.deaf > s.now:
		s.at(n.deaf, n, func() { s.told(n, s.rec) })
	case n.core == nil && !n.has && r == s.rec && r.Member(n.name) != nil:
		s.logf("%s gets a replica", n.name)
		n.disk.empty()
		n.shard = shard{}
		s.boot(n, r, true)
		s.told(n, r)
	case n.core == nil:
	case r == s.rec && r.Member(n.name) == nil:
		s.discard(n)
	default:
		n.core.Record(s.clock(n), r)
		s.effects(n)
	}
}

// discard is what a node does that reads in the record that it shall have no
// replica: the data is gone, its promise stays.
func (s *sim) discard(n *node) {
	s.logf("%s has no replica any more", n.name)
	s.close(n)
	n.has = false
}

// decides tells whether the quorum has a majority at work.
func (s *sim) decides() bool {
	able := 0
	for _, n := range s.voters {
		if s.votes(n) {
			able++
		}
	}
	return able > len(s.voters)/2
}

func (s *sim) votes(n *node) bool { return n.up && n.paused <= s.now && n.deaf <= s.now }

// propose carries a core's proposal to the quorum, again and again until it is
// decided, and the answer back. Sometimes it is sent twice.
func (s *sim) propose(n *node, p replication.Proposal) {
	if s.raft && n.voter == nil {
		return // it has left the quorum, and asks in vain
	}
	if p.Members != nil {
		s.givenUp(n)
	}
	c := replicas.CommandOf(volumeName, &p)
	known := s.state.Volume(volumeName)
	if s.raft {
		known = n.voter.volume
	}
	if m := c.GetSetMembers(); m != nil {
		m.Copies = replicas.CopiesAfter(known, m.Members)
	}
	if s.raft {
		s.proposeVia(n.voter, c, &p)
		return
	}
	inc := n.inc
	var ask func(again bool)
	ask = func(again bool) {
		if !s.decides() {
			s.at(max(s.now, n.deaf)+instant(s.delay(20)), nil, func() { ask(again) })
			return
		}
		r := s.decideFor(c, &p)
		s.logf("quorum: %s asked for a change (%s): %v %s, now (%d, %d) primary %s members %v", n.name, p.Why, r.Code, r.Text,
			s.rec.Generation, s.rec.Number, s.rec.Primary, s.rec.Members)
		if again {
			s.at(max(s.now, n.deaf)+instant(s.delay(20)), nil, func() { ask(false) }) // the answer was lost
			return
		}
		if r.Code == metapb.Code_CODE_OK {
			return // the record tells
		}
		s.later(n, s.delay(5), func() {
			if n.core != nil && n.inc == inc {
				s.replay.Refused(n.id)
				n.core.Refused(s.clock(n), p.ID, r.Text)
				s.effects(n)
			}
		})
	}
	twice := s.rnd.IntN(8) == 0
	s.at(max(s.now, n.deaf)+instant(s.delay(10)), nil, func() { ask(twice) })
}

// givenUp notes for excuse whom a primary does not wait for as it asks for other members.
func (s *sim) givenUp(n *node) {
	n.gaveUp = 0
	view := n.core.View()
	for _, m := range view.Record().Members {
		if view.Lost(m) != "" {
			n.gaveUp |= 1 << s.node(m.Node).id
		}
	}
}

// operator asks for a change of the record as it is now. With Raft the answer comes
// later, and it is false.
func (s *sim) operator(what string, c *metapb.Command) (ok bool) {
	s.operatorThen(what, c, func() { ok = true })
	return ok
}

// operatorThen is operator, and then does something if it was made.
func (s *sim) operatorThen(what string, c *metapb.Command, then func()) {
	done := func(r *metapb.Result) {
		s.logf("quorum: an operator asks: %s: %v %s", what, r.Code, r.Text)
		if r.Code == metapb.Code_CODE_OK {
			then()
		}
	}
	c.By = "operator"
	switch {
	case s.raft:
		s.askFor(nil, c, nil, done)
	case s.decides():
		done(s.decide(c))
	}
}

func (s *sim) attach(holder string, takeover bool) *metapb.Command {
	v := s.state.Volume(volumeName)
	return &metapb.Command{Op: &metapb.Command_Attach{Attach: &metapb.Attach{Volume: volumeName, Generation: v.Generation, Number: v.Number,
		Holder: holder, Takeover: takeover}}}
}

// takeover gives the volume to another client, or begins another session of the same
// one: it has gone to another node, or come back.
func (s *sim) takeover() {
	holder := s.state.Volume(volumeName).Attachment.Holder
	if s.Takeovers%2 == 0 || holder == "" {
		holder = fmt.Sprintf("c%d", s.rec.Attachment+1)
	}
	s.operatorThen("takeover", s.attach(holder, true), func() { s.Takeovers++ })
}

// promote asks for a promotion.
func (s *sim) promote(n *node) {
	v := s.state.Volume(volumeName)
	s.operator("promote "+string(n.name), &metapb.Command{Op: &metapb.Command_Promote{Promote: &metapb.Promote{Volume: volumeName,
		Generation: v.Generation, Number: v.Number, To: string(n.name), Incarnation: uint64(n.inc)}}})
}

// promotable lists who may be promoted.
func (s *sim) promotable() []*node {
	var out []*node
	for _, n := range s.nodes {
		if m := s.rec.Member(n.name); n.core != nil && m != nil && m.State == replication.UpToDate && !m.Amnesiac && m.Incarnation == n.inc {
			out = append(out, n)
		}
	}
	return out
}

// members edits the recorded list, as the commands that add and remove replicas do.
func (s *sim) members(what string, edit func([]*metapb.Member) []*metapb.Member) {
	v := s.state.Volume(volumeName)
	var list []*metapb.Member
	for _, m := range v.Members {
		list = append(list, &metapb.Member{Node: m.Node, Incarnation: m.Incarnation, State: m.State, Shard: m.Shard, Amnesiac: m.Amnesiac, Log: m.Log, Leaving: m.Leaving})
	}
	s.operator(what, &metapb.Command{Op: &metapb.Command_SetMembers{SetMembers: &metapb.SetMembers{Volume: volumeName,
		Generation: v.Generation, Number: v.Number, Members: edit(list)}}})
}

// invite gives a node a replica that has none.
func (s *sim) invite(n *node) {
	if s.rec.Member(n.name) != nil || n.witness || !n.up || !n.registered || n.deaf > s.now {
		return
	}
	if s.code != nil {
		s.move(n)
		return
	}
	s.members("add "+string(n.name), func(list []*metapb.Member) []*metapb.Member {
		return append(list, &metapb.Member{Node: string(n.name), Incarnation: uint64(n.inc), State: metapb.ReplicaState_REPLICA_STATE_INCONSISTENT, Log: true})
	})
}

// leave marks a replica that shall go, or takes that back.
func (s *sim) leave(n *node) {
	if s.code != nil {
		s.stay(n)
		return
	}
	s.members("remove "+string(n.name), func(list []*metapb.Member) []*metapb.Member {
		for _, m := range list {
			if m.Node == string(n.name) {
				m.Leaving = !m.Leaving
			}
		}
		return list
	})
}

// marks reports how far the volume is committed.
func (s *sim) marks(n *node) {
	if !s.raft && !s.decides() || n.deaf > s.now || !s.awake(n) {
		return
	}
	role, gen := n.core.Role()
	if role != replication.Primary {
		return
	}
	c := &metapb.Command{Op: &metapb.Command_ReportMark{ReportMark: &metapb.ReportMark{Volume: volumeName,
		Generation: uint64(gen), Seq: uint64(n.disk.Committed())}}}
	if s.raft {
		s.askFor(n.voter, c, nil, nil)
	} else {
		s.decide(c)
	}
}

// leaves lets a primary that is to leave hand over, once all others are level.
func (s *sim) leaves(n *node) {
	m := s.rec.Member(n.name)
	if !s.awake(n) || m == nil || !m.Leaving {
		return
	}
	for _, to := range s.promotable() {
		if role, _ := n.core.Role(); role == replication.Primary && !s.rec.Member(to.name).Leaving {
			s.handover(to)
		}
	}
}

// lead makes a voter the leader: its detector judges now.
func (s *sim) lead(n *node) {
	s.leader = n
	if n == nil {
		return
	}
	s.steward = s.newSteward()
	s.logf("quorum: %s leads", n.name)
}

// newSteward begins a reign. Without Raft the voters stay.
func (s *sim) newSteward() *metadata.Steward {
	c := metadata.StewardConfig{ReplaceVoterAfter: 24 * time.Hour, StableFor: 24 * time.Hour,
		ObserveAfter: s.scaled(250 * time.Millisecond), RetryMin: s.scaled(time.Second), RetryMax: s.scaled(time.Minute)}
	if s.raft {
		c.ReplaceVoterAfter, c.StableFor = max(time.Second, s.scaled(10*time.Second)), s.scaled(5*time.Second)
	}
	steward, err := metadata.NewSteward(c)
	if err != nil {
		panic(err)
	}
	return steward
}

const heartbeat = 100 * time.Millisecond

// pulse starts what a node does all the time besides its replica: it tells the others
// that it lives, judges them, and governs if it leads.
func (s *sim) pulse(n *node) {
	d := s.scaled
	var err error
	n.detector, err = metadata.NewDetector(string(n.name), uint64(n.inc), metadata.DetectorConfig{Heartbeat: d(heartbeat),
		SuspectMin: d(500 * time.Millisecond), SuspectMax: d(1500 * time.Millisecond), RefusedWait: d(heartbeat), Stall: d(250 * time.Millisecond),
		SlowRTT: d(200 * time.Millisecond), SlowAfter: d(3 * time.Second), HoldMin: d(time.Second), HoldMax: d(10 * time.Second),
		HoldDecay: max(time.Second, d(2*time.Minute)), FlapWindow: max(time.Second, d(time.Minute))}, time.Duration(s.clock(n)))
	if err != nil {
		panic(err)
	}
	n.beats, n.watches = make([]uint64, len(s.nodes)), 0
	beat, v := 0, n.voter
	var next func()
	next = func() {
		if n.voter != v { // of a run that is no more, or that has left the quorum
			return
		}
		if beat%2 == 0 {
			s.beat(n)
		}
		n.detector.Tick(time.Duration(s.clock(n)))
		if beat++; beat%20 == 0 {
			s.marks(n)
			s.leaves(n)
		}
		s.govern(n)
		s.later(n, d(heartbeat/2)+s.between(0, time.Millisecond), next)
	}
	s.later(n, s.between(0, d(heartbeat)), next)
}

// beat sends a heartbeat to all others. It may be lost, be repeated, and overtake.
func (s *sim) beat(n *node) {
	heard := n.detector.Heard()
	for _, to := range s.nodes {
		if to == n {
			continue
		}
		n.beats[to.id]++
		copies := 1
		switch s.rnd.IntN(100) {
		case 0:
			copies = 0
		case 1:
			copies = 2
		}
		shown := n.voter.shows()
		b := metadata.Beat{From: string(n.name), Incarnation: uint64(n.inc), Seq: n.beats[to.id], Heard: heard}
		for range copies {
			s.later(to, s.delay(0.5), func() {
				if !s.wires[n.id][to.id].cut {
					s.see(to.voter, n, shown)
					b.RTT = time.Millisecond
					to.detector.Beat(time.Duration(s.clock(to)), b)
				}
			})
		}
	}
}

// govern lets the leader of the quorum do its work, and elects one when there is
// none that can.
func (s *sim) govern(n *node) {
	s.watch(n)
	if s.raft {
		s.steer(n.voter)
		return
	}
	if s.bare || !s.decides() {
		return
	}
	if s.leader == nil || !s.votes(s.leader) {
		if s.elected == 0 {
			s.elected = s.now + instant(s.scaled(time.Second)) + instant(s.delay(100))
		}
		if s.elected > s.now || !s.votes(n) || !slices.Contains(s.voters, n) {
			return
		}
		s.lead(n)
	}
	s.elected = 0
	if n != s.leader {
		return
	}
	id := func(n *node) uint64 { return s.state.Node(string(n.name)).GetId() }
	raft := metadata.RaftStatus{ID: id(n), Leader: id(n), Commit: s.index}
	for _, v := range s.voters {
		raft.Voters = append(raft.Voters, id(v))
	}
	out := s.steward.Step(metadata.StewardInput{Now: time.Duration(s.clock(n)), Wall: s.wall(), State: s.state, Verdicts: n.detector.Verdicts(), Raft: raft})
	for _, c := range out.Commands {
		r := s.decide(c)
		if p := c.GetPromote(); p != nil {
			s.logf("quorum: failover to %s because %s: %v %s", p.To, c.Reason, r.Code, r.Text)
			s.Failovers++
		}
	}
}

// watch tells a detector whom to watch.
func (s *sim) watch(n *node) {
	state, news := s.state, n.watches != s.runs
	if s.raft {
		state, news = n.voter.core.State(), n.voter.news
		n.voter.news = false
	}
	if news {
		n.watches = s.runs
		var peers []metadata.Peer
		for _, m := range state.Nodes() {
			peers = append(peers, metadata.Peer{Name: m.Name, Incarnation: m.Incarnation})
		}
		n.detector.SetPeers(time.Duration(s.clock(n)), peers)
	}
	for _, m := range s.nodes {
		if !m.up && m.boot == m.booted && s.rnd.IntN(4) == 0 { // its machine runs, and refuses connections
			n.detector.Refused(time.Duration(s.clock(n)), string(m.name))
		}
	}
}

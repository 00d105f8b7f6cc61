package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"blkd/replication"
)

// A fault is something that breaks or mends; its weights are how often it happens,
// by profile.
type fault struct {
	kind   string
	weight [profiles]float64
	do     func(s *sim, n, m *node, rnd *rand.Rand)
}

// faults are all of them. It is filled by init, for Plan draws from it what run does.
var faults []fault

func init() {
	one := func(f func(s *sim, n *node)) func(*sim, *node, *node, *rand.Rand) {
		return func(s *sim, n, _ *node, _ *rand.Rand) { f(s, n) }
	}
	drawn := func(f func(s *sim, n *node, rnd *rand.Rand)) func(*sim, *node, *node, *rand.Rand) {
		return func(s *sim, n, _ *node, rnd *rand.Rand) { f(s, n, rnd) }
	}
	two := func(f func(s *sim, n, m *node)) func(*sim, *node, *node, *rand.Rand) {
		return func(s *sim, n, m *node, _ *rand.Rand) { f(s, n, m) }
	}
	faults = []fault{
		//                         mixed splits crashes powers resyncs
		{"kill", [profiles]float64{1, 0.1, 6, 1, 2}, one(func(s *sim, n *node) { s.cutOffOr(n, false) })},
		{"power", [profiles]float64{1, 0, 0, 3, 2}, one(func(s *sim, n *node) { s.cutOffOr(n, true) })},
		{"blackout", [profiles]float64{0.1, 0, 0, 1, 0}, one(func(s *sim, _ *node) { s.blackout() })},
		{"stop", [profiles]float64{0.3, 0.1, 1, 0.5, 0.5}, one((*sim).stop)},
		{"start", [profiles]float64{6, 6, 12, 10, 12}, one((*sim).start)},
		{"pause", [profiles]float64{1, 3, 1, 0.2, 0.2}, drawn(func(s *sim, n *node, rnd *rand.Rand) { n.paused = s.during(rnd, 3*time.Second) })},
		{"deaf", [profiles]float64{1, 3, 1, 1, 0.2}, drawn(func(s *sim, n *node, rnd *rand.Rand) { n.deaf = s.during(rnd, 2*time.Second) })},
		{"slow", [profiles]float64{0.5, 1, 1, 0.2, 1}, drawn(func(s *sim, n *node, rnd *rand.Rand) { n.slow = s.during(rnd, 2*time.Second) })},
		{"slow-disk", [profiles]float64{0.5, 1, 1, 1, 1}, drawn(func(s *sim, n *node, rnd *rand.Rand) { n.lazy = s.during(rnd, 4*time.Second) })},
		{"full-disk", [profiles]float64{0.2, 0.2, 0.2, 0.2, 0.2}, drawn((*sim).fill)},
		{"io-error", [profiles]float64{0.2, 0, 0.5, 0.3, 0.2}, one((*sim).breakDisk)},
		{"old-disk", [profiles]float64{0.5, 0, 0.5, 0.5, 1}, one((*sim).oldDisk)},
		{"rot", [profiles]float64{3, 3, 1, 1, 3}, drawn((*sim).rot)},
		{"isolate", [profiles]float64{0.5, 4, 1, 0, 1}, (*sim).isolate},
		{"reset", [profiles]float64{2, 2, 2, 0.5, 4}, two((*sim).reset)},
		{"cut", [profiles]float64{2, 3, 1, 0.5, 1}, two(func(s *sim, n, m *node) { s.cut(n, m, true) })},
		{"heal", [profiles]float64{4, 4, 4, 4, 4}, two(func(s *sim, n, m *node) { s.cut(n, m, false) })},
		{"promote", [profiles]float64{2, 4, 3, 1, 1}, drawn((*sim).promoteAny)},
		{"handover", [profiles]float64{3, 3, 1, 0.2, 1}, one((*sim).handover)},
		{"takeover", [profiles]float64{1, 1, 1, 0.2, 0.2}, one(func(s *sim, _ *node) { s.takeover() })},
		{"policy", [profiles]float64{0.5, 0.5, 0.5, 0.2, 0.2}, drawn(func(s *sim, _ *node, rnd *rand.Rand) { s.change(rnd) })},
		{"evict", [profiles]float64{0.7, 0.3, 0.3, 0.3, 2}, drawn((*sim).evict)},
		{"grow", [profiles]float64{1, 1, 0.5, 0.5, 1}, one(func(s *sim, _ *node) { s.grow() })},
		{"compare", [profiles]float64{6, 6, 6, 6, 6}, drawn(func(s *sim, _ *node, rnd *rand.Rand) { s.compare(rnd) })},
		{"add", [profiles]float64{2, 2, 2, 2, 4}, one((*sim).invite)},
		{"remove", [profiles]float64{0.5, 0.2, 0.2, 0.2, 1}, one((*sim).leave)},
	}
}

// disturb does what the plan says.
func (s *sim) disturb(f Fault) {
	for i := range faults {
		if faults[i].kind != f.Kind {
			continue
		}
		s.note(f.Kind, uint64(f.A), uint64(f.B))
		s.logf("fault: %s %s %s", f.Kind, s.nodes[f.A].name, s.nodes[f.B].name)
		faults[i].do(s, s.nodes[f.A], s.nodes[f.B], rand.New(rand.NewPCG(f.Draw, 4)))
	}
}

// during is a time within the next most, as the intervals are scaled.
func (s *sim) during(rnd *rand.Rand, most time.Duration) instant {
	return s.now + instant(rnd.Int64N(int64(s.scaled(most))))
}

func (s *sim) blackout() {
	for _, n := range s.nodes[:s.setup.nodes()] {
		s.crash(n, true)
		n.boot++ // also of those that were down
	}
}

// isolate cuts a node off from its peers, maybe from the quorum, and lets another
// one be promoted.
func (s *sim) isolate(n, m *node, rnd *rand.Rand) {
	until := s.during(rnd, 3*time.Second)
	for _, x := range s.nodes {
		s.cut(n, x, true)
		s.cut(x, n, true)
	}
	if rnd.IntN(2) == 0 {
		n.deaf = until
	}
	s.at(until, nil, func() {
		for _, x := range s.nodes {
			s.cut(n, x, false)
			s.cut(x, n, false)
		}
	})
	if p := s.promotable(); n != m && slices.Contains(p, m) {
		s.promote(m)
	}
}

// cut closes one way between two nodes, or opens it.
func (s *sim) cut(n, m *node, cut bool) {
	if n == m {
		return
	}
	s.wires[n.id][m.id].cut = cut
	if !cut {
		s.arm(n, m)
		s.dial(n, m)
	}
}

func (s *sim) promoteAny(_ *node, rnd *rand.Rand) {
	if p := s.promotable(); len(p) > 0 {
		s.promote(p[rnd.IntN(len(p))])
	}
}

// cutOffOr stops a node, at once or in the middle of the next write of its metadata.
func (s *sim) cutOffOr(n *node, power bool) {
	if n.voter != nil && n.voter.core != nil && s.rnd.IntN(2) == 0 {
		n.store.last = &lastWrite{power: power, whole: s.rnd.IntN(2) == 0}
		return
	}
	s.crash(n, power)
}

// crash stops a node; power loss takes what was not synced, or a part of it.
func (s *sim) crash(n *node, power bool) {
	s.crashWith(n, power, func(most int) int { return s.rnd.IntN(most + 1) })
}

// crashWith is crash, where survive draws what survives a loss of power.
func (s *sim) crashWith(n *node, power bool, survive func(most int) int) {
	s.tear(n)
	if power && n.has {
		n.disk.losePower(survive)
		s.lostPower(n)
		n.shard.losePower(survive)
	}
	if power {
		n.boot++
	}
	s.closeVoter(n, power, survive)
	if !n.up {
		return
	}
	s.logf("%s stops, power loss %v", n.name, power)
	if s.pouring() {
		s.Torn++
	}
	n.up, n.registered = false, false
	n.run++
	n.left = false
	s.close(n)
}

// stop stops a node in order.
func (s *sim) stop(n *node) {
	if !n.registered || !n.up || n.paused > s.now {
		return
	}
	s.logf("%s is stopped", n.name)
	if n.core != nil {
		n.core.Stop(s.clock(n))
		s.effects(n)
		n.disk.synced = n.disk.content
		n.clean = n.previous == n.inc
	}
	n.up, n.registered = false, false
	n.run++
	n.left = false
	s.closeVoter(n, false, nil)
	s.close(n)
}

// close ends the run of a node's replica.
func (s *sim) close(n *node) {
	n.core = nil
	s.unanswered(n)
	for _, m := range s.nodes {
		s.reset(n, m)
	}
}

// breakDisk lets the next write of a node's replica fail, or of its metadata.
func (s *sim) breakDisk(n *node) {
	if n.voter != nil && n.voter.core != nil && s.rnd.IntN(2) == 0 {
		n.store.last = &lastWrite{fails: true}
		return
	}
	n.disk.broken = n.core != nil
}

// fill lets a node's disk be full for a while: it waits.
func (s *sim) fill(n *node, rnd *rand.Rand) { n.paused = s.during(rnd, time.Second) }

// oldDisk keeps an image of a node's data directory, or lets the node have that when
// it has run anew since.
func (s *sim) oldDisk(n *node) {
	switch {
	case n.image == nil && n.has:
		n.image = s.imageOf(n)
	case n.image != nil && n.previous != n.image.identity.previous:
		s.crash(n, false)
		s.logf("%s has the disk of an earlier time", n.name)
		n.newest = s.imageOf(n)
		boot := n.boot
		s.putBack(n, n.image)
		n.disk.synced = n.disk.content
		n.boot, n.old = boot, true
		n.has, n.image = true, nil
		s.OldDisks++
	}
}

func (s *sim) imageOf(n *node) *image {
	x := &image{disk: *n.disk, shard: n.shard, identity: n.identity}
	if s.raft {
		x.store = n.store.copied()
	}
	return x
}

// putBack lets a node have what an image has.
func (s *sim) putBack(n *node, x *image) {
	*n.disk, n.shard, n.identity = x.disk, x.shard, x.identity
	n.store = x.store
	s.otherDisk(n)
	delete(s.promised, n) // of the disk that is gone
}

// image is a copy of a node's data directory.
type image struct {
	store    *store
	disk     disk
	shard    shard
	identity identity
}

// rot lets a block fail its check. Of one block, only one node's does.
func (s *sim) rot(n *node, rnd *rand.Rand) {
	b := rnd.Int64N(8)
	if s.code != nil {
		s.rotShard(n, b)
		return
	}
	for _, x := range s.nodes {
		if x.disk.rot[b] {
			return
		}
	}
	n.disk.rot[b] = true
}

// primaries are the nodes that think that they serve.
func (s *sim) primaries() (list []*node) {
	for _, n := range s.nodes {
		if s.awake(n) {
			if role, _ := n.core.Role(); role == replication.Primary {
				list = append(list, n)
			}
		}
	}
	return list
}

func (s *sim) handover(to *node) {
	for _, p := range s.primaries() {
		if p == to {
			continue
		}
		if err := p.core.Handover(s.clock(p), to.name); err == nil {
			s.logf("%s hands over to %s", p.name, to.name)
		}
		s.effects(p)
	}
}

// change asks for another policy.
func (s *sim) change(rnd *rand.Rand) {
	if s.replicas < 3 || s.code != nil {
		return
	}
	shape := replication.Shape{Policy: replication.AckAll, MinCopies: 1 + rnd.IntN(2), Durability: replication.DurableFlush}
	if rnd.IntN(2) == 0 {
		shape.Policy, shape.MinCopies = replication.AckMajority, 2
	}
	if rnd.IntN(3) == 0 {
		shape.Durability = replication.DurableWrite
	}
	for _, p := range s.primaries() {
		_ = p.core.Change(s.clock(p), shape) // it may have been promoted away
		s.effects(p)
	}
}

// grow lets a primary make the volume a block larger. Requests beyond the old end
// follow at once, while the others may not have heard of it.
func (s *sim) grow() {
	for _, p := range s.primaries() {
		if size := p.disk.size + blockSize; size <= decisions*blockSize {
			if _, err := p.core.Resize(s.clock(p), size); err == nil {
				s.Resizes++
				s.logf("%s makes the volume %d bytes large", p.name, size)
			}
			s.effects(p)
		}
	}
}

// evict lets a primary take a replica out, or declare it worthless.
func (s *sim) evict(n *node, rnd *rand.Rand) {
	keep := rnd.IntN(3) == 0 || s.code != nil // a shard cannot be had again
	for _, p := range s.primaries() {
		core := p.core
		err := core.Evict(s.clock(p), replication.Eviction{Node: n.name, Keep: keep, Why: "evicted", Done: func(err error) {
			if err == nil {
				s.evictedBy(p, core, n, keep)
			}
		}})
		if err == nil {
			s.logf("%s evicts %s, keep %v", p.name, n.name, keep)
		}
		s.effects(p)
	}
}

// compare lets a primary compare a range with the others, which must have the same.
func (s *sim) compare(rnd *rand.Rand) {
	for _, n := range s.primaries() {
		x := &replication.Comparison{Off: rnd.Int64N(8) * blockSize, Len: (1 + rnd.Int64N(4)) * blockSize,
			Read: rnd.IntN(2) == 0, Rewrite: rnd.IntN(4) == 0}
		x.Done = func(results []replication.Compared, err error) { s.compared(n, x, results, err) }
		_ = n.core.Compare(s.clock(n), x) // another may be under way
		s.effects(n)
	}
}

// calm ends all faults.
func (s *sim) calm() {
	s.quiet = true
	for i, ws := range s.wires {
		for j := range ws {
			if ws[j].cut {
				s.cut(s.nodes[i], s.nodes[j], false)
			}
		}
	}
	for _, n := range s.nodes {
		n.paused, n.slow, n.lazy = 0, 0, 0
		s.mendVoter(n)
		n.disk.broken, n.disk.rot, n.shard.rot = false, [mostBlocks]bool{}, [decisions]bool{}
		if n.deaf > s.now {
			n.deaf = 0
			s.deliver(n)
		}
		if m := s.rec.Member(n.name); m != nil && m.Leaving && s.code == nil {
			s.leave(n)
		}
		s.start(n)
	}
	for i, n := range s.nodes {
		for _, m := range s.nodes[:i] {
			s.connect(n, m)
		}
	}
	s.refill()
}

// refill gives as many nodes a replica as had one at first.
func (s *sim) refill() {
	for _, n := range s.nodes[:s.data] {
		if len(s.rec.Members) < s.replicas {
			s.invite(n)
		}
	}
}

package replication

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A fault is something that breaks or mends; its weights are how often it happens,
// by profile.
type fault struct {
	weight [profiles]float64
	do     func(s *sim, n, m *simNode)
}

// The profiles of faults, for it takes different ones to find different bugs.
const (
	mixed    = iota
	splits   // networks and pauses; nothing is lost
	crashes  // of processes
	powers   // all lose power
	resyncs  // members leave and come back
	profiles = iota
)

var faults = []fault{
	//                 mixed splits crashes powers resyncs
	{[profiles]float64{1, 0.1, 6, 1, 2}, func(s *sim, n, _ *simNode) { s.crash(n, false) }},
	{[profiles]float64{1, 0, 0, 3, 2}, func(s *sim, n, _ *simNode) { s.crash(n, true) }},
	{[profiles]float64{0.1, 0, 0, 1, 0}, (*sim).blackout},
	{[profiles]float64{1, 3, 1, 0.2, 0.2}, func(s *sim, n, _ *simNode) { n.paused = s.during(3 * time.Second) }},
	{[profiles]float64{1, 3, 1, 1, 0.2}, func(s *sim, n, _ *simNode) { n.deaf = s.during(2 * time.Second) }},
	{[profiles]float64{0.5, 1, 1, 0.2, 1}, func(s *sim, n, _ *simNode) { n.slow = s.during(2 * time.Second) }},
	{[profiles]float64{0.5, 4, 1, 0, 1}, (*sim).isolate},
	{[profiles]float64{2, 2, 2, 0.5, 4}, (*sim).reset},
	{[profiles]float64{2, 3, 1, 0.5, 1}, func(s *sim, n, m *simNode) { s.cut(n, m, true) }},
	{[profiles]float64{4, 4, 4, 4, 4}, func(s *sim, n, m *simNode) { s.cut(n, m, false) }},
	{[profiles]float64{2, 4, 3, 1, 1}, (*sim).promoteAny},
	{[profiles]float64{3, 3, 1, 0.2, 1}, func(s *sim, n, _ *simNode) { s.handover(n) }},
	{[profiles]float64{1, 1, 1, 0.2, 0.2}, func(s *sim, _, _ *simNode) { s.takeover() }},
	{[profiles]float64{0.5, 0.5, 0.5, 0.2, 0.2}, func(s *sim, _, _ *simNode) { s.change() }},
	{[profiles]float64{0.7, 0.3, 0.3, 0.3, 2}, (*sim).evict},
	{[profiles]float64{1, 1, 0.5, 0.5, 1}, func(s *sim, _, _ *simNode) { s.grow() }},
	{[profiles]float64{3, 3, 1, 1, 3}, func(s *sim, n, _ *simNode) { s.rot(n) }},
	{[profiles]float64{6, 6, 6, 6, 6}, func(s *sim, _, _ *simNode) { s.compare() }},
	{[profiles]float64{2, 2, 2, 2, 4}, func(s *sim, n, _ *simNode) { s.invite(n) }},
	{[profiles]float64{0.5, 0.2, 0.2, 0.2, 1}, func(s *sim, n, _ *simNode) { s.leave(n) }},
	{[profiles]float64{6, 6, 12, 10, 12}, func(s *sim, n, _ *simNode) { s.restartDown(n) }},
	{[profiles]float64{15, 20, 20, 20, 20}, func(s *sim, n, m *simNode) { s.connect(n, m) }},
}

// disturb breaks something now and then, and mends it.
func (s *sim) disturb() {
	x := s.rnd.Float64() * 2000 / s.faults
	for i := range faults {
		if x -= faults[i].weight[s.profile]; x < 0 {
			n, m := s.nodes[s.rnd.IntN(len(s.nodes))], s.nodes[s.rnd.IntN(len(s.nodes))]
			faults[i].do(s, n, m)
			return
		}
	}
}

// during is a time within the next most, as the intervals are scaled.
func (s *sim) during(most time.Duration) Instant {
	return s.now.add(time.Duration(s.rnd.Int64N(int64(most / s.scale))))
}

func (s *sim) blackout(_, _ *simNode) {
	s.logf("all lose power")
	for _, n := range s.nodes {
		s.crash(n, true)
		n.power = true
	}
}

// isolate cuts a node off from its peers, maybe from the quorum, and lets another
// one be promoted.
func (s *sim) isolate(n, m *simNode) {
	until := s.during(3 * time.Second)
	s.logf("%s is cut off until %v", n.name, time.Duration(until))
	for _, x := range s.nodes {
		s.cut(n, x, true)
		s.cut(x, n, true)
	}
	if s.rnd.IntN(2) == 0 {
		n.deaf = until
	}
	s.todo = append(s.todo, event{until, -1, 0, func() {
		for _, x := range s.nodes {
			s.cut(n, x, false)
			s.cut(x, n, false)
		}
	}})
	if p := s.promotable(); n != m && slices.Contains(p, m) {
		s.promote(m)
	}
}

func (s *sim) cut(n, m *simNode, cut bool) {
	if n != m {
		s.wires[[2]int{n.id, m.id}].cut = cut
	}
}

func (s *sim) promoteAny(_, _ *simNode) {
	if p := s.promotable(); len(p) > 0 {
		s.promote(p[s.rnd.IntN(len(p))])
	}
}

func (s *sim) restartDown(n *simNode) {
	if n.core == nil && n.deaf <= s.now {
		s.restart(n)
	}
}

// crash stops a node; power loss takes what was not synced, or a part of it.
func (s *sim) crash(n *simNode, power bool) {
	if n.core == nil {
		return
	}
	s.logf("%s stops, power loss %v", n.name, power)
	n.core, n.power = nil, n.power || power
	s.unanswered(n)
	for _, m := range s.nodes {
		if m != n {
			s.reset(n, m)
		}
	}
	if power {
		n.disk.losePower(s.rnd)
	}
}

func (s *sim) handover(to *simNode) {
	for _, p := range s.nodes {
		if s.awake(p) && p.core.role == Primary && p != to {
			if err := p.core.Handover(s.clock(p), to.name); err == nil {
				s.logf("%s hands over to %s", p.name, to.name)
			}
			s.effects(p)
		}
	}
}

// change asks for another policy.
func (s *sim) change() {
	if len(s.nodes) < 3 {
		return
	}
	shape := Shape{AckAll, 1 + s.rnd.IntN(2), DurableFlush}
	if s.rnd.IntN(2) == 0 {
		shape.Policy, shape.MinCopies = AckMajority, 2
	}
	if s.rnd.IntN(3) == 0 {
		shape.Durability = DurableWrite
	}
	for _, p := range s.nodes {
		if s.awake(p) && p.core.role == Primary {
			_ = p.core.Change(s.clock(p), shape) // it may have been promoted away
			s.effects(p)
		}
	}
}

// calm ends all faults.
func (s *sim) calm() {
	s.quiet = true
	for _, w := range s.wires {
		w.cut = false
	}
	for _, n := range s.nodes {
		n.paused, n.slow = 0, 0
		clear(n.disk.rot)
		if n.deaf > s.now {
			n.deaf = 0
			s.deliverRecord(n)
		}
		s.invite(n)
		s.restartDown(n)
		for _, m := range s.nodes {
			if m != n {
				s.connect(n, m)
			}
		}
	}
}

// settle ends all faults and checks that everything becomes level, and what clients
// were told meanwhile.
func (s *sim) settle() {
	deadline := s.now.add(90 * time.Second)
	for round := 0; !s.level(); round++ {
		s.calm()
		s.idle = round%4000 >= 1000 // clients help plans on, but nothing is level under them
		s.step()
		if round%2000 == 1999 {
			s.failover()
		}
		if s.now > deadline {
			s.fatalf("not level so long after the last fault: %s", s.describe())
		}
	}
	s.checkHistory()
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
		fmt.Fprintf(&b, "\n%s inc %d %s gen %d prom %d last (%d,%d) requests %d %+v", n.name, n.inc, n.core.role, n.core.gen,
			n.core.prom, gen, seq, len(n.reqs), n.core.Status())
		if j := n.core.p.join; j != nil {
			fmt.Fprintf(&b, "\n   join %+v", *j)
		}
	}
	return b.String()
}

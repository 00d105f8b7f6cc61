package replication

import (
	"fmt"
	"strings"
	"time"
)

// disturb breaks something now and then, and mends it.
func (s *sim) disturb() {
	n := s.nodes[s.rnd.IntN(len(s.nodes))]
	m := s.nodes[s.rnd.IntN(len(s.nodes))]
	during := func(most time.Duration) Instant { return s.now.add(time.Duration(s.rnd.Int64N(int64(most)))) }
	switch x := s.rnd.Float64() * 2000 / s.faults; {
	case x < 1 && n.core != nil:
		s.crash(n, false)
	case x < 2 && n.core != nil:
		s.crash(n, true)
	case x < 2.2:
		s.logf("all lose power")
		for _, n := range s.nodes {
			if n.core != nil {
				s.crash(n, true)
			}
			n.power = true
		}
	case x < 3 && n.core != nil:
		n.paused = during(3 * time.Second)
		s.logf("%s pauses until %v", n.name, time.Duration(n.paused))
	case x < 4:
		n.deaf = during(2 * time.Second)
		s.logf("%s cannot reach the quorum until %v", n.name, time.Duration(n.deaf))
	case x < 4.5:
		n.slow = during(2 * time.Second)
		s.logf("%s is slow until %v", n.name, time.Duration(n.slow))
	case x < 6 && n != m:
		s.logf("%s and %s lose their connection", n.name, m.name)
		s.reset(n, m)
	case x < 8 && n != m:
		s.logf("the way from %s to %s is cut", n.name, m.name)
		s.wires[[2]int{n.id, m.id}].cut = true
	case x < 12 && n != m:
		s.wires[[2]int{n.id, m.id}].cut = false
	case x < 14:
		if p := s.promotable(); len(p) > 0 {
			s.promote(p[s.rnd.IntN(len(p))])
		}
	case x < 17:
		s.handover(m)
	case x < 18:
		s.takeover()
	case x < 18.5:
		s.change()
	case x < 42:
		s.mend(n, m)
	}
}

// crash stops a node; power loss takes what was not synced, or a part of it.
func (s *sim) crash(n *simNode, power bool) {
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

func (s *sim) mend(n, m *simNode) {
	if n.core == nil && n.deaf <= s.now && s.rnd.IntN(4) == 0 {
		s.restart(n)
	}
	if n != m {
		s.connect(n, m)
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
		if n.core == nil && n.deaf <= s.now {
			s.restart(n)
		}
		for _, m := range s.nodes {
			if m != n {
				s.connect(n, m)
			}
		}
	}
}

// settle ends all faults and checks that everything becomes level.
func (s *sim) settle() {
	deadline := s.now.add(90 * time.Second)
	for round := 0; !s.level(); round++ {
		s.calm()
		s.step()
		if round%2000 == 1999 {
			s.failover()
		}
		if s.now > deadline {
			s.fatalf("not level so long after the last fault: %s", s.describe())
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
		fmt.Fprintf(&b, "\n%s inc %d %s gen %d prom %d last (%d,%d) requests %d %+v", n.name, n.inc, n.core.role, n.core.gen,
			n.core.prom, gen, seq, len(n.reqs), n.core.Status())
		if j := n.core.p.join; j != nil {
			fmt.Fprintf(&b, "\n   join %+v", *j)
		}
	}
	return b.String()
}

package replication

import "slices"

// evict lets a primary take a replica out, or declare it worthless.
func (s *sim) evict(n, _ *simNode) {
	keep := s.rnd.IntN(3) == 0
	for _, p := range s.nodes {
		if !s.awake(p) || p.core.role != Primary {
			continue
		}
		inc := p.inc
		err := p.core.Evict(s.clock(p), Eviction{Node: n.name, Keep: keep, Why: "evicted", Done: func(err error) {
			if err == nil {
				s.evictedBy(p, inc, n, keep)
			}
		}})
		if err == nil {
			s.logf("%s evicts %s, keep %v", p.name, n.name, keep)
		}
		s.effects(p)
	}
}

// evictedBy checks that an eviction that is reported as done was recorded.
func (s *sim) evictedBy(p *simNode, inc Incarnation, n *simNode, keep bool) {
	s.evictions++
	rec := p.core.rec
	if m := rec.member(n.name); p.inc != inc || m != nil && !(keep && m.State == Inconsistent) {
		s.fatalf("%s tells that %s is evicted, the record says %v", p.name, n.name, rec.Members)
	}
}

// departed is told that the quorum takes members out. The replica that goes must
// not be one of a log that no other W hold durably.
func (s *sim) departed(n *simNode, members []Member) {
	for _, m := range s.rec.Members {
		x := find(members, m.Node)
		if x == nil && m.State == UpToDate && m.Node == n.name {
			s.fatalf("%s takes itself out", n.name)
		}
	}
}

// discard is what a node does that reads in the record that it shall have no
// replica: the data is gone, its promise stays.
func (s *sim) discard(n *simNode) {
	if n.core == nil {
		return
	}
	s.logf("%s has no replica any more", n.name)
	n.core = nil
	s.unanswered(n)
	for _, m := range s.nodes {
		if m != n {
			s.reset(n, m)
		}
	}
}

// invite gives a node a replica that has none: an empty one, under the promise of
// the last.
func (s *sim) invite(n *simNode) {
	if s.rec.member(n.name) != nil || s.deaf(n) {
		return
	}
	r := *s.rec
	r.Number++
	r.Members = append(slices.Clone(r.Members), Member{Node: n.name, Incarnation: n.inc, State: Inconsistent})
	s.logf("quorum: %s gets a replica", n.name)
	s.publish(&r)
	if n.core == nil {
		if err := n.disk.Reset(0, 0); err != nil {
			s.fatalf("%v", err)
		}
		s.boot(n, false)
	}
}

func (s *sim) deaf(n *simNode) bool { return n.deaf > s.now }

// leave marks a replica that shall go, or takes that back.
func (s *sim) leave(n *simNode) {
	if s.rec.member(n.name) == nil {
		return
	}
	r := *s.rec
	r.Number++
	r.Members = slices.Clone(r.Members)
	m := r.member(n.name)
	m.Leaving = !m.Leaving
	s.logf("quorum: %s shall leave: %v", n.name, m.Leaving)
	s.publish(&r)
}

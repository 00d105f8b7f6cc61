package replication

import (
	"fmt"
	"slices"
)

// deliverRecord tells a node the newest record, some time later.
func (s *sim) deliverRecord(n *simNode) {
	inc, r := n.inc, s.rec
	s.later(n, s.delay(5), func() {
		if n.core == nil || n.inc != inc {
			return
		}
		if n.deaf > s.now {
			s.todo = append(s.todo, event{n.deaf, n.id, inc, func() { s.deliverRecord(n) }})
			return
		}
		if r.member(n.name) == nil && r == s.rec {
			s.discard(n)
			return
		}
		n.core.Record(s.clock(n), r)
		s.effects(n)
	})
}

// propose decides a proposal some time later, and tells the result later still.
func (s *sim) propose(n *simNode, p Proposal) {
	at := max(s.now, n.deaf).add(s.delay(10))
	inc := n.inc
	s.todo = append(s.todo, event{at, -1, 0, func() {
		why := s.decide(n, p)
		if why == "" {
			return
		}
		s.later(n, s.delay(5), func() {
			if n.core != nil && n.inc == inc {
				n.core.Refused(s.clock(n), p.ID, why)
				s.effects(n)
			}
		})
	}})
}

// decide applies a proposal as the quorum does, or says why not.
func (s *sim) decide(n *simNode, p Proposal) string {
	if s.rec.Generation != p.Generation || s.rec.Number != p.Number {
		return fmt.Sprintf("the record is (%d, %d), not (%d, %d)", s.rec.Generation, s.rec.Number, p.Generation, p.Number)
	}
	r := *s.rec
	r.Number++
	if p.Members != nil {
		for _, m := range p.Members {
			if x := r.member(m.Node); x == nil || x.Incarnation != m.Incarnation {
				return "another incarnation"
			}
		}
		s.departed(n, p.Members)
		for _, m := range p.Members {
			if was := r.member(m.Node); m.State == UpToDate && !m.Amnesiac && (was.State != UpToDate || was.Amnesiac) && s.node(m.Node).core != nil {
				s.checkImage(s.node(m.Node))
			}
		}
		r.Members = p.Members
	}
	if p.Shape != nil {
		r.adopt(p.Shape)
		s.shapes++
	}
	if p.Promote != "" {
		m := r.member(p.Promote)
		if m == nil || m.State != UpToDate || m.Amnesiac || m.Incarnation != p.PromoteInc {
			return "not promotable"
		}
		r.Generation++
		r.Primary, r.PrimaryIncarnation = p.Promote, p.PromoteInc
	}
	if p.Recover {
		if why := s.mayRecover(p); why != "" {
			return why
		}
		r.Attachment++
		r.Mark = Mark{Generation: r.Generation}
	} else if p.Promote == "" && len(r.set()) < r.MinCopies && len(r.set()) < len(s.rec.set()) {
		return "too few copies"
	}
	s.logf("quorum: (%d, %d) %s asked: primary %s members %v: %s", r.Generation, r.Number, n.name, r.Primary, r.Members, p.Why)
	if p.Recover {
		s.recovered(p)
	}
	s.publish(&r)
	return ""
}

func (s *sim) mayRecover(p Proposal) string {
	if !s.rec.recoverable() {
		return "it needs no recovery"
	}
	for _, m := range s.rec.set() {
		if x := find(p.Members, m.Node); !slices.Contains(p.Waived, m.Node) && (x == nil || m.Incarnation == 0) {
			return "a log was not read"
		}
	}
	return ""
}

func (s *sim) publish(r *Record) {
	s.rec = r
	for _, n := range s.nodes {
		if n.core != nil {
			s.deliverRecord(n)
		}
	}
}

// promotable lists who may be promoted.
func (s *sim) promotable() []*simNode {
	var out []*simNode
	for _, n := range s.nodes {
		if m := s.rec.member(n.name); n.core != nil && m != nil && m.State == UpToDate && !m.Amnesiac && m.Incarnation == n.inc {
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

// restart registers a new incarnation, as the quorum does it.
func (s *sim) restart(n *simNode) {
	n.inc = Incarnation(s.rnd.Uint64() | 1)
	r := *s.rec
	r.Number++
	r.Members = slices.Clone(r.Members)
	m := r.member(n.name)
	if m == nil {
		n.power = false
		return // it has no replica, until it is invited
	}
	m.Incarnation = n.inc
	if n.power && m.State == UpToDate && r.Durability != DurableWrite {
		m.Amnesiac = true
	}
	n.power = false
	s.logf("%s starts again, members %v", n.name, r.Members)
	s.publish(&r)
	s.boot(n, false)
}

// takeover gives the volume to another client.
func (s *sim) takeover() {
	r := *s.rec
	r.Number++
	r.Attachment++
	s.takeovers++
	s.logf("quorum: attachment %d", r.Attachment)
	s.publish(&r)
}

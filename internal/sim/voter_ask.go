package sim

import (
	"encoding/binary"
	"slices"
	"time"

	"blkd/internal/replicas"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// asking is a command on its way to be decided.
type asking struct {
	from     *voter // nil: an operator
	command  *metapb.Command
	proposal *replication.Proposal  // that it has become of; nil: none
	done     func(r *metapb.Result) // is told the answer; nil: nobody waits
	result   *metapb.Result         // as decided; nil: it is not
	over     bool                   // it was answered, or given up
}

// sign gives a command what a node gives it.
func (s *sim) sign(c *metapb.Command) {
	c.Request = binary.LittleEndian.AppendUint64(nil, s.rnd.Uint64())
	c.Request = binary.LittleEndian.AppendUint64(c.Request, s.rnd.Uint64())
	c.Time = s.wall()
}

// keep signs a command and remembers it, so that it is known when it is decided.
func (s *sim) keep(c *metapb.Command) *asking {
	s.sign(c)
	a := &asking{command: c}
	s.askings[string(c.Request)] = a
	return a
}

// askFor asks for a command as a node, or without one as an operator, until there is an
// answer: each time with the same request, see cluster.Do.
func (s *sim) askFor(from *voter, c *metapb.Command, p *replication.Proposal, done func(*metapb.Result)) {
	a := s.keep(c)
	a.from, a.proposal, a.done = from, p, done
	s.attempt(a)
}

// attempt tries once, and again later.
func (s *sim) attempt(a *asking) {
	if a.over {
		return
	}
	pause := instant(s.scaled(100*time.Millisecond)) + instant(s.delay(20))
	at := func(t instant, do func()) {
		if a.from == nil {
			s.at(t, nil, do)
		} else {
			s.when(a.from, t, do)
		}
	}
	at(s.now+pause, func() { s.attempt(a) })
	via := a.from
	if via == nil || via.core == nil {
		if via = s.anybody(); via == nil {
			return
		}
	}
	to := s.raftNodes[via.status.Leader]
	if to == nil || to.voter == nil || to.voter.id != via.status.Leader {
		return
	}
	w := to.voter
	s.when(w, s.now+instant(s.flight(to)), func() {
		if !s.reaches(via.n, to) || w.led == 0 {
			return
		}
		s.give(w, func() {
			if w.core.Propose(a.command) == nil {
				id := string(a.command.Request)
				w.waiting[id] = append(w.waiting[id], waiting{a, via})
			}
		})
	})
}

// anybody is a node that an operator, or one that is blank, may turn to; nil: there is
// none.
func (s *sim) anybody() *voter {
	i := s.rnd.IntN(len(s.nodes))
	for _, n := range slices.Concat(s.nodes[i:], s.nodes[:i]) {
		if v := n.voter; v != nil && v.taking && n.paused <= s.now && n.deaf <= s.now {
			return v
		}
	}
	return nil
}

// answers sends what a leader owes for what it has applied.
func (s *sim) answers(v *voter, x metadata.Applied) {
	for _, w := range v.waiting[x.Request] {
		s.when(w.from, s.now+instant(s.flight(w.from.n)), func() {
			if !w.a.over && s.reaches(v.n, w.from.n) && (w.a.from == nil || w.a.from.n.voter == w.a.from) {
				w.a.over = true
				if w.a.done != nil {
					w.a.done(x.Result)
				}
			}
		})
	}
	delete(v.waiting, x.Request)
}

// decided is told of the first time that a command is applied anywhere.
func (s *sim) decided(x metadata.Applied) {
	a := s.askings[x.Request]
	if a == nil {
		a = &asking{}
	}
	if r := x.Command.GetRegisterNode(); r != nil && x.Result.Code == metapb.Code_CODE_OK {
		if n := s.node(replication.NodeID(r.Name)); a.from != nil && n.voter == a.from && uint64(n.inc) == r.Incarnation {
			n.registered = true
		}
	}
	a.result = s.applied(x.Index, x.Command, a.proposal)
	if a.result.Code != x.Result.Code || a.result.Index != x.Result.Index {
		s.violate("quorum", "at index %d a node has the answer %v, and it should be %v", x.Index, x.Result, a.result)
	}
	if !s.founding && (a.proposal != nil || a.from == nil && a.command != nil) {
		s.logf("quorum: decided at index %d: %.200v: %v %s, now (%d, %d) primary %s members %v", x.Index, x.Command.Op, x.Result.Code, x.Result.Text,
			s.rec.Generation, s.rec.Number, s.rec.Primary, s.rec.Members)
	}
}

// proposeVia carries a core's proposal to the quorum, and the answer back.
func (s *sim) proposeVia(v *voter, c *metapb.Command, p *replication.Proposal) {
	n, core := v.n, v.n.core
	s.when(v, s.now+instant(s.delay(10)), func() {
		s.askFor(v, c, p, func(r *metapb.Result) {
			switch {
			case n.core != core:
				return
			case r.Volume != nil:
				n.core.Record(s.clock(n), replicas.RecordOf(r.Volume))
			}
			if r.Code != metapb.Code_CODE_OK {
				s.replay.Refused(n.id)
				n.core.Refused(s.clock(n), p.ID, r.Text)
			}
			s.effects(n)
		})
	})
}

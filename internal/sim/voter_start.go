package sim

import (
	"slices"
	"time"

	"blkd/metadata/metapb"
)

// startVoter begins a run of a node's part in the quorum, as package cluster does: a
// node asks the others first whether its disk is the latest one.
func (s *sim) startVoter(n *node) {
	if n.raftID == 0 {
		n.voter = &voter{n: n} // blank
		s.registerVia(n.voter)
		return
	}
	s.confirm(s.openVoter(n, nil))
}

// confirm asks all other nodes whether they know anything later of a node than its own
// disk does, until a majority of the voters with itself does not, and each was asked.
func (s *sim) confirm(v *voter) {
	voters := v.core.State().Info().Voters
	have, asked := 0, true
	if slices.Contains(voters, v.id) {
		have++
	}
	for _, m := range s.nodes {
		w := m.voter
		switch {
		case m == v.n:
			continue
		case w == nil || w.core == nil || m.paused > s.now || !s.reaches(v.n, m) || !s.reaches(m, v.n):
			v.asked[m] = v.asked[m] || s.rnd.IntN(3) == 0 // it is found out that it does not answer
		case s.knowsLater(w, v):
			s.logf("%s is told by %s that its disk is an old one", v.n.name, m.name)
			s.Refused++
			s.refused(v)
			return
		default:
			v.asked[m] = true
			if len(voters) == 0 || slices.Contains(voters, w.id) {
				have++
			}
		}
		asked = asked && v.asked[m]
	}
	switch {
	case have <= len(voters)/2 || !asked:
		s.when(v, s.now+instant(s.delay(20)), func() { s.confirm(v) })
	case v.n.old:
		// Nobody who knew better was there. That is more than the quorum is made for: what
		// this voter has acknowledged and another one lost is gone.
		s.anew(v.n, s.restoreNewest)
	default:
		v.taking = true
		s.registerVia(v)
	}
}

// knowsLater tells whether a member knows something later of another one than that
// one's disk does: see cluster.examine.
func (s *sim) knowsLater(w, v *voter) bool {
	n, state := v.n, w.core.State()
	r := state.Node(string(n.name))
	if r.GetId() > v.id || slices.Contains(state.Info().Retired, v.id) {
		return true
	}
	own := r.GetIncarnation() == uint64(n.previous) || slices.Contains(n.tried, r.GetIncarnation())
	return r.GetIncarnation() != 0 && w.status.Applied >= n.registeredAt && !own || w.shown[v.id] > max(v.first, v.status.Applied)
}

// registerVia registers a node's new run.
func (s *sim) registerVia(v *voter) {
	n := v.n
	s.askFor(v, s.registration(n), nil, func(r *metapb.Result) {
		switch {
		case r.Code != metapb.Code_CODE_OK:
			s.logf("%s is refused: %s", n.name, r.Text)
			s.refused(v)
		case v.core == nil: // it has its place, and will be sent the state
			n.raftID = r.Node.Id
			w := s.openVoter(n, nil)
			w.taking, w.answered = true, true
		default:
			v.answered = true
			n.confirmRun(r.Index)
			s.received(v)
		}
	})
}

// confirmRun notes on a node's disk that its run is recorded, at an index.
func (n *node) confirmRun(index uint64) {
	n.previous, n.booted, n.clean, n.ioError, n.tried, n.registeredAt = n.inc, n.boot, false, false, nil, index
}

// received makes a node a member once its own state has its run: see package cluster.
func (s *sim) received(v *voter) {
	n := v.n
	x := v.core.State().Node(string(n.name))
	if v.member || !v.answered || x.GetId() != v.id || x.GetIncarnation() != uint64(n.inc) {
		return
	}
	v.member = true
	if n.previous != n.inc {
		n.confirmRun(v.status.Applied)
	}
	s.logf("%s starts again, members %v", n.name, v.rec)
	s.pulse(n)
	s.reconcile(v)
}

// refused is what happens to a node that may take no part: an operator looks after it.
func (s *sim) refused(v *voter) {
	n := v.n
	s.closeVoter(n, false, nil)
	run := n.run
	s.at(s.now+instant(s.scaled(200*time.Millisecond)), nil, func() {
		if n.run == run && n.voter == nil && n.up && !n.replacing {
			s.lookAfter(n)
		}
	})
}

// lookAfter replaces a node that starts with an old disk, or puts its newest one back.
func (s *sim) lookAfter(n *node) {
	switch {
	case !n.old && s.state.Node(string(n.name)).Id > n.raftID && n.raftID != 0: // it was replaced before
		s.anew(n, s.emptied)
	case !n.old:
		s.violate("quorum", "%s is refused with its newest disk", n.name)
	case !s.spared(n) || !s.quorate():
		s.anew(n, s.restoreNewest)
	default:
		n.replacing = true
		s.askFor(nil, s.replacement(n), nil, func(r *metapb.Result) {
			n.replacing = false
			if r.Code != metapb.Code_CODE_OK {
				s.anew(n, s.restoreNewest)
				return
			}
			s.Replaced++
			s.anew(n, s.emptied)
		})
	}
}

// quorate tells whether a majority of the voters takes part.
func (s *sim) quorate() bool {
	voters, able := s.state.Info().Voters, 0
	for _, id := range voters {
		if n := s.raftNodes[id]; n.voter != nil && n.voter.id == id && n.voter.taking {
			able++
		}
	}
	return able > len(voters)/2
}

// anew starts a node with another disk, or none.
func (s *sim) anew(n *node, with func(*node)) {
	s.crash(n, false)
	with(n)
	s.start(n)
}

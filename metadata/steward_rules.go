package metadata

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"
)

// rules are asked in this order for a proposal; the first that has one, and need
// not pause before it tries again, is followed.
var rules = []func(*Steward, *world) *steering{
	(*Steward).dropStranger,
	(*Steward).learn,
	(*Steward).replaceFailed,
	(*Steward).relieveDrained,
	(*Steward).grow,
	(*Steward).shrink,
	(*Steward).improve,
}

// dropStranger lets a Raft member leave that is no node any more. A voter leaves
// in exchange for another if there is one.
func (s *Steward) dropStranger(w *world) *steering {
	r := w.in.Raft
	for _, id := range sortedIDs(r.Learners) {
		if w.byID[id] == nil {
			return &steering{key: fmt.Sprintf("remove/%d", id), remove: []uint64{id},
				reason: w.name(id) + " was replaced or removed: it leaves"}
		}
	}
	for _, id := range sortedIDs(r.Voters) {
		if w.byID[id] != nil {
			continue
		}
		why := w.name(id) + " was replaced or removed"
		if id == r.ID {
			return s.handOver(w, why)
		}
		if p := s.exchange(w, id, why); p != nil {
			return p
		}
		p := &steering{key: fmt.Sprintf("remove/%d", id), remove: []uint64{id}, reason: why + ": it votes no more, and nobody can take its place yet"}
		if voters, _ := p.outcome(r); len(voters) > 0 && w.hasMajority(voters) {
			return p
		}
	}
	return nil
}

// learn lets a node follow the log that has registered and does not.
func (s *Steward) learn(w *world) *steering {
	r := w.in.Raft
	for _, n := range w.nodes {
		if n.Incarnation != 0 && !slices.Contains(r.Voters, n.Id) && !slices.Contains(r.Learners, n.Id) {
			return &steering{key: fmt.Sprintf("learn/%d", n.Id), learn: []uint64{n.Id},
				reason: n.Name + " has registered: it follows the quorum's log and may come to vote"}
		}
	}
	return nil
}

// replaceFailed lets a working node vote in the place of one that has failed for
// long.
func (s *Steward) replaceFailed(w *world) *steering {
	for _, id := range sortedIDs(w.in.Raft.Voters) {
		if why, failed := w.failed(id); failed {
			if p := s.exchange(w, id, w.name(id)+" "+why); p != nil {
				return p
			}
		}
	}
	return nil
}

// relieveDrained lets another node vote in the place of one that is drained.
func (s *Steward) relieveDrained(w *world) *steering {
	r := w.in.Raft
	for _, id := range sortedIDs(r.Voters) {
		if n := w.byID[id]; n == nil || !n.Drained || len(w.candidates()) == 0 {
			continue
		}
		if id == r.ID {
			return s.handOver(w, w.name(id)+" is drained")
		}
		if p := s.exchange(w, id, w.name(id)+" is drained"); p != nil {
			return p
		}
	}
	return nil
}

// grow makes learners voters where there are fewer voters than the nodes that are
// in use call for. It goes from one odd number to another in one change: an even
// number bears no more failures than the odd one below.
func (s *Steward) grow(w *world) *steering {
	r := w.in.Raft
	inUse := 0
	for _, n := range w.nodes {
		inUse += truth(n.Incarnation != 0 && !n.Drained)
	}
	able := w.candidates()
	for size := quorumSize(inUse); size > len(r.Voters); size -= 2 {
		if size-len(r.Voters) > len(able) {
			continue
		}
		voters := slices.Clone(r.Voters)
		p := &steering{key: fmt.Sprintf("grow/%d", size)}
		var names []string
		for len(voters) < size {
			n := w.pick(able, voters)
			able = slices.DeleteFunc(able, func(o *metapb.Node) bool { return o == n })
			voters, p.promote, names = append(voters, n.Id), append(p.promote, n.Id), append(names, n.Name)
		}
		p.reason = fmt.Sprintf("%d nodes are in use: with %s there are %d voters", inUse, strings.Join(names, ", "), size)
		if w.spare(voters) >= w.spare(r.Voters) {
			return p
		}
		return nil
	}
	return nil
}

// shrink lets one of four voters go when no fifth node is known. Nodes that are
// only down are known: their number is the operator's to change.
func (s *Steward) shrink(w *world) *steering {
	r := w.in.Raft
	known := len(w.nodes)
	if mutant.On(mutant.StewardCountWorking) {
		known = len(slices.DeleteFunc(slices.Clone(w.nodes), func(n *metapb.Node) bool { return !w.works(n.Id) }))
	}
	if len(r.Voters) < 4 || quorumSize(known) >= len(r.Voters) {
		return nil
	}
	rest := func(id uint64) []uint64 { return without(r.Voters, id) }
	could := without(r.Voters, r.ID)
	worst := slices.MinFunc(could, func(a, b uint64) int {
		return cmp.Or(
			truth(w.works(a))-truth(w.works(b)),
			truth(w.isWitness(a))-truth(w.isWitness(b)),
			slices.Compare(w.crowding(rest(a)), w.crowding(rest(b))),
			strings.Compare(w.name(b), w.name(a)))
	})
	if w.spare(rest(worst)) < w.spare(r.Voters) {
		return nil
	}
	return &steering{key: fmt.Sprintf("shrink/%d", worst), demote: []uint64{worst},
		reason: fmt.Sprintf("there are %d nodes, and 3 voters bear as many failures as 4: %s votes no more", known, w.name(worst))}
}

// improve exchanges a voter for a witness, or for a node that shares fewer failure
// domains with the others, when nothing else is to do and everything has been
// calm for long.
func (s *Steward) improve(w *world) *steering {
	r := w.in.Raft
	if w.in.Now-s.changed < s.config.ReplaceVoterAfter {
		return nil
	}
	for _, id := range r.Voters {
		if !w.works(id) || w.byID[id] == nil || w.byID[id].Drained {
			return nil
		}
	}
	var best *steering
	bestVoters := r.Voters
	for _, n := range w.candidates() {
		if w.in.Now-w.about(n.Name).Since < s.config.ReplaceVoterAfter {
			continue
		}
		for _, id := range sortedIDs(r.Voters) {
			voters := append(without(r.Voters, id), n.Id)
			if id == r.ID || !mutant.On(mutant.StewardRestless) && w.compare(voters, bestVoters) >= 0 {
				continue
			}
			why := fmt.Sprintf("%s shares fewer failure domains with the other voters than %s", n.Name, w.name(id))
			if w.witnesses(voters) > w.witnesses(r.Voters) {
				why = n.Name + " is a witness, made to vote"
			}
			best, bestVoters = s.swap(w, id, n, why), voters
		}
	}
	return best
}

// compare is negative if a is the better set of voters: more witnesses, then
// fewer in the same failure domains.
func (w *world) compare(a, b []uint64) int {
	return cmp.Or(w.witnesses(b)-w.witnesses(a), slices.Compare(w.crowding(a), w.crowding(b)))
}

// pick returns the candidate that makes the best set with others; there is one.
func (w *world) pick(able []*metapb.Node, others []uint64) *metapb.Node {
	return slices.MinFunc(able, func(a, b *metapb.Node) int {
		return cmp.Or(w.compare(append(slices.Clone(others), a.Id), append(slices.Clone(others), b.Id)), strings.Compare(a.Name, b.Name))
	})
}

// exchange lets the best candidate vote in the place of a voter; nil if there is
// none, or if that made fewer failures bearable.
func (s *Steward) exchange(w *world, id uint64, why string) *steering {
	able := w.candidates()
	if id == w.in.Raft.ID || len(able) == 0 {
		return nil
	}
	p := s.swap(w, id, w.pick(able, without(w.in.Raft.Voters, id)), why)
	if voters, _ := p.outcome(w.in.Raft); w.spare(voters) < w.spare(w.in.Raft.Voters) {
		return nil
	}
	return p
}

// swap is the proposal that n votes in the place of a voter, which goes on as a
// learner if it is a node still.
func (s *Steward) swap(w *world, id uint64, n *metapb.Node, why string) *steering {
	p := &steering{key: fmt.Sprintf("swap/%d/%d", id, n.Id), promote: []uint64{n.Id},
		reason: fmt.Sprintf("%s: %s votes in the place of %s", why, n.Name, w.name(id))}
	if w.byID[id] == nil {
		p.remove = []uint64{id}
	} else {
		p.demote = []uint64{id}
	}
	return p
}

// handOver lets another voter lead, so that this one can stop voting; nil if no
// other could.
func (s *Steward) handOver(w *world, why string) *steering {
	var able []*metapb.Node
	for _, id := range w.in.Raft.Voters {
		if n := w.byID[id]; n != nil && id != w.in.Raft.ID && !n.Drained && w.fit(n) {
			able = append(able, n)
		}
	}
	if len(able) == 0 {
		return nil
	}
	n := slices.MinFunc(able, func(a, b *metapb.Node) int {
		return cmp.Or(truth(a.Witness)-truth(b.Witness), strings.Compare(a.Name, b.Name))
	})
	return &steering{key: fmt.Sprintf("lead/%d", n.Id), transfer: n.Id, reason: fmt.Sprintf("%s: %s leads, so that another can vote in its place", why, n.Name)}
}

func (w *world) isWitness(id uint64) bool { return w.byID[id] != nil && w.byID[id].Witness }

// without is a copy of ids without one of them.
func without(ids []uint64, id uint64) []uint64 {
	return slices.DeleteFunc(slices.Clone(ids), func(other uint64) bool { return other == id })
}

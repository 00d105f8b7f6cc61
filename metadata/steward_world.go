package metadata

import (
	"fmt"
	"slices"
	"time"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"
)

// world is one StewardInput, made ready for questions.
type world struct {
	in       StewardInput
	config   StewardConfig
	version  uint32
	nodes    []*metapb.Node // by name
	byID     map[uint64]*metapb.Node
	verdicts map[string]*Verdict
}

func newWorld(in StewardInput, c StewardConfig) *world {
	w := &world{in: in, config: c, version: in.State.version, nodes: in.State.Nodes(),
		byID: make(map[uint64]*metapb.Node), verdicts: make(map[string]*Verdict)}
	for _, n := range w.nodes {
		w.byID[n.Id] = n
	}
	for i := range in.Verdicts {
		w.verdicts[in.Verdicts[i].Node] = &in.Verdicts[i]
	}
	return w
}

// name is a Raft id in the operator's words.
func (w *world) name(id uint64) string {
	if n := w.byID[id]; n != nil {
		return n.Name
	}
	return fmt.Sprintf("the former Raft member %d", id)
}

// wallOf turns a time of the monotonic clock into Unix nanoseconds; 0 stays 0.
func (w *world) wallOf(t time.Duration) int64 {
	if t == 0 {
		return 0
	}
	return w.in.Wall + int64(t-w.in.Now)
}

// verdict is the one about the registered run of a Raft member, if there is one.
func (w *world) verdict(id uint64) (Verdict, bool) {
	n := w.byID[id]
	if n == nil {
		return Verdict{}, false
	}
	v := w.about(n.Name)
	return v, v.Node != "" && v.Incarnation == n.Incarnation
}

// about is the verdict about a node, whatever run it is of; of a node that is not
// watched, an empty one.
func (w *world) about(node string) Verdict {
	if v := w.verdicts[node]; v != nil {
		return *v
	}
	return Verdict{}
}

// works tells whether a voter takes part in decisions. One that is held back
// does, only nobody relies on it for anything new.
func (w *world) works(id uint64) bool {
	if id == w.in.Raft.ID {
		return true
	}
	v, ok := w.verdict(id)
	return ok && v.Incarnation != 0 && (v.Health == metapb.Health_HEALTH_UP || v.Health == metapb.Health_HEALTH_SLOW)
}

// failed tells whether a voter has not been able to do its work for so long that
// another one should, and why.
func (w *world) failed(id uint64) (why string, failed bool) {
	v, ok := w.verdict(id)
	if !ok || id == w.in.Raft.ID {
		return "", false
	}
	since := w.in.Now - v.Since
	switch {
	case v.HeldUntil-w.in.Now >= w.config.ReplaceVoterAfter:
		return "has failed again and again", true
	case since < w.config.ReplaceVoterAfter:
		return "", false
	case v.Incarnation == 0:
		return "has not registered for " + span(since), true
	case v.Health == metapb.Health_HEALTH_DOWN || v.Health == metapb.Health_HEALTH_PARTITIONED:
		return "has been " + metapb.HealthWord(v.Health) + " for " + span(since), true
	}
	return "", false
}

// hasMajority tells whether a majority of voters works.
func (w *world) hasMajority(voters []uint64) bool {
	return w.spare(voters) >= 0 || mutant.On(mutant.StewardAnyQuorum)
}

// spare is how many more of the voters may fail before the quorum is lost;
// negative: it is.
func (w *world) spare(voters []uint64) int {
	working := 0
	for _, id := range voters {
		if w.works(id) {
			working++
		}
	}
	return working - (len(voters)/2 + 1)
}

// candidates are the learners that could vote at once, the best first: witnesses,
// because that is what their operator made them for, then by name.
func (w *world) candidates() []*metapb.Node {
	var list []*metapb.Node
	for _, n := range w.nodes {
		if slices.Contains(w.in.Raft.Learners, n.Id) && !n.Drained && w.fit(n) {
			list = append(list, n)
		}
	}
	slices.SortStableFunc(list, func(a, b *metapb.Node) int { return truth(b.Witness) - truth(a.Witness) })
	return list
}

// fit tells whether a node works well and is close to the end of the log.
func (w *world) fit(n *metapb.Node) bool {
	v, ok := w.verdict(n.Id)
	r := w.in.Raft
	caughtUp := r.Match[n.Id] > 0 && r.Match[n.Id]+uint64(w.config.CatchUpEntries) >= r.Commit
	return ok && n.Incarnation != 0 && v.Health == metapb.Health_HEALTH_UP && v.Working() && n.HeldUntil <= w.in.Wall &&
		w.in.Now-v.Since >= w.config.StableFor && (caughtUp || mutant.On(mutant.StewardFarBehind))
}

// crowding counts, level by level, the pairs of nodes that share a failure
// domain. Less is better, a zone before a rack.
func (w *world) crowding(ids []uint64) []int {
	counts := make([]int, len(domainLabels))
	for i, a := range ids {
		for _, b := range ids[:i] {
			if w.byID[a] == nil || w.byID[b] == nil {
				continue
			}
			da, db := domainsOf(w.byID[a]), domainsOf(w.byID[b])
			for level := range counts {
				counts[level] += truth(da[level] == db[level])
			}
		}
	}
	return counts
}

// witnesses counts them.
func (w *world) witnesses(ids []uint64) int {
	n := 0
	for _, id := range ids {
		n += truth(w.byID[id] != nil && w.byID[id].Witness)
	}
	return n
}

// quorumSize is how many voters so many nodes should have.
func quorumSize(nodes int) int {
	switch {
	case nodes >= 5:
		return 5
	case nodes >= 3:
		return 3
	}
	return 1
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

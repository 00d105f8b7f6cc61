package metadata

import (
	"fmt"
	"slices"

	"blkd/metadata/metapb"
)

// trialLimit bounds the combinations of failures that are tried.
const trialLimit = 50000

// survives tells what may fail at the same moment, whatever it is, so that a volume
// whose members all count goes on without loss: "any 1 node", "any 1 rack". Lacks are the
// failures that its layout allows for and the places of its members do not.
func survives(s *State, v *metapb.Volume) (list, lacks []string) {
	t := newTrial(s.nodes.rows, s.voters, v, v.Members)
	for i, d := range t.domains() {
		n := t.most(d.groups)
		if n > 0 {
			list = append(list, count(n, d.what))
		}
		alone := i > 0 && len(d.groups) == len(t.parts) // each node is: that is said
		if want := min(width(v.Layout)-int(v.MinCopies), len(d.groups)-1); n < want && !alone {
			lacks = append(lacks, t.lack(d, want))
		}
	}
	return list, lacks
}

// Survives tells what may fail besides what has failed already, whatever it is, so that a
// recorded volume goes on without loss, in the words of a plan. Nodes and voters are those
// of the same state.
func Survives(nodes []*metapb.Node, voters []uint64, v *metapb.Volume) (list []string) {
	members := slices.DeleteFunc(slices.Clone(v.Members), func(m *metapb.Member) bool { return !counts(m) })
	t := newTrial(nodes, voters, v, members)
	for i := range t.parts {
		p := &t.parts[i]
		p.lame = p.member && !sound(members[memberIndex(members, p.node.Name)])
		t.failed[i] = p.node.Health == metapb.Health_HEALTH_DOWN || p.node.Health == metapb.Health_HEALTH_PARTITIONED
	}
	for _, d := range t.domains() {
		if n := t.most(d.groups); n > 0 {
			list = append(list, count(n, d.what))
		}
	}
	return list
}

// lack says what stands against the loss of so many domains.
func (t *trial) lack(d domain, want int) string {
	what, data := "voters of the quorum", *t
	if data.quorum = 0; data.most(d.groups) < want {
		what = "replicas"
	}
	return fmt.Sprintf("not the loss of %s, which %s allows for: too many %s may be there", count(want, d.what), metapb.LayoutWord(t.policy.Layout), what)
}

// domain is a level of failure domains, and which parts are in each.
type domain struct {
	what   string
	groups [][]int
}

// domains are the levels that say something of their own: nodes first, then the most
// general.
func (t *trial) domains() []domain {
	nodes := domain{what: "node"}
	for i := range t.parts {
		nodes.groups = append(nodes.groups, []int{i})
	}
	all, before := []domain{nodes}, 0
	for level, label := range domainLabels {
		groups := t.grouped(level)
		if len(groups) < 2 || len(groups) == before || label == "host" && len(groups) == len(t.parts) {
			continue // it says what the level before, or the nodes, say
		}
		before = len(groups)
		all = append(all, domain{label, groups})
	}
	return all
}

func count(n int, what string) string {
	if n > 1 {
		what += "s"
	}
	return fmt.Sprintf("any %d %s", n, what)
}

// grouped lists the parts of each failure domain of a level.
func (t *trial) grouped(level int) (groups [][]int) {
	index := make(map[string]int)
	for i, p := range t.parts {
		domain := domainsOf(p.node)[level]
		at, ok := index[domain]
		if !ok {
			at = len(groups)
			index[domain] = at
			groups = append(groups, nil)
		}
		groups[at] = append(groups[at], i)
	}
	return groups
}

// part is what a node contributes to a volume.
type part struct {
	node               *metapb.Node
	member, log, voter bool
	lame               bool // a member that can neither seal nor serve
}

// trial finds what may fail by trying every combination. Members that are left must be
// able to seal the log without the others and be enough to serve; voters that are left
// must be a majority, since they decide who serves.
type trial struct {
	policy *metapb.Volume
	parts  []part
	failed []bool // already
	quorum int    // voters that must be left
}

func newTrial(nodes []*metapb.Node, voters []uint64, policy *metapb.Volume, members []*metapb.Member) *trial {
	t := &trial{policy: policy, quorum: len(voters)/2 + 1}
	for _, n := range nodes {
		p := part{node: n, voter: slices.Contains(voters, n.Id)}
		if i := memberIndex(members, n.Name); i >= 0 {
			p.member, p.log = true, members[i].Log
		}
		if p.member || p.voter {
			t.parts = append(t.parts, p)
		}
	}
	t.failed = make([]bool, len(t.parts))
	return t
}

// most returns how many of the groups may fail, whichever they are.
func (t *trial) most(groups [][]int) int {
	for n := 1; n <= len(groups); n++ {
		if combinations(len(groups), n) > trialLimit || !t.all(groups, n, t.failed) {
			return n - 1
		}
	}
	return len(groups)
}

// all tells whether the volume survives every failure of n of the groups, besides
// what has failed already.
func (t *trial) all(groups [][]int, n int, failed []bool) bool {
	if n == 0 {
		return t.survives(failed)
	}
	for i := 0; i+n <= len(groups); i++ {
		more := slices.Clone(failed)
		for _, part := range groups[i] {
			more[part] = true
		}
		if !t.all(groups[i+1:], n-1, more) {
			return false
		}
	}
	return true
}

// survives tells whether the volume goes on when these parts have failed. Who was
// primary may have failed with them, so the others have to seal.
func (t *trial) survives(failed []bool) bool {
	var logs, voters int
	var left tally
	for i, p := range t.parts {
		if p.log {
			logs++
		}
		if failed[i] {
			continue
		}
		if p.voter {
			voters++
		}
		if p.lame {
			continue
		}
		if p.member {
			left.copies++
		}
		if p.log {
			left.logs++
		}
	}
	return left.logs >= sealQuorum(t.policy.Ack, logs) && enough(t.policy, left) && voters >= t.quorum
}

// combinations is n over k, or more than trialLimit.
func combinations(n, k int) int {
	c := 1
	for i := range k {
		c = c * (n - i) / (i + 1)
		if c > trialLimit {
			break
		}
	}
	return c
}

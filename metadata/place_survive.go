package metadata

import (
	"fmt"
	"slices"

	"blkd/metadata/metapb"
)

// trialLimit bounds the combinations of failures that are tried.
const trialLimit = 50000

// survives tells what may fail at the same moment, whatever it is, so that the
// volume goes on without loss: it is found by trying every combination. Members
// that are left must be able to seal the log without the others and be enough to
// serve; voters that are left must be a majority, since they decide who serves.
func survives(s *State, c *metapb.CreateVolume, members []*metapb.Member) []string {
	t := &trial{policy: &metapb.Volume{Layout: c.Layout, Ack: c.Ack, MinCopies: c.MinCopies}, voters: len(s.voters)}
	var nodes []*metapb.Node
	for _, n := range s.nodes.rows {
		i := memberIndex(members, n.Name)
		voter := slices.Contains(s.voters, n.Id)
		if i < 0 && !voter {
			continue
		}
		p := part{voter: voter}
		if i >= 0 {
			p.member, p.log = true, members[i].Log
		}
		nodes = append(nodes, n)
		t.parts = append(t.parts, p)
	}
	var list []string
	byNode := make([][]int, len(nodes)) // one node fails at a time
	for i := range nodes {
		byNode[i] = []int{i}
	}
	if n := t.most(byNode); n > 0 {
		list = append(list, count(n, "node"))
	}
	before := 0
	for level, label := range domainLabels {
		groups := grouped(nodes, level)
		if len(groups) < 2 || len(groups) == before || label == "host" && len(groups) == len(nodes) {
			continue // it says what the level before, or the nodes, say
		}
		before = len(groups)
		if n := t.most(groups); n > 0 {
			list = append(list, count(n, label))
		}
	}
	return list
}

func count(n int, what string) string {
	if n > 1 {
		what += "s"
	}
	return fmt.Sprintf("any %d %s", n, what)
}

// grouped lists the nodes of each failure domain of a level.
func grouped(nodes []*metapb.Node, level int) (groups [][]int) {
	index := make(map[string]int)
	for i, n := range nodes {
		domain := domainsOf(n)[level]
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
type part struct{ member, log, voter bool }

// trial tries failures.
type trial struct {
	policy *metapb.Volume
	parts  []part
	voters int
}

// most returns how many of the groups may fail, whichever they are.
func (t *trial) most(groups [][]int) int {
	failed := make([]bool, len(t.parts))
	for n := 1; n <= len(groups); n++ {
		if combinations(len(groups), n) > trialLimit || !t.all(groups, n, failed) {
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
		for _, part := range groups[i] {
			failed[part] = true
		}
		ok := t.all(groups[i+1:], n-1, failed)
		for _, part := range groups[i] {
			failed[part] = false
		}
		if !ok {
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
		if p.member {
			left.copies++
		}
		if p.log {
			left.logs++
		}
		if p.voter {
			voters++
		}
	}
	return left.logs >= sealQuorum(t.policy.Ack, logs) && enough(t.policy, left) && voters > t.voters/2
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

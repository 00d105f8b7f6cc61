package metadata

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"blkd/metadata/metapb"
)

// Place decides which nodes a volume would be made on and why, and what it would
// survive, without making it. The error is a *[Refusal].
func Place(s *State, c *metapb.CreateVolume) (*metapb.Plan, error) {
	c = fill(c, s.dataNodes())
	_, no := newVolume(c)
	if no != nil {
		return nil, no
	}
	plan, no := place(s, c)
	if no != nil {
		return nil, no
	}
	return plan, nil
}

// candidate is a node that a replica may be placed on.
type candidate struct {
	node      *metapb.Node
	domains   []string // by level: zone, rack, host; each a path from the top
	tenths    int      // of its space that are free
	members   int      // replicas that it has
	primaries int
}

// placement is a choice in progress.
type placement struct {
	levels   []string // labels that tell the candidates apart, the most general first
	left     []*candidate
	chosen   []*candidate
	reasons  []string
	rejected []string
}

// place chooses the members of a volume whose defaults are filled in. Each choice
// takes the candidate whose failure domains hold the fewest chosen so far, zone
// before rack before host; then the one with the most free space, in tenths; then
// the one with the fewest replicas; then the first name.
func place(s *State, c *metapb.CreateVolume) (*metapb.Plan, *Refusal) {
	need := width(c.Layout)
	p := newPlacement(s)
	if len(c.Nodes) > 0 {
		if no := p.restrict(s, c, need); no != nil {
			return nil, no
		}
	}
	if len(p.left) < need {
		text := fmt.Sprintf("%s needs %d nodes that can take a replica, there are %d", metapb.LayoutWord(c.Layout), need, len(p.left))
		if len(p.rejected) > 0 {
			text += " (" + strings.Join(p.rejected, "; ") + ")"
		}
		return nil, refused("%s", text).advise("add nodes (blkctl node add NAME --address HOST:PORT), or choose a layout that needs fewer")
	}
	for len(p.chosen) < need {
		p.choose(len(c.Nodes) > 0)
	}
	for _, rest := range p.left {
		p.rejected = append(p.rejected, rest.node.Name+": not needed")
	}
	slices.Sort(p.rejected)
	plan := &metapb.Plan{Rejected: p.rejected}
	for i, ch := range p.chosen {
		m := &metapb.Member{
			Node: ch.node.Name, Incarnation: ch.node.Incarnation,
			State: metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE, Log: true,
		}
		if isEC(c.Layout) {
			m.Shard = int32(i)
		}
		plan.Members = append(plan.Members, m)
	}
	plan.Primary = p.primary(need, len(c.Nodes) > 0)
	plan.Reasons = p.reasons
	plan.Survives, plan.Lacks = survives(s, &metapb.Volume{Layout: c.Layout, Ack: c.Ack, MinCopies: c.MinCopies, Members: plan.Members})
	return plan, nil
}

// newPlacement sorts the nodes into those that can take a replica and the others.
func newPlacement(s *State) *placement {
	p := new(placement)
	for _, n := range s.nodes.rows {
		if why := unusable(n); why != "" {
			p.rejected = append(p.rejected, n.Name+": "+why)
			continue
		}
		ch := &candidate{node: n, tenths: tenthsFree(n)}
		for _, v := range s.volumes.rows {
			if memberIndex(v.Members, n.Name) >= 0 {
				ch.members++
			}
			if v.Primary == n.Name {
				ch.primaries++
			}
		}
		p.left = append(p.left, ch)
	}
	p.setDomains()
	return p
}

// unusable says why no replica may be placed on a node; empty: one may.
func unusable(n *metapb.Node) string {
	switch {
	case n.Witness:
		return "it is a witness"
	case n.Incarnation == 0:
		return "it has never registered"
	case n.Drained:
		return "it is drained"
	case n.HeldUntil != 0:
		return "it is held back, because it went up and down too often"
	case n.Health == metapb.Health_HEALTH_DOWN || n.Health == metapb.Health_HEALTH_PARTITIONED:
		return "it is " + metapb.HealthWord(n.Health)
	case n.CapacityBytes > 0 && n.FreeBytes == 0:
		return "its disk is full"
	}
	return ""
}

// tenthsFree is the free part of a node's space in tenths, rounded down: small
// differences must not outweigh the number of replicas.
func tenthsFree(n *metapb.Node) int {
	if n.CapacityBytes <= 0 || n.FreeBytes <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(n.FreeBytes), 10)
	tenths, _ := bits.Div64(hi, lo, uint64(n.CapacityBytes))
	return int(min(tenths, 10))
}

// restrict leaves only the nodes that the asker named, in that order.
func (p *placement) restrict(s *State, c *metapb.CreateVolume, need int) *Refusal {
	if len(c.Nodes) != need {
		return invalid("%s needs %d nodes, %d are named", metapb.LayoutWord(c.Layout), need, len(c.Nodes))
	}
	var named []*candidate
	for i, name := range c.Nodes {
		n := s.Node(name)
		switch {
		case n == nil:
			return notFound("there is no node %.80q", name).advise("blkctl node list")
		case slices.Contains(c.Nodes[:i], name):
			return invalid("node %s is named twice", name)
		case unusable(n) != "":
			return refused("node %s cannot take a replica: %s", name, unusable(n)).advise("name another node, or none")
		}
		at := slices.IndexFunc(p.left, func(ch *candidate) bool { return ch.node == n })
		named = append(named, p.left[at])
		p.left = slices.Delete(p.left, at, at+1)
	}
	for _, other := range p.left {
		p.rejected = append(p.rejected, other.node.Name+": not named")
	}
	p.left = named
	return nil
}

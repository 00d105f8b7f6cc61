package metadata

import (
	"slices"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"
)

func (a *apply) addNode(c *metapb.AddNode) (*metapb.Result, *Refusal) {
	if no := checkNodeName(c.Name); no != nil {
		return nil, no
	}
	if no := checkAddress(c.Address); no != nil {
		return nil, no
	}
	if n := a.s.Node(c.Name); n != nil {
		return nil, exists("node %s is known already, at %s", n.Name, n.Address).advise("blkctl node replace %s, if it comes back with an empty disk", n.Name)
	}
	for _, n := range a.s.nodes.rows {
		if n.Address == c.Address {
			return nil, exists("%s is the address of node %s", c.Address, n.Name).advise("blkctl node show %s", n.Name)
		}
	}
	a.s.nextID++
	return a.putNode(nil, &metapb.Node{Name: c.Name, Id: a.s.nextID, Address: c.Address, Witness: c.Witness}), nil
}

func (a *apply) reportNode(c *metapb.ReportNode) (*metapb.Result, *Refusal) {
	n, no := a.ofThisRun(c.Name, c.Incarnation)
	if no != nil {
		return nil, no
	}
	if no := checkSpace(c.CapacityBytes, c.FreeBytes); no != nil {
		return nil, no
	}
	return a.editNode(n, func(n *metapb.Node) { n.CapacityBytes, n.FreeBytes = c.CapacityBytes, c.FreeBytes }), nil
}

// ofThisRun finds a node and ignores what is said of its earlier runs.
func (a *apply) ofThisRun(name string, incarnation uint64) (*metapb.Node, *Refusal) {
	n, no := a.node(name)
	if no != nil {
		return nil, no
	}
	if n.Incarnation != incarnation && !mutant.On(mutant.StateOldVerdict) {
		return nil, conflict("node %s runs as %s, this is about %s", name, hexID(n.Incarnation), hexID(incarnation))
	}
	return n, nil
}

func checkSpace(capacity, free int64) *Refusal {
	if capacity < 0 || free < 0 || free > capacity {
		return invalid("%d bytes free of %d", free, capacity)
	}
	return nil
}

func (a *apply) observeNode(c *metapb.ObserveNode) (*metapb.Result, *Refusal) {
	n, no := a.ofThisRun(c.Name, c.Incarnation)
	if no != nil {
		return nil, no
	}
	if c.Health < metapb.Health_HEALTH_UP || c.Health > metapb.Health_HEALTH_DOWN || c.HeldUntil < 0 || len(c.Text) > textLimit {
		return nil, invalid("health %d, held until %d: there is no such verdict", c.Health, c.HeldUntil)
	}
	return a.editNode(n, func(n *metapb.Node) {
		if n.Health != c.Health {
			n.HealthSince = a.c.Time
		}
		n.Health, n.HealthText, n.HeldUntil = c.Health, c.Text, c.HeldUntil
	}), nil
}

func (a *apply) drainNode(c *metapb.DrainNode) (*metapb.Result, *Refusal) {
	n, no := a.node(c.Name)
	if no != nil {
		return nil, no
	}
	return a.editNode(n, func(n *metapb.Node) { n.Drained, n.KeepReplicas = !c.Undo, c.KeepReplicas && !c.Undo }), nil
}

func (a *apply) fenceNode(c *metapb.FenceNode) (*metapb.Result, *Refusal) {
	n, no := a.ofThisRun(c.Name, c.Incarnation)
	if no != nil {
		return nil, no
	}
	if len(c.Text) > textLimit {
		return nil, invalid("%.20q… is longer than %d bytes", c.Text, textLimit)
	}
	return a.editNode(n, func(n *metapb.Node) { n.Fenced = c.Text }), nil
}

// replaceNode gives a node a new Raft id, so that its old disk cannot vote, and
// takes away what its memberships rested on, so that its old disk does not count.
func (a *apply) replaceNode(c *metapb.ReplaceNode) (*metapb.Result, *Refusal) {
	n, no := a.node(c.Name)
	if no != nil {
		return nil, no
	}
	if c.Address != "" {
		if no := checkAddress(c.Address); no != nil {
			return nil, no
		}
	}
	if no := a.checkQuorumWithout(n); no != nil {
		return nil, no
	}
	a.retire(n.Id)
	r := a.putNode(n, func() *metapb.Node {
		now := unregistered(n)
		now.Id, now.Disk, now.CapacityBytes, now.FreeBytes = a.s.nextID, 0, 0, 0
		if c.Address != "" {
			now.Address = c.Address
		}
		return now
	}())
	a.eachMembership(n.Name, func(v *metapb.Volume, i int) {
		a.editVolume(v, n.Name+" replaced: what its old disk held counts no more", func(v *metapb.Volume) { forgetMember(v.Members[i]) })
	})
	return r, nil
}

// retire gives out a new Raft id in the place of one that is never used again.
func (a *apply) retire(id uint64) {
	a.changed = true
	a.s.retired = sortedIDs(a.s.retired, []uint64{id})
	a.s.nextID++
}

// eachMembership calls f for each volume that a node is a member of, with its
// place in the list, in the order of names. It may replace that volume.
func (a *apply) eachMembership(node string, f func(v *metapb.Volume, i int)) {
	for _, v := range slices.Clone(a.s.volumes.rows) {
		if i := memberIndex(v.Members, node); i >= 0 {
			f(v, i)
		}
	}
}

// memberIndex is -1 for a node that is no member.
func memberIndex(members []*metapb.Member, node string) int {
	return slices.IndexFunc(members, func(m *metapb.Member) bool { return m.Node == node })
}

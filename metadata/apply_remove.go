package metadata

import (
	"slices"

	"blkd/metadata/metapb"
)

// removeNode forgets a node. Without force it must neither be a member of a
// volume nor a voter that no other node can stand in for. Force drops memberships,
// but only those that the volume can provably do without, and lets the number of
// voters fall; it never costs an acknowledged write, a volume its min-copies, or
// the cluster its quorum.
func (a *apply) removeNode(c *metapb.RemoveNode) (*metapb.Result, *Refusal) {
	n, no := a.node(c.Name)
	if no != nil {
		return nil, no
	}
	if no := a.checkQuorumWithout(n); no != nil {
		return nil, no
	}
	r := &metapb.Result{Node: n}
	if spare := a.spareVoter(); slices.Contains(a.s.voters, n.Id) && spare == nil {
		left := len(a.s.voters) - 1
		if !c.Force {
			return nil, refused("node %s is a voter and no other node can take its place: %d voters would be left", n.Name, left).
				advise("add a node first: blkctl node add NAME --address HOST:PORT")
		}
		r.Text = "the quorum has lost a voter that nobody replaces"
		r.Advice = "add a node: blkctl node add NAME --address HOST:PORT"
	}
	held := a.membershipsOf(n.Name)
	if len(held) > 0 && !c.Force {
		return nil, refused("node %s has replicas of %s", n.Name, someOf(held)).advise("move them off first: blkctl node drain %s", n.Name)
	}
	a.eachMembership(n.Name, func(v *metapb.Volume, i int) {
		if no == nil {
			no = checkDrop(v, i)
		}
	})
	if no != nil {
		return nil, no
	}
	a.eachMembership(n.Name, func(v *metapb.Volume, i int) {
		before := membersText(v.Members)
		rest := slices.Delete(slices.Clone(v.Members), i, i+1)
		a.editVolume(v, "members "+before+" -> "+membersText(rest)+": "+n.Name+" removed", func(v *metapb.Volume) {
			v.Members = slices.Delete(v.Members, i, i+1)
		})
	})
	a.changed = true
	a.s.retired = sortedIDs(a.s.retired, []uint64{n.Id})
	a.s.nodes.remove(n.Name)
	a.tell(typeNode, n.Name, nodeFields(n), nil)
	return r, nil
}

// checkDrop refuses to leave out a member that an acknowledged write may need. It
// is not asked for by the primary, who knows what the others hold, so it must be
// safe whatever they hold: every seal quorum of the members that stay must meet
// every ack quorum there was, of which the member that leaves may be one. So many
// of them have to be sound: else a recovery had to do with the logs of those that
// stay, though what the others forgot may be in the log of the one that left.
func checkDrop(v *metapb.Volume, i int) *Refusal {
	m := v.Members[i]
	if len(v.Members) == 1 {
		return refused("node %s has the only replica of volume %s", m.Node, v.Name).advise("delete the volume first: blkctl volume delete %s", v.Name)
	}
	if !counts(m) {
		return nil
	}
	before, after := tallyOf(v.Members), tallyOf(slices.Delete(slices.Clone(v.Members), i, i+1))
	acked := ackQuorum(v.Ack, before.logs)
	if m.Log {
		acked--
	}
	meets := sealQuorum(v.Ack, after.logs)+acked > after.logs
	if !meets || !enough(v, after) || recoverable(v, after) {
		return refused("volume %s may need its replica on node %s: members %s, min-copies %d", v.Name, m.Node, membersText(v.Members), v.MinCopies).
			advise("wait until its primary has dropped or replaced it (blkctl status %s), or delete the volume", v.Name)
	}
	return nil
}

// checkQuorumWithout refuses to do without a voter that the quorum needs now: its
// own removal from the voters has to be agreed on by the others.
func (a *apply) checkQuorumWithout(n *metapb.Node) *Refusal {
	voters := a.s.voters
	if !slices.Contains(voters, n.Id) {
		return nil
	}
	up := 0
	for _, id := range voters {
		if id != n.Id && answers(a.s.NodeByID(id)) {
			up++
		}
	}
	if need := len(voters)/2 + 1; up < need {
		return refused("without node %s the quorum has %d voters that answer, of the %d it needs", n.Name, up, need).
			advise("bring other voters back, or add one: blkctl cluster status")
	}
	return nil
}

// spareVoter returns a node that could vote and does not.
func (a *apply) spareVoter() *metapb.Node {
	i := slices.IndexFunc(a.s.nodes.rows, func(n *metapb.Node) bool { return answers(n) && !slices.Contains(a.s.voters, n.Id) })
	if i < 0 {
		return nil
	}
	return a.s.nodes.rows[i]
}

// answers tells whether a node takes part; nil does not.
func answers(n *metapb.Node) bool {
	return n.GetIncarnation() != 0 && (n.Health == metapb.Health_HEALTH_UP || n.Health == metapb.Health_HEALTH_SLOW)
}

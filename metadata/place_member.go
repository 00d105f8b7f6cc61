package metadata

import (
	"slices"

	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// PlaceMember decides which node gets one more replica of a volume, and why: to, or,
// if that is empty, the one that a new volume would choose beside the replicas that
// stay. If from is not empty, the replica is moved from there, and leaves; of an
// erasure code its shard is, and every shard has one member that stays. The plan tells
// all replicas as they would be recorded, the new one Inconsistent and the last. The
// error is a *[Refusal].
func PlaceMember(s *State, volume, to, from string) (*metapb.Plan, error) {
	plan, no := placeMember(s, volume, to, from)
	if no != nil {
		return nil, no
	}
	return plan, nil
}

func placeMember(s *State, volume, to, from string) (*metapb.Plan, *Refusal) {
	v := s.Volume(volume)
	switch {
	case v == nil:
		return nil, notFound("there is no volume %.80q", volume).advise("blkctl volume list")
	case isEC(v.Layout) && from == "":
		return nil, refused("volume %s has layout %s: it has %d shards, never more", v.Name, metapb.LayoutWord(v.Layout), width(v.Layout)).
			advise("to have a shard elsewhere: blkctl replica move %s FROM [TO]", v.Name)
	case memberIndex(v.Members, to) >= 0:
		return nil, exists("node %s has a replica of volume %s already", to, v.Name).advise("blkctl replica list %s", v.Name)
	case from != "" && memberIndex(v.Members, from) < 0:
		return nil, refused("node %s has no replica of volume %s", from, v.Name).advise("blkctl replica list %s", v.Name)
	}
	if heir := heirOf(v, from); heir != "" {
		return nil, refused("the shard of volume %s on %s is being moved to %s already", v.Name, from, heir).
			advise("to stop that: blkctl replica remove %s %s", v.Name, heir)
	}
	v = proto.CloneOf(v)
	if from != "" {
		v.Members[memberIndex(v.Members, from)].Leaving = true
	}
	p := newPlacement(s)
	p.set(v)
	if to != "" {
		if no := p.restrict(s, &metapb.CreateVolume{Layout: v.Layout, Nodes: []string{to}}, 1); no != nil {
			return nil, no
		}
	}
	if len(p.left) == 0 {
		return nil, refused("no node can take another replica of volume %s", v.Name).
			advise("add a node: blkctl node add NAME --address HOST:PORT; why the others cannot: blkctl node list")
	}
	p.choose(to != "")
	n := p.chosen[len(p.chosen)-1].node
	for _, rest := range p.left {
		p.rejected = append(p.rejected, rest.node.Name+": not needed")
	}
	slices.Sort(p.rejected)
	plan := &metapb.Plan{Primary: v.Primary, Reasons: p.reasons, Rejected: p.rejected}
	m := &metapb.Member{Node: n.Name, Incarnation: n.Incarnation, State: metapb.ReplicaState_REPLICA_STATE_INCONSISTENT, Log: true}
	plan.Members = append(v.Members, m)
	after := &metapb.Volume{Layout: proto.CloneOf(v.Layout), Ack: v.Ack, MinCopies: v.MinCopies, Members: plan.Members}
	if !isEC(v.Layout) {
		after.Layout.Copies = int32(len(plan.Members))
		plan.Survives, plan.Lacks = survives(s, after)
		return plan, nil
	}
	m.Shard = v.Members[memberIndex(v.Members, from)].Shard
	after.Members = slices.DeleteFunc(slices.Clone(plan.Members), func(m *metapb.Member) bool { return m.Leaving })
	plan.Survives, plan.Lacks = survives(s, after)
	return plan, nil
}

// heirOf is the node that the shard of a node that leaves is moved to; empty: there is
// none.
func heirOf(v *metapb.Volume, node string) string {
	i := memberIndex(v.Members, node)
	if i < 0 || !isEC(v.Layout) || !v.Members[i].Leaving {
		return ""
	}
	for _, m := range v.Members {
		if m.Shard == v.Members[i].Shard && m.Node != node {
			return m.Node
		}
	}
	return ""
}

// WithoutMember is the list of a volume's members without one that does not count. Of
// an erasure code it can be the one that a shard was to be moved to, and that of the
// old one stays then; every shard keeps a member. The error is a *[Refusal].
func WithoutMember(v *metapb.Volume, node string) ([]*metapb.Member, error) {
	i := memberIndex(v.Members, node)
	if i < 0 {
		return v.Members, nil
	}
	shard, held := v.Members[i].Shard, !isEC(v.Layout)
	var members []*metapb.Member
	for _, m := range v.Members {
		if m.Node == node {
			continue
		}
		if isEC(v.Layout) && m.Shard == shard {
			m = proto.CloneOf(m)
			m.Leaving, held = false, true
		}
		members = append(members, m)
	}
	if !held {
		return nil, shardKept(v, node)
	}
	return members, nil
}

// shardKept says that the member of a shard cannot go.
func shardKept(v *metapb.Volume, node string) *Refusal {
	return refused("volume %s has layout %s: it needs each of its %d shards, also that on %s", v.Name, metapb.LayoutWord(v.Layout), width(v.Layout), node).
		advise("to have it on another node: blkctl replica move %s %s; to have it rebuilt: blkctl replica invalidate %s %s", v.Name, node, v.Name, node)
}

// KeepsShard says why the replica of a node, which counts, cannot be taken out of an
// erasure-coded volume; nil: of a mirror it can.
func KeepsShard(v *metapb.Volume, node string) error {
	if !isEC(v.Layout) {
		return nil
	}
	if heir := heirOf(v, node); heir != "" {
		return refused("the shard of volume %s on %s is being moved to %s: when it is there, that on %s goes by itself", v.Name, node, heir, node).
			advise("blkctl replica list %s", v.Name)
	}
	return shardKept(v, node)
}

// set takes the replicas that a volume has as chosen, but for those that leave.
func (p *placement) set(v *metapb.Volume) {
	p.left = slices.DeleteFunc(p.left, func(ch *candidate) bool {
		i := memberIndex(v.Members, ch.node.Name)
		if i >= 0 && !v.Members[i].Leaving {
			p.chosen = append(p.chosen, ch)
		}
		if i >= 0 {
			p.rejected = append(p.rejected, ch.node.Name+": it has a replica already")
		}
		return i >= 0
	})
}

package metadata

import (
	"slices"

	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// PlaceMember decides which node gets one more replica of a mirror, and why: to, or,
// if that is empty, the one that a new volume would choose beside the replicas that
// stay. If from is not empty, the replica is moved from there, and leaves. The plan
// tells all replicas as they would be recorded, the new one Inconsistent and the
// last. The error is a *[Refusal].
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
	case isEC(v.Layout):
		return nil, refused("volume %s has layout %s: its shards cannot be added to or moved", v.Name, metapb.LayoutWord(v.Layout))
	case memberIndex(v.Members, to) >= 0:
		return nil, exists("node %s has a replica of volume %s already", to, v.Name).advise("blkctl replica list %s", v.Name)
	case from != "" && memberIndex(v.Members, from) < 0:
		return nil, refused("node %s has no replica of volume %s", from, v.Name).advise("blkctl replica list %s", v.Name)
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
	plan.Members = append(v.Members, &metapb.Member{Node: n.Name, Incarnation: n.Incarnation,
		State: metapb.ReplicaState_REPLICA_STATE_INCONSISTENT, Log: true})
	c := &metapb.CreateVolume{Layout: proto.CloneOf(v.Layout), Ack: v.Ack, MinCopies: v.MinCopies}
	c.Layout.Copies = int32(len(plan.Members))
	plan.Survives = survives(s, c, plan.Members)
	return plan, nil
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

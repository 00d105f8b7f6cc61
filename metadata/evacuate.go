package metadata

import (
	"fmt"
	"slices"

	"blkd/metadata/metapb"
)

// mostMoves is how many volumes have a replica moved at once because its node is
// drained: what is copied takes disks and network from clients.
const mostMoves = 2

// evacuate moves replicas off nodes that are drained, where another node can take
// them: it names the new one in the record and marks the old one as leaving, as an
// operator who moves a replica does. A volume of which a replica comes, goes or is
// behind is left alone until it is calm; so a move that has begun is one step of its
// own, and is completed also if the drain is taken back.
func (s *Steward) evacuate(w *world, out *StewardOutput) {
	moves := 0
	for _, v := range w.in.State.volumes.rows {
		moves += truth(slices.ContainsFunc(v.Members, func(m *metapb.Member) bool { return m.Leaving }))
	}
	for _, v := range w.in.State.volumes.rows {
		from := evacuee(w.in.State, v)
		if from == "" || !calm(v, from) {
			continue
		}
		if moves >= mostMoves {
			return
		}
		plan, no := placeMember(w.in.State, v.Name, "", from)
		key := fmt.Sprintf("move/%s/%d", v.Name, v.Number)
		if no != nil || !s.retries.allowed(key, w.in.Now) {
			continue
		}
		s.retries.note(key, w.in.Now, s.config)
		moves++
		c := s.command(w, from+" is drained")
		c.Op = &metapb.Command_SetMembers{SetMembers: &metapb.SetMembers{
			Volume: v.Name, Generation: v.Generation, Number: v.Number, Members: plan.Members}}
		out.Commands = append(out.Commands, c)
	}
}

// evacuee is the drained node that a replica of a volume is to be moved from; empty:
// none is.
func evacuee(s *State, v *metapb.Volume) string {
	for _, m := range v.Members {
		if n := s.Node(m.Node); n.GetDrained() && !n.KeepReplicas && !m.Leaving {
			return m.Node
		}
	}
	return ""
}

// calm tells whether every replica of a volume, but for that of a node, counts and none
// is to leave.
func calm(v *metapb.Volume, but string) bool {
	return !slices.ContainsFunc(v.Members, func(m *metapb.Member) bool { return m.Leaving || !sound(m) && m.Node != but })
}

// DrainWaits says of each volume that keeps a drained node from being empty what it
// waits for that does not come by itself, with what helps. A node that is not drained
// waits for nothing.
func DrainWaits(s *State, node string) []*Refusal {
	n := s.Node(node)
	if !n.GetDrained() {
		return nil
	}
	var waits []*Refusal
	for _, v := range s.volumes.rows {
		if memberIndex(v.Members, node) < 0 {
			continue
		}
		if !n.KeepReplicas {
			if no := moveWaits(s, v, node); no != nil {
				waits = append(waits, no)
				continue
			}
		}
		if v.Primary == node && !slices.ContainsFunc(v.Members, func(m *metapb.Member) bool { return takesOver(s, m) }) {
			help := "blkctl why " + v.Name
			if len(v.Members) == 1 {
				help = "blkctl replica add " + v.Name
			}
			waits = append(waits, refused("volume %s: no other replica can take over", v.Name).advise("%s", help))
		}
	}
	return waits
}

// moveWaits says why the replica of a volume on a drained node is not moved; nil: it is.
func moveWaits(s *State, v *metapb.Volume, node string) *Refusal {
	if v.Members[memberIndex(v.Members, node)].Leaving {
		return nil
	}
	_, no := placeMember(s, v.Name, "", node)
	if no == nil && !calm(v, node) && !slices.ContainsFunc(v.Members, func(m *metapb.Member) bool { return m.Leaving }) {
		return refused("volume %s: a replica is behind or away", v.Name).advise("blkctl why %s", v.Name)
	}
	return no
}

// takesOver tells whether a member can be handed the volume of a drained node.
func takesOver(s *State, m *metapb.Member) bool {
	n := s.Node(m.Node)
	return mayLead(m) && !m.Leaving && unusable(n) == ""
}

// TakesOver is the member that the primary of a volume on a drained node should hand
// it over to: one that counts, on a node that may be used; empty: there is none now.
func TakesOver(s *State, v *metapb.Volume) string {
	for _, m := range v.Members {
		if m.Node != v.Primary && takesOver(s, m) {
			return m.Node
		}
	}
	return ""
}

package metadata

import (
	"fmt"
	"slices"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"
)

// promote starts a new generation with one primary (S1). It takes a member that
// counts, in its current run, and that cannot have lost acknowledged writes;
// whether it can bring the others level is decided by the seals it collects.
func (a *apply) promote(c *metapb.Promote) (*metapb.Result, *Refusal) {
	v, no := a.compare(c.Volume, c.Generation, c.Number)
	if no != nil {
		return nil, no
	}
	i, no := a.promotable(v, c.To, c.Incarnation)
	if no != nil {
		return nil, no
	}
	if c.Force {
		return a.forcePromote(v, i)
	}
	m := v.Members[i]
	switch {
	case !counts(m) && !mutant.On(mutant.StatePromoteAny):
		return nil, refused("%s is %s in volume %s and may lack acknowledged writes", m.Node, metapb.StateWord(m.State), v.Name).
			advise("promote one of %s; if they are lost for good: blkctl promote %s --to %s --force --reason TEXT", soundNames(v), v.Name, m.Node)
	case m.Amnesiac && !mutant.On(mutant.StatePromoteAmnesiac):
		return nil, refused("%s restarted and may have lost acknowledged writes of volume %s", m.Node, v.Name).
			advise("promote one of %s; if there is none, the volume recovers by itself when all members are back", soundNames(v))
	}
	what := fmt.Sprintf("promoted %s -> %s", orNobody(v.Primary), m.Node)
	return a.editVolume(v, what, func(v *metapb.Volume) { crown(v, m) }), nil
}

// crown starts the next generation with a member as its primary.
func crown(v *metapb.Volume, m *metapb.Member) {
	v.Generation++
	v.Primary, v.PrimaryIncarnation = m.Node, m.Incarnation
}

// promotable finds a member that a promotion names and compares its incarnation.
func (a *apply) promotable(v *metapb.Volume, node string, incarnation uint64) (int, *Refusal) {
	n, no := a.node(node)
	if no != nil {
		return 0, no
	}
	i := memberIndex(v.Members, node)
	switch {
	case i < 0:
		return 0, refused("%s is no member of volume %s (members %s)", node, v.Name, membersText(v.Members)).
			advise("promote one of %s", soundNames(v))
	case n.Incarnation == 0:
		return 0, refused("%s has not registered since it was replaced or restored", node).advise("start blkd on %s", node)
	case n.Incarnation != incarnation:
		no := conflict("%s runs as %s, not as %s", node, hexID(n.Incarnation), hexID(incarnation)).advise("read its record again: blkctl node show %s", node)
		no.volume = v
		return 0, no
	case !v.Members[i].Log:
		return 0, refused("%s does not keep the log of volume %s", node, v.Name).advise("promote one of %s", soundNames(v))
	}
	return i, nil
}

// forcePromote takes a branch that may lack acknowledged writes. It is a new
// lineage of this one member: no log, lease or promise of the others has a part in
// it, and their content is kept as that of the other branch. Clients are cut off, so
// that they mount again: what they have seen may lie beyond what this branch has.
func (a *apply) forcePromote(v *metapb.Volume, i int) (*metapb.Result, *Refusal) {
	m := v.Members[i]
	switch {
	case isEC(v.Layout):
		return nil, refused("volume %s is erasure-coded: no member alone has its content", v.Name).
			advise("bring its members back, or recover it without those that are lost: blkctl why %s", v.Name)
	case m.State != metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE && m.State != metapb.ReplicaState_REPLICA_STATE_OUTDATED:
		return nil, refused("%s is %s: its content of volume %s is not complete", m.Node, metapb.StateWord(m.State), v.Name).
			advise("force another member: %s", membersText(v.Members))
	}
	what := fmt.Sprintf("forced %s -> %s: new lineage, members %s -> %s", orNobody(v.Primary), m.Node, membersText(v.Members), m.Node)
	return a.editVolume(v, what, func(v *metapb.Volume) {
		for _, m := range v.Members {
			if counts(m) {
				m.State, m.Amnesiac = metapb.ReplicaState_REPLICA_STATE_OUTDATED, false
			}
		}
		v.Members[i].State = metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE
		v.Lineage = a.newLineage(v)
		crown(v, v.Members[i])
		cutOff(v)
	}), nil
}

// cutOff is for a log that may lack what was acknowledged: whoever was attached is
// no longer, for ever (S10), and the mark begins anew.
func cutOff(v *metapb.Volume) {
	v.Attachment = nobody(v.Attachment.Number + 1)
	v.Mark = &metapb.Mark{Generation: v.Generation}
}

// nobody is the attachment of a volume from which every client was taken.
func nobody(number uint64) *metapb.Attachment {
	return &metapb.Attachment{Number: number, Since: number}
}

// soundNames lists the members that can be promoted, for people.
func soundNames(v *metapb.Volume) string {
	var names []string
	for _, m := range v.Members {
		if sound(m) && m.Log {
			names = append(names, m.Node)
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		return "(none)"
	}
	return someOf(names)
}

func orNobody(name string) string {
	if name == "" {
		return "nobody"
	}
	return name
}

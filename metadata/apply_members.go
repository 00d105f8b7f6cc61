package metadata

import (
	"cmp"
	"slices"
	"strings"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// setMembers replaces the member list. What the members hold, only the primary
// knows: it asks for a change of the members that count, after it has made sure
// of what section 5 of the protocol demands. Everything that the record itself
// shows is checked here.
func (a *apply) setMembers(c *metapb.SetMembers) (*metapb.Result, *Refusal) {
	v, no := a.compare(c.Volume, c.Generation, c.Number)
	if no != nil {
		return nil, no
	}
	next := proto.CloneOf(v)
	if next.Members, no = a.memberList(v, c.Members); no != nil {
		return nil, no
	}
	if no := setCopies(next, c.Copies); no != nil {
		return nil, no
	}
	if proto.Equal(v, next) {
		return &metapb.Result{Volume: v}, nil
	}
	if no := checkNewcomers(v, next); no != nil {
		return nil, no
	}
	if no := checkShards(next); no != nil {
		return nil, no
	}
	if no := checkCounted(v, next); no != nil {
		return nil, no
	}
	what := "members " + membersText(v.Members) + " -> " + membersText(next.Members)
	if was, is := metapb.LayoutWord(v.Layout), metapb.LayoutWord(next.Layout); was != is {
		what += ", " + was + " -> " + is
	}
	return a.editVolume(v, what, func(v *metapb.Volume) { v.Members, v.Layout, v.Ack = next.Members, next.Layout, next.Ack }), nil
}

// setCopies gives a mirror another number of copies. Of two, a majority is all: the
// policy then says so, as long as that is the same for the members that count.
func setCopies(next *metapb.Volume, copies int32) *Refusal {
	switch {
	case copies == 0:
		return nil
	case isEC(next.Layout):
		return invalid("volume %s has layout %s: only a mirror has copies", next.Name, metapb.LayoutWord(next.Layout))
	case copies < 3 && tallyOf(next.Members).logs > 2 && next.Ack != metapb.AckPolicy_ACK_POLICY_ALL:
		return refused("volume %s has members %s that count: too many for %d copies", next.Name, membersText(next.Members), copies)
	}
	next.Layout.Copies = copies
	if copies < 3 {
		next.Ack = metapb.AckPolicy_ACK_POLICY_ALL
	}
	return checkShape(next)
}

// memberList brings an asked list into the form of records: members of a mirror
// all keep the log, and the order is that of shards, then names. Each has to name
// its node's current incarnation (I9).
func (a *apply) memberList(v *metapb.Volume, asked []*metapb.Member) ([]*metapb.Member, *Refusal) {
	if len(asked) == 0 || len(asked) > 2*maxShards {
		return nil, invalid("volume %s cannot have %d members", v.Name, len(asked))
	}
	var members []*metapb.Member
	for _, m := range asked {
		if m == nil {
			return nil, invalid("a member without a name")
		}
		m = proto.CloneOf(m)
		n, no := a.node(m.Node)
		if no != nil {
			return nil, no
		}
		if n.Witness {
			return nil, refused("node %s is a witness and cannot have replicas", n.Name).advise("name another node: blkctl node list")
		}
		if m.Incarnation != n.Incarnation {
			no := conflict("node %s runs as %s, not as %s", n.Name, hexID(n.Incarnation), hexID(m.Incarnation))
			no.volume = v
			return nil, no
		}
		if !isEC(v.Layout) {
			m.Log = true
		}
		members = append(members, m)
	}
	slices.SortFunc(members, func(x, y *metapb.Member) int {
		return cmp.Or(cmp.Compare(x.Shard, y.Shard), strings.Compare(x.Node, y.Node))
	})
	next := proto.CloneOf(v)
	next.Members = members
	if err := checkMembers(a.s, next); err != nil {
		return nil, invalid("volume %s: %v", v.Name, err)
	}
	return members, nil
}

// checkNewcomers checks what becomes of each member by itself.
func checkNewcomers(v, next *metapb.Volume) *Refusal {
	for _, m := range next.Members {
		was := new(metapb.Member)
		if i := memberIndex(v.Members, m.Node); i >= 0 {
			was = v.Members[i]
		}
		switch {
		case m.Amnesiac && !was.Amnesiac:
			return invalid("volume %s: only a restart makes member %s amnesiac", v.Name, m.Node)
		case was.Node == "" && isEC(v.Layout) && !succeeds(next, m):
			return refused("volume %s has layout %s: a shard comes to %s only from a member that leaves", v.Name, metapb.LayoutWord(v.Layout), m.Node).
				advise("blkctl replica move %s FROM %s", v.Name, m.Node)
		case m.Incarnation == 0 && (m.State != was.State || m.Amnesiac != was.Amnesiac):
			return refused("volume %s: node %s has not registered since it was replaced or restored", v.Name, m.Node).advise("start blkd on %s", m.Node)
		case was.Node != "" && m.Shard != was.Shard && m.State != metapb.ReplicaState_REPLICA_STATE_INCONSISTENT:
			return refused("volume %s: %s has shard %d and cannot count as shard %d at once", v.Name, m.Node, was.Shard, m.Shard).
				advise("record it as Inconsistent, so that all of it is rebuilt")
		}
	}
	return nil
}

// succeeds tells whether a member is to have the shard of one that leaves, when it has
// been brought level.
func succeeds(v *metapb.Volume, m *metapb.Member) bool {
	return m.State == metapb.ReplicaState_REPLICA_STATE_INCONSISTENT && !m.Leaving &&
		slices.ContainsFunc(v.Members, func(x *metapb.Member) bool { return x.Node != m.Node && x.Shard == m.Shard && x.Leaving })
}

// checkShards checks that every shard of an erasure code has a member.
func checkShards(next *metapb.Volume) *Refusal {
	if !isEC(next.Layout) {
		return nil
	}
	for shard := range int32(width(next.Layout)) {
		if !slices.ContainsFunc(next.Members, func(m *metapb.Member) bool { return m.Shard == shard }) {
			return refused("volume %s has layout %s: nobody would have shard %d", next.Name, metapb.LayoutWord(next.Layout), shard).
				advise("blkctl replica move %s FROM [TO]", next.Name)
		}
	}
	return nil
}

// checkCounted checks the members that acknowledgements and seals are counted
// over, if they change: the primary of this generation has to ask and to stay,
// and whoever leaves must leave enough behind (S3).
func checkCounted(v, next *metapb.Volume) *Refusal {
	if sameCounted(v.Members, next.Members) {
		return nil
	}
	if !leads(v, v.Members) || !leads(v, next.Members) {
		return refused("volume %s: the primary of generation %d, %s, would not be among the members %s, or runs no longer",
			v.Name, v.Generation, orNobody(v.Primary), membersText(next.Members)).advise("promote a member first: blkctl promote %s", v.Name)
	}
	if grows(v.Members, next.Members) || enough(next, tallyOf(next.Members)) || mutant.On(mutant.StateShrinkAny) {
		return nil
	}
	return refused("volume %s: members %s would be fewer than min-copies %d allows with ack %s",
		v.Name, membersText(next.Members), v.MinCopies, metapb.AckWord(v.Ack)).
		advise("bring a member back; until then writes wait. To go on with fewer copies: blkctl volume change %s --min-copies N", v.Name)
}

// leads tells whether the primary of a volume's generation is among members: in the
// run that was promoted, sound and with the log.
func leads(v *metapb.Volume, members []*metapb.Member) bool {
	i := memberIndex(members, v.Primary)
	return i >= 0 && sound(members[i]) && members[i].Log && members[i].Incarnation == v.PrimaryIncarnation
}

// sameCounted tells whether two lists have the same members that count, in the
// same role.
func sameCounted(before, after []*metapb.Member) bool {
	return grows(before, after) && grows(after, before)
}

// grows tells whether every member that counted before does so after, in the
// same role or more.
func grows(before, after []*metapb.Member) bool {
	for _, m := range before {
		if !counts(m) {
			continue
		}
		i := memberIndex(after, m.Node)
		if i < 0 || !counts(after[i]) || m.Log && !after[i].Log || sound(m) && !sound(after[i]) {
			return false
		}
	}
	return true
}

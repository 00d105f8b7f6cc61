package replicas

import (
	"blkd/metadata/metapb"
	"blkd/replication"
)

// RecordOf is what the quorum recorded about a volume, in replication's words.
func RecordOf(v *metapb.Volume) *replication.Record {
	r := &replication.Record{
		Lineage: v.Lineage, Generation: replication.Generation(v.Generation), Number: v.Number,
		Primary: replication.NodeID(v.Primary), PrimaryIncarnation: replication.Incarnation(v.PrimaryIncarnation),
		Policy: replication.AckAll, MinCopies: int(v.MinCopies), Durability: replication.DurableFlush,
		Attachment: v.GetAttachment().GetNumber(), Fenced: v.GetAttachment().GetSince(),
		Mark: replication.Mark{Generation: replication.Generation(v.GetMark().GetGeneration()), Seq: replication.Seq(v.GetMark().GetSeq())},
	}
	if v.Ack == metapb.AckPolicy_ACK_POLICY_MAJORITY {
		r.Policy = replication.AckMajority
	}
	if v.Durability == metapb.Durability_DURABILITY_WRITE {
		r.Durability = replication.DurableWrite
	}
	for _, m := range v.Members {
		r.Members = append(r.Members, replication.Member{
			Node: replication.NodeID(m.Node), Incarnation: replication.Incarnation(m.Incarnation),
			State: states[m.State], Shard: int(m.Shard), Amnesiac: m.Amnesiac, Leaving: m.Leaving,
		})
	}
	return r
}

// states are replication's words for those of records.
var states = map[metapb.ReplicaState]replication.MemberState{
	metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE:   replication.UpToDate,
	metapb.ReplicaState_REPLICA_STATE_SYNCING:      replication.Syncing,
	metapb.ReplicaState_REPLICA_STATE_OUTDATED:     replication.Outdated,
	metapb.ReplicaState_REPLICA_STATE_INCONSISTENT: replication.Inconsistent,
}

// membersOf is a member list as the quorum takes it.
func membersOf(members []replication.Member) []*metapb.Member {
	var list []*metapb.Member
	for _, m := range members {
		p := &metapb.Member{Node: string(m.Node), Incarnation: uint64(m.Incarnation), Shard: int32(m.Shard), Amnesiac: m.Amnesiac, Leaving: m.Leaving, Log: true}
		for word, state := range states {
			if state == m.State {
				p.State = word
			}
		}
		list = append(list, p)
	}
	return list
}

// CommandOf is a proposal as the quorum takes it.
func CommandOf(volume string, p *replication.Proposal) *metapb.Command {
	c := &metapb.Command{Reason: p.Why}
	generation := uint64(p.Generation)
	switch {
	case p.Recover:
		recover := &metapb.Recover{Volume: volume, Generation: generation, Number: p.Number,
			Primary: string(p.Promote), Incarnation: uint64(p.PromoteInc), Members: membersOf(p.Members)}
		for _, n := range p.Waived {
			recover.Waived = append(recover.Waived, string(n))
		}
		c.Op = &metapb.Command_Recover{Recover: recover}
	case p.Shape != nil:
		change := &metapb.ChangeVolume{Name: volume, Generation: generation, Number: p.Number,
			Ack: metapb.AckPolicy_ACK_POLICY_ALL, MinCopies: int32(p.Shape.MinCopies), Durability: metapb.Durability_DURABILITY_FLUSH}
		if p.Shape.Policy == replication.AckMajority {
			change.Ack = metapb.AckPolicy_ACK_POLICY_MAJORITY
		}
		if p.Shape.Durability == replication.DurableWrite {
			change.Durability = metapb.Durability_DURABILITY_WRITE
		}
		c.Op = &metapb.Command_ChangeVolume{ChangeVolume: change}
	case p.Members != nil:
		c.Op = &metapb.Command_SetMembers{SetMembers: &metapb.SetMembers{
			Volume: volume, Generation: generation, Number: p.Number, Members: membersOf(p.Members)}}
	default:
		c.Op = &metapb.Command_Promote{Promote: &metapb.Promote{
			Volume: volume, Generation: generation, Number: p.Number, To: string(p.Promote), Incarnation: uint64(p.PromoteInc)}}
	}
	return c
}

// CopiesAfter is how many copies a mirror wants when its list has changed: one less
// for every replica that is gone, if it had no more than it wanted. 0: as many as
// before.
func CopiesAfter(v *metapb.Volume, members []*metapb.Member) int32 {
	if v == nil || len(members) >= len(v.Members) || len(members) >= int(v.GetLayout().GetCopies()) {
		return 0
	}
	return int32(len(members))
}

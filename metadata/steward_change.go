package metadata

import (
	"slices"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// steering is one change of members or leader, and why.
type steering struct {
	key      string   // what it is, for the pause before it is tried again
	promote  []uint64 // learners that become voters
	demote   []uint64 // voters that become learners
	learn    []uint64 // nodes that become learners
	remove   []uint64 // members that leave
	transfer uint64   // who leads instead; if set, nothing else is
	reason   string
}

// outcome is what the change makes of the members.
func (p *steering) outcome(r RaftStatus) (voters, learners []uint64) {
	gone := slices.Concat(p.demote, p.remove)
	for _, id := range slices.Concat(r.Voters, p.promote) {
		if !slices.Contains(gone, id) {
			voters = append(voters, id)
		}
	}
	gone = slices.Concat(p.promote, p.remove)
	for _, id := range slices.Concat(r.Learners, p.demote, p.learn) {
		if !slices.Contains(gone, id) {
			learners = append(learners, id)
		}
	}
	return sortedIDs(voters), sortedIDs(learners)
}

// change is the steering as Raft takes it. More than one step goes through a
// joint configuration, which Raft leaves by itself.
func (p *steering) change(c *metapb.Command) *raftpb.ConfChangeV2 {
	context, err := proto.Marshal(c)
	if err != nil {
		panic("metadata: encode the steward's own words: " + err.Error()) // a reason that is not UTF-8
	}
	cc := &raftpb.ConfChangeV2{Context: context}
	add := func(kind raftpb.ConfChangeType, ids []uint64) {
		for _, id := range ids {
			cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{Type: kind.Enum(), NodeId: new(id)})
		}
	}
	if !mutant.On(mutant.StewardRemoveFirst) || len(p.demote)+len(p.remove) == 0 {
		add(raftpb.ConfChangeAddNode, p.promote)
		add(raftpb.ConfChangeAddLearnerNode, p.learn)
	}
	add(raftpb.ConfChangeAddLearnerNode, p.demote)
	add(raftpb.ConfChangeRemoveNode, p.remove)
	if len(cc.Changes) > 1 {
		cc.Transition = raftpb.ConfChangeTransitionJointImplicit.Enum()
	}
	return cc
}

package metadata

import (
	"slices"
	"time"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"

	"go.etcd.io/raft/v3/raftpb"
)

// Steward is what the leader of the quorum does without being asked: it records
// what its Detector found out, has another member of a volume promoted when the
// primary cannot serve (see failover), moves replicas off nodes that are drained, has
// services run elsewhere (see moveServices), keeps 1, 3 or 5 voters that work, and
// raises the cluster's version when every node can follow.
//
//	a node that                                     becomes
//	registered and is no member of Raft             a learner
//	was replaced or removed, and its Raft id votes  a stranger: it leaves
//	votes, and has failed for ReplaceVoterAfter     a learner; one that works votes instead
//	votes, and is drained                           likewise
//	learns, works and is caught up, where           a voter
//	  voters are missing
//
// A voter gives way to another one in one joint change, never before. A change is
// made only if both the voters before and after it have a majority that works, and
// never makes fewer failures bearable than before, unless an operator asked. Voters
// that fail are not counted out: their number falls only with the nodes known.
//
// A Steward is passive and remembers only what it tried. It is not safe for
// concurrent use. Its owner calls Step while the node is leader, about every
// heartbeat, and does what it answers; it makes a new Steward for a new reign.
type Steward struct {
	config  StewardConfig
	retries retries
	pending *pendingChange
	changed time.Duration // when the last change took effect, or this steward began
	began   bool
}

// pendingChange is a change that was asked for.
type pendingChange struct {
	key     string
	voters  []uint64 // as it will leave them
	learns  []uint64
	givesUp time.Duration
}

// RaftStatus is what the steward has to know of Raft, on the leader.
type RaftStatus struct {
	ID           uint64   // the node's own Raft id
	Leader       uint64   // 0: none is known
	Voters       []uint64 // of a joint configuration the incoming ones
	Outgoing     []uint64 // of a joint configuration the outgoing ones; empty: it is not joint
	Learners     []uint64
	LearnersNext []uint64
	Match        map[uint64]uint64 // index up to which each one's log is known to agree
	Commit       uint64
	Pending      bool // a change of members is in the log and not applied
}

// StewardInput is the world as the leader knows it.
type StewardInput struct {
	Now      time.Duration // of the same clock as the verdicts
	Wall     int64         // Unix nanoseconds, for what is recorded
	State    *State
	Verdicts []Verdict // of all nodes, the leader's own too: see Detector.Verdicts
	Raft     RaftStatus
}

// StewardOutput is what has to be done, all of it. Reasons are in the commands and
// in the change's context, for events and histories.
type StewardOutput struct {
	// Commands are to be proposed with fresh request ids, in any order.
	Commands []*metapb.Command
	// Change is to be proposed to Raft; nil: none. Its context is an encoded
	// metapb.Command without an operation, which says who changes the members, when
	// and why.
	Change *raftpb.ConfChangeV2
	// Transfer is the Raft id that leadership is to be handed to; 0: it stays.
	Transfer uint64
	// Reason says why Change or Transfer; empty: neither.
	Reason string
}

// NewSteward makes a steward. It fails if c is out of range.
func NewSteward(c StewardConfig) (*Steward, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Steward{config: c}, nil
}

// Step says what to do now. On a node that does not lead, or before the cluster
// is founded, that is nothing.
func (s *Steward) Step(in StewardInput) StewardOutput {
	var out StewardOutput
	if in.Raft.ID == 0 || in.Raft.Leader != in.Raft.ID || in.State.cluster == 0 {
		s.pending = nil
		return out
	}
	if !s.began {
		s.began, s.changed = true, in.Now
	}
	s.retries.forget(in.Now, s.config)
	w := newWorld(in, s.config)
	s.observe(w, &out)
	s.failover(w, &out)
	s.evacuate(w, &out)
	s.moveServices(w, &out)
	s.raiseVersion(w, &out)
	s.steer(w, &out)
	return out
}

// command is one of the steward's own.
func (s *Steward) command(w *world, reason string) *metapb.Command {
	return &metapb.Command{By: "steward", Node: w.name(w.in.Raft.ID), Reason: reason, Time: w.in.Wall}
}

// steer proposes at most one change of members or leader.
func (s *Steward) steer(w *world, out *StewardOutput) {
	r := w.in.Raft
	if p := s.pending; p != nil && sameIDs(p.voters, r.Voters) && sameIDs(p.learns, r.Learners) && len(r.Outgoing) == 0 {
		s.retries.worked(p.key)
		s.pending, s.changed = nil, w.in.Now
	}
	inFlight := s.pending != nil && w.in.Now < s.pending.givesUp
	if inFlight && !mutant.On(mutant.StewardTwoAtOnce) || r.Pending || len(r.Outgoing) > 0 || len(r.LearnersNext) > 0 || !w.hasMajority(r.Voters) {
		return
	}
	s.pending = nil
	for _, rule := range rules {
		p := rule(s, w)
		if p == nil || !s.retries.allowed(p.key, w.in.Now) {
			continue
		}
		s.retries.note(p.key, w.in.Now, s.config)
		out.Reason, out.Transfer = p.reason, p.transfer
		if p.transfer == 0 {
			out.Change = p.change(s.command(w, p.reason))
			voters, learners := p.outcome(r)
			s.pending = &pendingChange{p.key, voters, learners, w.in.Now + s.config.RetryMin}
		}
		return
	}
}

func sameIDs(a, b []uint64) bool { return slices.Equal(sortedIDs(a), sortedIDs(b)) }

package metadata

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// ServerStatus is what a member knows of the quorum. It must not be changed.
type ServerStatus struct {
	ID       uint64 // Raft id of this member
	Leader   uint64 // 0: none that it knows
	Term     uint64
	Commit   uint64 // index of the last entry that it knows to be committed
	Applied  uint64 // index that its state reflects
	Snapshot uint64 // index of the snapshot on its disk
	Voters   []uint64
	Outgoing []uint64 // voters of the configuration that is being left; empty: none is
	Learners []uint64
	// Followers is what the leader knows of the others, by id; empty elsewhere.
	Followers []Follower
}

// Follower is how far the leader knows a member to be.
type Follower struct {
	ID       uint64
	Match    uint64 // index up to which its log is known to agree
	Learner  bool
	Active   bool // it was heard in the last election timeout
	Snapshot bool // it is being sent a snapshot
}

// Raft is the status as a Steward takes it.
func (s *ServerStatus) Raft() RaftStatus {
	r := RaftStatus{
		ID: s.ID, Leader: s.Leader, Voters: s.Voters, Outgoing: s.Outgoing, Learners: s.Learners, Commit: s.Commit,
		Match: map[uint64]uint64{s.ID: s.Commit},
	}
	for _, f := range s.Followers {
		r.Match[f.ID] = f.Match
	}
	return r
}

// Status returns what this member knows after its last round.
func (s *Server) Status() ServerStatus {
	s.pub.Lock()
	defer s.pub.Unlock()
	return s.pub.status
}

// publish makes what the round brought about visible.
func (s *Server) publish(changed bool) {
	st := s.core.Status()
	s.pub.Lock()
	defer s.pub.Unlock()
	changed = changed || st.Leader != s.pub.status.Leader
	s.pub.status = st
	if changed {
		close(s.pub.changed)
		s.pub.changed = make(chan struct{})
	}
}

// Status returns what this member knows after its last Process.
func (c *Core) Status() ServerStatus {
	st := c.raw.BasicStatus()
	out := ServerStatus{
		ID: c.config.ID, Leader: st.Lead, Term: st.GetTerm(), Commit: st.GetCommit(), Applied: c.applied.index,
		Snapshot: c.log.snap.GetIndex(),
		Voters:   c.conf.GetVoters(), Outgoing: c.conf.GetVotersOutgoing(), Learners: c.conf.GetLearners(),
	}
	if st.RaftState != raft.StateLeader {
		return out
	}
	c.raw.WithProgress(func(id uint64, kind raft.ProgressType, p tracker.Progress) {
		if id != c.config.ID {
			out.Followers = append(out.Followers, Follower{
				ID: id, Match: p.Match, Learner: kind == raft.ProgressTypeLearner,
				Active: p.RecentActive, Snapshot: p.State == tracker.StateSnapshot,
			})
		}
	})
	slices.SortFunc(out.Followers, func(a, b Follower) int { return int(a.ID) - int(b.ID) })
	return out
}

// Package metadata is the metadata quorum: the state machine that records which
// nodes and volumes exist, who is primary of what in which generation and who may
// attach, and the Raft core that keeps it alike on every voter. Nothing in it owns
// a goroutine, a clock or a source of randomness but the Server.
package metadata

import (
	"slices"

	"blkd/metadata/metapb"

	"go.etcd.io/raft/v3/raftpb"
)

// State is what the quorum knows: the result of the commands applied so far and
// of nothing else, so that every voter that applied the same has the same. It is
// not safe for concurrent use.
//
// Records that its methods return are never changed afterwards: a command
// replaces the record, it does not write into it. So a reader may keep one after
// it has let the State go. Callers must not change them either.
type State struct {
	cluster    uint64 // 0 before it is founded
	name       string
	version    uint32
	created    int64
	nextID     uint64 // Raft ids given out so far
	nextVolume uint64

	nodes     table[*metapb.Node]
	volumes   table[*metapb.Volume]
	histories []*metapb.History // by volume id, deleted volumes too
	voters    []uint64          // sorted, like the other two
	learners  []uint64
	retired   []uint64
	events    eventLog
	applied   requestLog
}

// NewState returns the state before the first command.
func NewState() *State { return &State{} }

// Info returns cluster, name, version, voters, learners, the time of founding and
// the counters, without the lists of records. The caller owns it.
func (s *State) Info() *metapb.State {
	return &metapb.State{
		Format: stateFormat, Cluster: s.cluster, Name: s.name, Version: s.version, Created: s.created,
		NextId: s.nextID, NextVolume: s.nextVolume, NextEvent: s.events.last + 1,
		Voters: slices.Clone(s.voters), Learners: slices.Clone(s.learners), Retired: slices.Clone(s.retired),
	}
}

// Node returns a node's record, nil if there is none of that name.
func (s *State) Node(name string) *metapb.Node { return s.nodes.get(name) }

// NodeByID returns the record of the node with a Raft id, nil if there is none.
func (s *State) NodeByID(id uint64) *metapb.Node {
	i := slices.IndexFunc(s.nodes.rows, func(n *metapb.Node) bool { return n.Id == id })
	if i < 0 {
		return nil
	}
	return s.nodes.rows[i]
}

// Nodes returns all nodes by name.
func (s *State) Nodes() []*metapb.Node { return slices.Clone(s.nodes.rows) }

// Volume returns a volume's record, nil if there is none of that name.
func (s *State) Volume(name string) *metapb.Volume { return s.volumes.get(name) }

// Volumes returns all volumes by name.
func (s *State) Volumes() []*metapb.Volume { return slices.Clone(s.volumes.rows) }

// History returns the past of the volume of that name, oldest entry first; if it
// is deleted, of the one that had the name last. Nil if there never was one, or
// if it is not among the last 100 that were deleted.
func (s *State) History(volume string) *metapb.History {
	h := s.historyOf(volume)
	if h == nil {
		return nil
	}
	return &metapb.History{
		Volume: h.Volume, Name: h.Name, Dropped: h.Dropped, Deleted: h.Deleted,
		Entries: slices.Clip(h.Entries), // later entries go behind, never into it
	}
}

// Events returns the events after a sequence number, oldest first. A gap says
// that some of them are no longer kept, or that this state never had the event
// asked for: the caller has to begin with a full picture.
func (s *State) Events(after uint64) (events []*metapb.Event, gap bool) {
	return s.events.since(after)
}

// LastEvent is the sequence number of the newest event; 0: none yet.
func (s *State) LastEvent() uint64 { return s.events.last }

// ApplyConf records who votes, as Raft's own log says. The event that tells it
// carries the time of the event before it: Raft's entry has none.
func (s *State) ApplyConf(index uint64, cs *raftpb.ConfState) {
	voters := sortedIDs(cs.GetVoters())
	learners := sortedIDs(cs.GetLearners(), cs.GetLearnersNext())
	if slices.Equal(voters, s.voters) && slices.Equal(learners, s.learners) {
		return
	}
	before := s.votersFields()
	s.voters, s.learners = voters, learners
	s.events.add(&metapb.Event{
		Time: s.events.time(), Type: typeVoters, Action: actionChange, By: "raft", Index: index,
		Changes: diff(before, s.votersFields()),
	})
}

func sortedIDs(lists ...[]uint64) []uint64 {
	ids := slices.Concat(lists...)
	slices.Sort(ids)
	return slices.Compact(ids)
}

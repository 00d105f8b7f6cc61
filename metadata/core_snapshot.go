package metadata

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// maybeCompact writes a snapshot when the log has grown by enough, or when the
// last one does not name a member: Raft lets nobody take in such a snapshot, and a
// member with an empty log has no other way to begin.
func (c *Core) maybeCompact() error {
	grown := c.applied.index - c.log.snap.GetIndex()
	if grown == 0 || (grown < c.config.SnapshotEntries && c.log.sinceSnap < c.config.SnapshotBytes && c.snapshotNamesAll()) {
		return nil
	}
	return c.log.compact(c.applied, proto.CloneOf(c.conf), c.state.Encode(), c.config.KeepEntries)
}

// snapshotNamesAll tells whether the snapshot on the disk names every member.
func (c *Core) snapshotNamesAll() bool {
	named := c.log.snap.GetConfState()
	for _, id := range slices.Concat(c.conf.GetVoters(), c.conf.GetLearners()) {
		if !slices.Contains(named.GetVoters(), id) && !slices.Contains(named.GetLearners(), id) {
			return false
		}
	}
	return true
}

// snapshotWait is how long a follower has been waited for that was sent a
// snapshot, in ticks.
type snapshotWait struct{ waited, limit int }

// snapshotTicks is after how many ticks a snapshot that a follower did not confirm
// is sent again, at first; each further attempt waits twice as long.
const snapshotTicks = 40

func (c *Core) noteSnapshots(list []*raftpb.Message) {
	for _, m := range list {
		if m.GetType() != raftpb.MsgSnap {
			continue
		}
		if w := c.snapshots[m.GetTo()]; w != nil {
			w.waited, w.limit = 0, min(2*w.limit, 64*snapshotTicks)
		} else {
			c.snapshots[m.GetTo()] = &snapshotWait{limit: snapshotTicks}
		}
	}
}

// tickSnapshots gives up on snapshots that got lost: raft would wait for ever.
func (c *Core) tickSnapshots() {
	if len(c.snapshots) == 0 {
		return
	}
	if c.raw.BasicStatus().RaftState != raft.StateLeader {
		clear(c.snapshots)
		return
	}
	var late []uint64
	c.raw.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		w := c.snapshots[id]
		switch {
		case w == nil:
		case p.State == tracker.StateReplicate:
			delete(c.snapshots, id)
		case p.State == tracker.StateSnapshot:
			if w.waited++; w.waited >= w.limit {
				w.waited = 0
				late = append(late, id)
			}
		}
	})
	for _, id := range late {
		c.raw.ReportSnapshot(id, raft.SnapshotFailure)
	}
}

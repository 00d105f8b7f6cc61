package replicas

import (
	"context"
	"fmt"
	"time"

	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// served is the replica of a volume that this node may be primary of.
func (m *Manager) served(volume string) (*replica, error) {
	if r := m.find(volume); r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("%w: this node has no replica of volume %s", replication.ErrMoved, volume)
}

// Evict has a replica of a volume that this node is primary of leave the record, or,
// with keep, copied anew, and returns when the quorum has recorded that. The others
// hold everything durably then. The error says why it was not done; ErrMoved: this
// node is not primary.
func (m *Manager) Evict(ctx context.Context, volume, node string, keep bool, why string) error {
	r, err := m.served(volume)
	if err != nil {
		return err
	}
	return r.volume.Evict(ctx, replication.Eviction{Node: replication.NodeID(node), Keep: keep, Why: why})
}

// Change gives a volume that this node is primary of another policy: change edits
// the one that it has. It returns when the quorum has recorded that, and everything
// that was acknowledged is held as it says. Errors are as those of Evict.
func (m *Manager) Change(ctx context.Context, volume string, change func(*replication.Shape)) error {
	r, err := m.served(volume)
	if err != nil {
		return err
	}
	return r.volume.Change(ctx, change)
}

// Waive lets the recovery of a volume, which this node's replica takes part in, go on
// without the replicas of other nodes, and returns when it is asked for: the record
// tells when it is over. The error says why it cannot.
func (m *Manager) Waive(volume string, nodes []string, why string) error {
	r := m.find(volume)
	if r == nil {
		return replication.ErrNoRecovery
	}
	ids := make([]replication.NodeID, len(nodes))
	for i, n := range nodes {
		ids[i] = replication.NodeID(n)
	}
	return r.volume.Waive(ids, why)
}

// Resize makes a volume that this node is primary of larger, and returns when that is
// committed. Errors are as those of Evict.
func (m *Manager) Resize(ctx context.Context, volume string, size int64) error {
	r, err := m.served(volume)
	if err != nil {
		return err
	}
	return r.volume.Resize(ctx, size)
}

// leaveTime bounds the hand-over of a volume whose primary is to leave.
const leaveTime = 5 * time.Second

// leave lets another member take over if this one is primary and its node is drained,
// or it is recorded as leaving and all others are level; the next primary then takes
// it out. It is called again and again.
func (r *replica) leave(v *metapb.Volume) {
	if r.successor(v) == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leaves {
		return
	}
	r.leaves = true
	r.work.Go(func() {
		for to := r.successor(v); to != ""; to = r.successor(v) {
			r.handOverAndLeave(to)
			r.m.cfg.Cluster.Local(func(s *metadata.State) { v = s.Volume(r.name) })
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.leaves = false
	})
}

// successor is who takes over from this node's replica, which is primary and is to
// leave or on a drained node; empty: nobody has to, or can yet.
func (r *replica) successor(v *metapb.Volume) (to string) {
	if role, _ := r.volume.Role(); role != replication.Primary || r.ctx.Err() != nil || v == nil {
		return ""
	}
	drained := false
	r.m.cfg.Cluster.Local(func(s *metadata.State) {
		if drained = s.Node(r.m.cfg.Node).GetDrained(); drained {
			to = metadata.TakesOver(s, v)
		}
	})
	if drained {
		return to
	}
	return r.heirOfLeaver(v)
}

// heirOfLeaver is who takes over from a replica that is to leave; empty: it is not, or
// nobody can yet.
func (r *replica) heirOfLeaver(v *metapb.Volume) (to string) {
	leaving, shard := false, int32(-1)
	for _, x := range v.GetMembers() {
		if x.Node == r.m.cfg.Node {
			leaving = x.Leaving
			if r.coded != nil {
				shard = x.Shard
			}
		}
	}
	for _, x := range v.GetMembers() {
		switch {
		case x.Node == r.m.cfg.Node, x.Leaving:
		case x.Shard == shard: // who is to have this shard counts when this one does no more
		case x.State != metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE || x.Amnesiac:
			return ""
		default:
			to = x.Node
		}
	}
	if !leaving {
		return ""
	}
	return to
}

// handOverAndLeave is one attempt, and a pause if it fails.
func (r *replica) handOverAndLeave(to string) {
	ctx, cancel := context.WithTimeout(r.ctx, leaveTime)
	defer cancel()
	err := r.m.Handover(ctx, r.name, to)
	if err == nil {
		return
	}
	r.log.Info("this replica is to leave or its node is drained, and the volume was not handed over; it is tried again", "to", to, "err", err)
	select {
	case <-r.ctx.Done():
	case <-time.After(lookEvery):
	}
}

package replicas

import (
	"context"
	"errors"
	"slices"
	"time"

	"blkd/metadata/metapb"
	"blkd/replication"
)

const (
	scrubFirst = time.Hour          // after this node has become primary
	scrubEvery = 7 * 24 * time.Hour // from the beginning of a pass to that of the next
	scrubRate  = 8 << 20            // bytes per second that a pass reads at each replica
	scrubYield = time.Second        // a step waits so long for requests of clients to end
)

// scrub compares the replicas, slowly and again and again, while this node is the
// volume's primary. What has rotted or differs is written again.
func (r *replica) scrub() {
	due, was := time.Time{}, replication.Generation(0)
	for wait(r.ctx, time.Minute) == nil {
		role, gen := r.volume.Role()
		switch {
		case role != replication.Primary:
			was = 0
		case was != gen:
			was, due = gen, time.Now().Add(scrubFirst)
		case time.Now().After(due):
			due = time.Now().Add(scrubEvery)
			if _, err := r.m.Scrub(r.ctx, r.name); err != nil && r.ctx.Err() == nil {
				due = time.Now().Add(scrubFirst)
			}
		}
	}
}

// Scrub compares the replicas of a volume that this node is primary of once, slowly,
// and has written again what has rotted or differs. Each node does so once a week for
// the volumes that it serves.
func (m *Manager) Scrub(ctx context.Context, volume string) (*Findings, error) {
	r, err := m.served(volume)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	found, err := m.Compare(ctx, volume, Comparison{Repair: true, BytesPerSecond: scrubRate, Gentle: true})
	switch {
	case errors.Is(err, replication.ErrMoved):
		return nil, err
	case err != nil:
		r.log.Warn("the replicas could not be compared; it is tried again later", "err", err)
		return nil, err
	}
	r.log.Info("the replicas were compared", "nodes", found.Nodes, "bytes", found.Checked, "different_bytes", found.Different,
		"skipped_bytes", found.Skipped, "took", time.Since(began).Round(time.Millisecond))
	return found, nil
}

// giveWay waits while requests of clients are under way, but not for long.
func (r *replica) giveWay(ctx context.Context) error {
	for end := time.Now().Add(scrubYield); time.Now().Before(end); {
		busy := false
		r.volume.Inspect(func(_ replication.Instant, c *replication.Core) { busy = c.Busy() })
		if !busy {
			return nil
		}
		if err := wait(ctx, busyPause); err != nil {
			return err
		}
	}
	return nil
}

// agreed notes which replicas were found to be like this one.
func (r *replica) agreed(found *Findings) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.compared == nil {
		r.compared = map[string]time.Time{}
	}
	for _, node := range found.Nodes[1:] {
		if !slices.ContainsFunc(found.Differences, func(d Difference) bool { return d.Node == node }) {
			r.compared[node] = time.Now()
		}
	}
}

// disagree forgets that about replicas that count no more: they come back with other
// content.
func (r *replica) disagree(v *metapb.Volume) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for node := range r.compared {
		if !slices.ContainsFunc(v.Members, func(m *metapb.Member) bool {
			return m.Node == node && m.State == metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE && !m.Amnesiac
		}) {
			delete(r.compared, node)
		}
	}
}

package replicas

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"blkd/blockdev"
	"blkd/replication"
)

// Status is one of this node's replicas.
type Status struct {
	Volume string
	ID     uint64
	replication.Status
	Store     blockdev.StoreStats
	DataBytes int64                // that the image, or the shard, takes when all of it is written,
	LogBytes  int64                // and the logs beside it
	Waits     bool                 // for its disk, and tells nothing else
	Full      bool                 // the disk under it is full
	BadBlocks int                  // that failed their checksum since the start
	Compared  map[string]time.Time // when the replica of a node was last found to be like this one
	Failed    error                // why it takes no part any more, or could not be opened; nil: it takes part
}

// Status tells of every replica of this node, in the order of their numbers. Of
// those that could not be opened only name, number and error are set.
func (m *Manager) Status() []Status {
	var all []Status
	for _, r := range m.list() {
		all = append(all, r.status())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, b := range m.broken {
		all = append(all, Status{Volume: b.name, ID: id, Failed: b.err})
	}
	return all
}

// Find is the Status of one volume's replica, if this node has one.
func (m *Manager) Find(volume string) (Status, bool) {
	if r := m.find(volume); r != nil {
		return r.status(), true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, b := range m.broken {
		if b.name == volume {
			return Status{Volume: volume, ID: id, Failed: b.err}, true
		}
	}
	return Status{}, false
}

func (r *replica) status() Status {
	s := Status{Volume: r.name, ID: r.id, Store: r.stats()}
	s.DataBytes, s.LogBytes = s.Store.SizeBytes, s.Store.LogSizeBytes
	if r.shard != nil {
		shard := r.shard.Stats()
		s.DataBytes, s.LogBytes = shard.SizeBytes, s.LogBytes+shard.LogSizeBytes
	}
	known := r.volume.TryInspect(func(now replication.Instant, c *replication.Core) {
		s.Status = c.Status()
		s.CanRead = c.View().CanRead(now) // it may have stood still since the core's last step
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Waits = !known
	s.Full, s.BadBlocks, s.Failed, s.Compared = r.full, r.bad, r.failed, maps.Clone(r.compared)
	return s
}

// stats are those of the store; of an erasure-coded volume, those of its log, with the
// space that its shard takes.
func (r *replica) stats() blockdev.StoreStats {
	s := r.store.Stats()
	if r.shard != nil {
		shard := r.shard.Stats()
		s.SizeBytes = r.coded.Size()
		s.AllocatedBytes, s.ImageBytes, s.MetaBytes = shard.AllocatedBytes, shard.ImageBytes+shard.LogBytes, shard.MetaBytes
		s.MemoryBytes += shard.MemoryBytes
		s.Full, s.BadBlocks = s.Full || shard.Full, s.BadBlocks+shard.BadBlocks
	}
	return s
}

// find is the open replica of a volume; nil if there is none.
func (m *Manager) find(volume string) *replica {
	for _, r := range m.list() {
		if r.name == volume {
			return r
		}
	}
	return nil
}

const (
	// handoverLook is how often a hand-over is looked after. Nothing waits for that.
	handoverLook = 5 * time.Millisecond
	// handoverPatience is how long a member may take to be able to take over:
	// after a promotion, those that were not needed follow a little later.
	handoverPatience = 1500 * time.Millisecond
)

// Handover lets another member take over a volume that this node is primary of,
// and returns when the quorum has promoted it. Requests of clients wait meanwhile.
// The error says why it was not begun or was given up: then this node goes on.
func (m *Manager) Handover(ctx context.Context, volume, to string) error {
	r := m.find(volume)
	if r == nil {
		return fmt.Errorf("%w: this node has no replica of volume %s", replication.ErrMoved, volume)
	}
	_, gen := r.volume.Role()
	if err := r.beginHandover(ctx, to); err != nil {
		return err
	}
	for {
		var s replication.Status
		r.volume.Inspect(func(_ replication.Instant, c *replication.Core) { s = c.Status() })
		switch {
		case s.Role == replication.Secondary || s.Generation != gen:
			return nil
		case s.Handover == "":
			return fmt.Errorf("the hand-over of volume %s to %s was given up: it did not keep up, or the quorum did not agree", volume, to)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(handoverLook):
		}
	}
}

// beginHandover waits, for a while, until the member can take over.
func (r *replica) beginHandover(ctx context.Context, to string) error {
	patience, cancel := context.WithTimeout(ctx, handoverPatience)
	defer cancel()
	for {
		err := r.volume.Handover(replication.NodeID(to))
		if err == nil || errors.Is(err, replication.ErrMoved) {
			return err
		}
		select {
		case <-patience.Done():
			return err
		case <-time.After(handoverLook):
		}
	}
}

// HandoverAll lets other members take over every volume that this node is primary
// of, where one is level, until ctx ends. It is for a node that is about to stop.
func (m *Manager) HandoverAll(ctx context.Context) {
	for _, r := range m.list() {
		var s replication.Status
		r.volume.Inspect(func(_ replication.Instant, c *replication.Core) { s = c.Status() })
		if s.Role != replication.Primary {
			continue
		}
		to, best := "", replication.Seq(0)
		for _, p := range s.Peers {
			if p.Connected && p.Ready && !p.Joining && !p.Slow && (to == "" || p.Held > best) {
				to, best = string(p.Node), p.Held
			}
		}
		if to == "" {
			r.log.Info("the volume cannot be handed over: no other replica is level")
			continue
		}
		if err := m.Handover(ctx, r.name, to); err != nil {
			r.log.Warn("the volume was not handed over", "to", to, "err", err)
		}
	}
}

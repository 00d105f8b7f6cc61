package replicas

import (
	"context"
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"blkd/fencing"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// askTime bounds one attempt to hear from the quorum.
const askTime = 5 * time.Second

// ask calls f with what the quorum has decided by now, as soon as it answers. It is false
// if the manager stops first. F may be called more than once.
func (m *Manager) ask(f func(*metadata.State)) bool {
	for m.ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(m.ctx, askTime)
		err := m.cfg.Cluster.Read(ctx, f)
		cancel()
		if err == nil {
			return true
		}
		select {
		case <-m.ctx.Done():
		case <-time.After(lookEvery):
		}
	}
	return false
}

// sweep destroys, once after a start, what is left of replicas that were taken away
// while this node was down, and keeps as branches what forced promotions have left.
// What the quorum knows nothing of is left alone.
func (m *Manager) sweep() {
	if !m.ask(func(*metadata.State) {}) {
		return
	}
	names, err := m.cfg.FS.ReadDir(m.cfg.Dir)
	if err != nil {
		return // there is no directory, so no replica
	}
	for _, dir := range names {
		at := strings.LastIndexByte(dir, '.')
		id, err := strconv.ParseUint(dir[at+1:], 10, 64)
		if at <= 0 || err != nil {
			continue
		}
		m.sweepOne(dir[:at], id)
	}
}

// sweepOne destroys the replica of one volume if it was taken away.
func (m *Manager) sweepOne(name string, id uint64) {
	m.opening.Lock()
	defer m.opening.Unlock()
	dir := m.dirOf(name, id)
	files, err := m.cfg.FS.ReadDir(dir)
	if err != nil {
		return
	}
	if slices.Contains(files, storeDir) && !slices.Contains(files, shardDir) && m.sweepAside(name, id, dir) || !m.takenAway(name, id, dir) {
		return
	}
	if slices.Contains(files, storeDir) || slices.Contains(files, shardDir) {
		err = m.removeStores(dir)
		m.cfg.Log.Info("the replica on this node was removed: it was taken away while the node was down", "volume", name, "err", err)
	}
	if err == nil && m.isDeleted(name, id) {
		err = errors.Join(m.cfg.FS.Remove(path.Join(dir, fencing.GateFile)), m.cfg.FS.Remove(dir))
		if err != nil {
			m.cfg.Log.Warn("what is left of a deleted volume could not be removed", "volume", name, "err", err)
		}
	}
}

// sweepAside keeps a replica as a branch if this node is no member any more of the
// volume, and a forced promotion has left what it holds.
func (m *Manager) sweepAside(name string, id uint64, dir string) bool {
	v := m.volumeOf(name, id)
	if v == nil || slices.Contains(memberNames(v), m.cfg.Node) {
		return false
	}
	gate, err := fencing.OpenGate(m.cfg.FS, dir)
	if err != nil {
		return false
	}
	lineage, g := gate.Promised()
	if gate.Close() != nil || lineage == 0 || lineage == v.Lineage {
		return false
	}
	err = m.keepBranch(name, id, replication.Generation(g))
	m.cfg.Log.Warn("a forced promotion has left what this node holds of a volume: it is kept as a read-only volume",
		"branch", BranchName(name, replication.Generation(g), m.cfg.Node), "err", err)
	return true
}

// takenAway tells whether a replica belongs to a volume that was deleted, or that
// this node is no member of any more in the lineage that it has promised in.
func (m *Manager) takenAway(name string, id uint64, dir string) bool {
	if m.isDeleted(name, id) {
		return true
	}
	var v *metapb.Volume
	m.cfg.Cluster.Local(func(s *metadata.State) { v = s.Volume(name) })
	if v == nil || v.Id != id || slices.Contains(memberNames(v), m.cfg.Node) {
		return false
	}
	gate, err := fencing.OpenGate(m.cfg.FS, dir)
	if err != nil {
		return false
	}
	lineage, _ := gate.Promised()
	// Without a promise nothing was ever acknowledged here: the node went down
	// before the primary had reached it.
	return gate.Close() == nil && (lineage == v.Lineage || lineage == 0)
}

// isDeleted tells whether the quorum remembers that a volume was deleted.
func (m *Manager) isDeleted(name string, id uint64) (deleted bool) {
	m.cfg.Cluster.Local(func(s *metadata.State) {
		h := s.History(name)
		deleted = h != nil && h.Volume == id && h.Deleted
	})
	return deleted
}

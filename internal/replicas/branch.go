package replicas

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"blkd/blockdev"
	"blkd/internal/mutant"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// Branch is what a replica held when a forced promotion went on without it: all of
// its log, acknowledged or not. It is read-only, and stays until Drop.
type Branch struct {
	Name       string // see BranchName
	Volume     string
	ID         uint64 // of the volume
	Node       string
	Generation replication.Generation // the highest that the replica had promised
	End        replication.Mark       // of its log
	Store      blockdev.StoreStats
	Failed     error // why it cannot be read; nil: it can
}

// BranchName is VOLUME@GENERATION-NODE: no volume has such a name.
func BranchName(volume string, g replication.Generation, node string) string {
	return fmt.Sprintf("%s@%d-%s", volume, g, node)
}

// BranchOf splits the name of a branch; ok tells whether it is one.
func BranchOf(name string) (volume string, g replication.Generation, node string, ok bool) {
	volume, rest, _ := strings.Cut(name, "@")
	number, node, _ := strings.Cut(rest, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	return volume, replication.Generation(n), node, err == nil && volume != "" && node != ""
}

// branch is one that this node keeps, with its store open.
type branch struct {
	Branch
	dir   string
	store *blockdev.Store
}

// ErrNoBranch tells that this node keeps no branch of that name.
var ErrNoBranch = errors.New("there is no such branch on this node")

// isLeft tells whether a replica holds a branch that was left: its promise is of
// another lineage than the record, which does not count its content. What is
// recorded as Inconsistent was given up, and a copy that did not end is no content.
func (m *Manager) isLeft(v *metapb.Volume, lineage uint64, store *blockdev.Store) bool {
	if lineage == 0 || lineage == v.Lineage || store.Incomplete() {
		return false
	}
	if _, seq := store.Last(); seq == 0 {
		return false
	}
	for _, x := range v.Members {
		if x.Node == m.cfg.Node {
			return x.State == metapb.ReplicaState_REPLICA_STATE_OUTDATED || x.State == metapb.ReplicaState_REPLICA_STATE_SYNCING
		}
	}
	return true
}

func (r *replica) isLeft(v *metapb.Volume) bool {
	lineage, _ := r.gate.Promised()
	return r.coded == nil && r.m.isLeft(v, lineage, r.store) // a shard alone is nothing to read
}

// setAside keeps what a replica holds as a branch, and lets the replica begin anew
// and empty if this node is still a member. Its promise stays in its place.
func (m *Manager) setAside(r *replica) {
	m.mu.Lock()
	delete(m.replicas, r.id)
	m.busy[r.id] = true
	m.mu.Unlock()
	m.work.Go(func() {
		_, g := r.gate.Promised()
		err := r.close()
		if err == nil {
			err = m.keepBranch(r.name, r.id, replication.Generation(g))
		}
		r.log.Warn("a forced promotion has left what this replica holds: it is kept as a read-only volume",
			"branch", BranchName(r.name, replication.Generation(g), m.cfg.Node), "err", err)
		m.mu.Lock()
		delete(m.busy, r.id)
		m.mu.Unlock()
		m.wakeUp()
		m.fire()
	})
}

// keepBranch moves the store of a replica, which is closed, to the branches.
func (m *Manager) keepBranch(volume string, id uint64, g replication.Generation) error {
	if err := m.cfg.FS.MkdirAll(m.cfg.Branches); err != nil {
		return err
	}
	from := m.dirOf(volume, id)
	if mutant.On(mutant.BranchDrop) {
		return blockdev.RemoveStore(m.cfg.FS, path.Join(from, storeDir))
	}
	to := path.Join(m.cfg.Branches, fmt.Sprintf("%s@%d.%d", volume, g, id))
	if err := m.cfg.FS.Rename(path.Join(from, storeDir), to); err != nil {
		return fmt.Errorf("branch of volume %s: %w", volume, err)
	}
	if err := errors.Join(m.cfg.FS.SyncDir(m.cfg.Branches), m.cfg.FS.SyncDir(from)); err != nil {
		return fmt.Errorf("branch of volume %s: %w", volume, err)
	}
	m.openBranch(path.Base(to))
	return nil
}

// openBranches opens what earlier runs have kept.
func (m *Manager) openBranches() {
	names, err := m.cfg.FS.ReadDir(m.cfg.Branches)
	if err != nil {
		return // there is no directory, so no branch
	}
	for _, name := range names {
		m.openBranch(name)
	}
}

// openBranch opens a branch, named VOLUME@GENERATION.ID on disk, and lets clients
// read it. One that cannot be opened is listed as failed.
func (m *Manager) openBranch(base string) {
	at := strings.LastIndexByte(base, '.')
	id, err := strconv.ParseUint(base[at+1:], 10, 64)
	if at <= 0 || err != nil {
		return
	}
	volume, g, node, ok := BranchOf(base[:at] + "-" + m.cfg.Node)
	if !ok {
		return
	}
	b := &branch{Branch: Branch{Name: BranchName(volume, g, node), Volume: volume, ID: id, Node: node, Generation: g},
		dir: path.Join(m.cfg.Branches, base)}
	options := m.cfg.Store(volume)
	options.FS, options.Dir, options.Volume = m.cfg.FS, b.dir, b.Name
	if b.store, b.Failed = blockdev.OpenStore(options); b.Failed != nil {
		m.cfg.Log.Error("a branch cannot be opened", "branch", b.Name, "err", b.Failed)
	}
	m.mu.Lock()
	m.branches[b.Name] = b
	m.mu.Unlock()
	if b.store != nil {
		m.cfg.Keep(b.Name, b.store)
	}
}

// Branches are those that this node keeps, by name.
func (m *Manager) Branches() []Branch {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Branch
	for _, b := range m.branches {
		x := b.Branch
		if b.store != nil {
			gen, seq := b.store.Last()
			x.End, x.Store = replication.Mark{Generation: gen, Seq: seq}, b.store.Stats()
		}
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b Branch) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// DropBranch destroys a branch of this node, for good. ErrNoBranch: there is none.
func (m *Manager) DropBranch(name string) error {
	m.mu.Lock()
	b := m.branches[name]
	delete(m.branches, name)
	m.mu.Unlock()
	if b == nil {
		return ErrNoBranch
	}
	m.cfg.Keep(name, nil)
	var err error
	if b.store != nil {
		err = b.store.Close()
	}
	return errors.Join(err, blockdev.RemoveStore(m.cfg.FS, b.dir))
}

func (m *Manager) closeBranches() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, b := range m.branches {
		if b.store != nil {
			m.cfg.Keep(b.Name, nil)
			errs = append(errs, b.store.Close())
		}
	}
	clear(m.branches)
	return errors.Join(errs...)
}

// CompareBranch compares a branch of this node with a device that has the volume as
// it is now, of which it reads at most so many bytes per second. Progress is told
// how far it is. ErrNoBranch: there is none. Nodes of the answer are empty.
func (m *Manager) CompareBranch(ctx context.Context, name string, with blockdev.Device, bytesPerSecond int64,
	progress func(checked, total int64)) (*Findings, error) {
	m.mu.Lock()
	b := m.branches[name]
	m.mu.Unlock()
	switch {
	case b == nil:
		return nil, ErrNoBranch
	case b.Failed != nil:
		return nil, b.Failed
	}
	c := &branchComparison{Branch: &b.Branch, store: b.store, with: with, rate: bytesPerSecond, progress: progress,
		total: max(b.store.Size(), with.Size())}
	return &c.found, c.run(ctx)
}

// volumeOf is the record of the volume that a replica on disk belongs to; nil: there
// is none any more.
func (m *Manager) volumeOf(name string, id uint64) (v *metapb.Volume) {
	m.cfg.Cluster.Local(func(s *metadata.State) { v = s.Volume(name) })
	if v == nil || v.Id != id {
		return nil
	}
	return v
}

package replicas

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path"
	"slices"
	"sync"
	"time"

	"blkd/blockdev"
	"blkd/fencing"
	"blkd/internal/cluster"
	"blkd/internal/env"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// Config is what a Manager needs from the node.
type Config struct {
	Node     string
	Dir      string // of the replicas
	Branches string // directory of what forced promotions have left
	Cluster  *cluster.Cluster
	FS       env.FS
	Clock    env.Clock
	Log      *slog.Logger
	Times    replication.Times // zero fields: the defaults

	// Store is how the store of a volume behaves; what says where it is, is
	// filled in.
	Store func(volume string) blockdev.StoreOptions
	// Dial opens a data connection to a node, on which both sides have proven
	// who they are.
	Dial func(ctx context.Context, node, address string) (net.Conn, error)
	// Serve offers a volume to clients, in the place of an earlier generation of
	// it: open makes the device for those of an attachment, with 0 it only reads; from
	// is the client and the session that numbers its mutations.
	Serve func(volume string, open func(attachment uint64, from blockdev.Origin) blockdev.Device)
	// Withdraw ends that: this node is not primary any more. With hangup it lost
	// that without having handed the volume over, and connections of clients must
	// be closed, with nothing that they have asked for sent elsewhere. It must not
	// wait.
	Withdraw func(volume string, hangup bool)
	// Keep offers a branch to clients, who may only read it; a nil device withdraws
	// it.
	Keep func(name string, dev blockdev.Device)
	// Changed is told, at times, that something may look different in Status. It
	// must not wait. Nil: nobody wants to know.
	Changed func()
}

// Manager keeps this node's replicas as the quorum records them.
type Manager struct {
	cfg         Config
	cluster     uint64 // its id
	incarnation uint64 // of this run, once it is registered
	ctx         context.Context
	cancel      context.CancelFunc
	work        sync.WaitGroup

	mu       sync.Mutex
	replicas map[uint64]*replica
	broken   map[uint64]*brokenReplica // that could not be opened
	busy     map[uint64]bool           // being opened or removed
	branches map[string]*branch        // by name
	accepted map[net.Conn]bool
	stopping bool
	look     chan struct{} // something has come to an end

	opening sync.Mutex // a replica is being opened, or what is left of one destroyed
}

// brokenReplica is one that could not be opened; it is tried again later.
type brokenReplica struct {
	name  string
	err   error
	again time.Duration // not before
	wait  time.Duration
}

// Start begins to keep replicas as soon as this node is a member of its cluster.
func Start(cfg Config) *Manager {
	m := &Manager{cfg: cfg, replicas: map[uint64]*replica{}, broken: map[uint64]*brokenReplica{},
		busy: map[uint64]bool{}, branches: map[string]*branch{}, accepted: map[net.Conn]bool{}, look: make(chan struct{}, 1)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.work.Go(m.run)
	return m
}

// lookEvery is how often the manager looks even if nothing seems to have changed.
const lookEvery = time.Second

func (m *Manager) run() {
	if !m.join() {
		return
	}
	m.openBranches()
	m.work.Go(m.sweep)
	for {
		changed := m.cfg.Cluster.Changed()
		m.reconcile()
		select {
		case <-m.ctx.Done():
			return
		case <-changed:
		case <-m.look:
		case <-time.After(lookEvery):
		}
	}
}

// join waits until the run is registered: before that no replica may be opened.
func (m *Manager) join() bool {
	for {
		changed := m.cfg.Cluster.Changed()
		if s := m.cfg.Cluster.Status(); s.Phase == cluster.Member {
			m.mu.Lock()
			m.cluster, m.incarnation = s.Cluster, s.Incarnation
			m.mu.Unlock()
			return true
		}
		select {
		case <-m.ctx.Done():
			return false
		case <-changed:
		case <-time.After(lookEvery / 10):
		}
	}
}

// reconcile opens and closes replicas, and delivers the records.
func (m *Manager) reconcile() {
	var volumes []*metapb.Volume
	m.cfg.Cluster.Local(func(s *metadata.State) { volumes = s.Volumes() })
	mine := map[uint64]bool{}
	for _, v := range volumes {
		if !slices.ContainsFunc(v.Members, func(x *metapb.Member) bool { return x.Node == m.cfg.Node }) {
			continue
		}
		mine[v.Id] = true
		switch r := m.replica(v); {
		case r == nil:
		case r.isLeft(v):
			m.setAside(r)
		default:
			r.take(v)
			r.setLinks(memberNames(v))
			r.leave(v)
		}
	}
	for _, r := range m.list() {
		if mine[r.id] {
			continue
		}
		if v := m.volumeOf(r.name, r.id); v != nil && r.isLeft(v) {
			m.setAside(r)
		} else {
			m.remove(r, v.GetLineage())
		}
	}
}

func memberNames(v *metapb.Volume) []string {
	var names []string
	for _, x := range v.Members {
		names = append(names, x.Node)
	}
	return names
}

// replica is the open replica of a volume; nil if it is not open yet, or cannot be
// opened now. It is opened in the background, because that can take long, and the
// records of other volumes must not wait for it.
func (m *Manager) replica(v *metapb.Volume) *replica {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, b := m.replicas[v.Id], m.broken[v.Id]
	if r != nil || m.busy[v.Id] || b != nil && m.cfg.Clock.Now() < b.again {
		return r
	}
	m.busy[v.Id] = true
	m.work.Go(func() { m.tryOpen(v) })
	return nil
}

func (m *Manager) tryOpen(v *metapb.Volume) {
	m.opening.Lock()
	r, err := m.open(v)
	m.opening.Unlock()
	m.mu.Lock()
	defer m.wakeUp()
	defer m.mu.Unlock()
	delete(m.busy, v.Id)
	if err == nil {
		delete(m.broken, v.Id)
		m.replicas[v.Id] = r
		return
	}
	b := m.broken[v.Id]
	if b == nil {
		b = &brokenReplica{name: v.Name, wait: lookEvery}
		m.broken[v.Id] = b
	}
	b.err, b.again, b.wait = err, m.cfg.Clock.Now()+b.wait, min(2*b.wait, time.Minute)
	m.cfg.Log.Error("a replica cannot be opened", "volume", v.Name, "err", err, "again_in", b.wait)
}

// remove closes a replica that this node shall not have, in the background, and deletes
// its data once the quorum has said so: what this node knows of the record may be of long
// ago, and what it holds may count again. Then it is opened again. Nothing can come to
// count meanwhile: nobody reaches a replica that is closed.
//
// Its promise stays unless the volume is gone: a primary that does not know yet that this
// node is no member must not get another one from a replica that this same run of the node
// has later. Lineage is that of the record by which the replica is not set aside.
func (m *Manager) remove(r *replica, lineage uint64) {
	m.mu.Lock()
	delete(m.replicas, r.id)
	m.busy[r.id] = true
	m.mu.Unlock()
	m.work.Go(func() {
		err := r.close()
		if gone, deleted := m.isDismissed(r, lineage); gone {
			dir := m.dirOf(r.name, r.id)
			err = errors.Join(err, m.removeStores(dir))
			if deleted {
				err = errors.Join(err, m.cfg.FS.Remove(path.Join(dir, fencing.GateFile)), m.cfg.FS.Remove(dir))
			}
			r.log.Info("the replica on this node was removed", "volume_deleted", deleted, "err", err)
		}
		m.mu.Lock()
		delete(m.busy, r.id)
		m.mu.Unlock()
		m.wakeUp()
		m.fire()
	})
}

// isDismissed asks the quorum whether this node shall not have a replica any more, and
// whether its volume is deleted. When the manager stops before it has answered, the
// replica stays: the next run asks again.
func (m *Manager) isDismissed(r *replica, lineage uint64) (gone, deleted bool) {
	answered := m.ask(func(s *metadata.State) {
		h, v := s.History(r.name), s.Volume(r.name)
		deleted = h == nil || h.Volume != r.id || h.Deleted
		gone = deleted || v != nil && v.Lineage == lineage && !slices.Contains(memberNames(v), m.cfg.Node)
	})
	return answered && gone, answered && deleted
}

// removeStores deletes what a replica has, but for its promise.
func (m *Manager) removeStores(dir string) error {
	files, err := m.cfg.FS.ReadDir(dir)
	for _, name := range []string{storeDir, shardDir} {
		if slices.Contains(files, name) {
			err = errors.Join(err, blockdev.RemoveStore(m.cfg.FS, path.Join(dir, name)))
		}
	}
	return err
}

// wakeUp makes the manager look again.
func (m *Manager) wakeUp() {
	select {
	case m.look <- struct{}{}:
	default:
	}
}

// list is every open replica, by number.
func (m *Manager) list() []*replica {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*replica
	for _, r := range m.replicas {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *replica) int { return int(a.id) - int(b.id) })
	return all
}

func (m *Manager) fire() {
	if m.cfg.Changed != nil {
		m.cfg.Changed()
	}
}

func (m *Manager) isStopping() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stopping
}

// Stop hands nothing over: it ends all replicas and closes their files. Connections
// that Accept serves end too.
func (m *Manager) Stop() error {
	m.cancel()
	m.work.Wait()
	m.mu.Lock()
	m.stopping = true
	conns := make([]net.Conn, 0, len(m.accepted))
	for conn := range m.accepted {
		conns = append(conns, conn)
	}
	m.mu.Unlock()
	for _, conn := range conns {
		conn.Close()
	}
	var errs []error
	for _, r := range m.list() {
		if err := r.close(); err != nil {
			errs = append(errs, err)
			if err := m.cfg.Cluster.Unclean(false); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, m.closeBranches())...)
}

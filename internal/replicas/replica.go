package replicas

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"blkd/blockdev"
	"blkd/fencing"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// The stores in a replica's directory.
const (
	storeDir = "store" // of an erasure-coded volume: its log
	shardDir = "shard" // of an erasure-coded volume
)

// leastLog is the smallest log of a replica, in bytes, whatever the node is
// configured with: what is not committed fills it and cannot be poured, and how much
// that is depends on the primary, whose log may be larger.
const leastLog = 64 << 20

// replica is this node's replica of one volume.
type replica struct {
	m    *Manager
	id   uint64
	name string
	log  *slog.Logger

	store  *blockdev.Store
	shard  *blockdev.Store    // of an erasure-coded volume
	coded  *replication.Coded // store and shard
	gate   *fencing.Gate
	volume *replication.Volume
	turn   chan struct{} // the role may have changed
	news   chan struct{} // there is another record
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	links  map[string]context.CancelFunc // by the node that is dialed
	served bool
	failed error
	full   bool // the disk is
	bad    int  // blocks that failed their checksum
	leaves bool // a hand-over is under way because this replica is to leave

	compared map[string]time.Time // when others were found to be like this one

	latest *metapb.Volume // newest record that was seen
}

func (m *Manager) dirOf(name string, id uint64) string {
	return path.Join(m.cfg.Dir, fmt.Sprintf("%s.%d", name, id))
}

// open opens the replica of a volume, and makes it first if there is none.
func (m *Manager) open(v *metapb.Volume) (*replica, error) {
	r := &replica{m: m, id: v.Id, name: v.Name, log: m.cfg.Log.With("volume", v.Name),
		turn: make(chan struct{}, 1), news: make(chan struct{}, 1), links: map[string]context.CancelFunc{}}
	dir := m.dirOf(v.Name, v.Id)
	options := m.cfg.Store(v.Name)
	options.FS, options.Dir, options.Volume, options.Replica = m.cfg.FS, path.Join(dir, storeDir), v.Name, true
	if options.LogBytes != 0 {
		options.LogBytes = max(options.LogBytes, leastLog)
	}
	options.Events = r.storeEvents()
	if err := m.cfg.FS.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	// The gate comes first, so that a replica without one was never complete.
	if err := fencing.CreateGate(m.cfg.FS, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	var err error
	if r.gate, err = fencing.OpenGate(m.cfg.FS, dir); err != nil {
		return nil, fmt.Errorf("volume %s: %w", v.Name, err)
	}
	made := false
	if v.Layout.GetKind() == metapb.LayoutKind_LAYOUT_KIND_EC {
		made, err = r.openCoded(options, v)
	} else {
		r.store, made, err = openStore(options, v.SizeBytes)
	}
	if err == nil {
		err = r.start(made, v)
	}
	if err != nil {
		return nil, errors.Join(err, r.closeStores(), r.gate.Close())
	}
	return r, nil
}

// openStore opens a store, and makes it first if there is none.
func openStore(o blockdev.StoreOptions, size int64) (s *blockdev.Store, made bool, err error) {
	made = true
	if err := blockdev.CreateStore(o, size); errors.Is(err, fs.ErrExist) {
		made = false
	} else if err != nil {
		return nil, false, err
	}
	s, err = blockdev.OpenStore(o)
	return s, made, err
}

func (r *replica) closeStores() (err error) {
	for _, s := range []*blockdev.Store{r.store, r.shard} {
		if s != nil {
			err = errors.Join(err, s.Close())
		}
	}
	return err
}

// disk is what the replica keeps.
func (r *replica) disk() replication.Disk {
	if r.coded != nil {
		return r.coded
	}
	return r.store
}

// start begins the replica's part in the volume; made: its store was made just now.
func (r *replica) start(made bool, v *metapb.Volume) error {
	_, promised := r.gate.Promised()
	lost := made && RecordOf(v).Lost(replication.NodeID(r.m.cfg.Node), promised)
	if lost {
		r.log.Warn("this replica begins anew without a store: everything is copied from another member")
		if err := r.disk().Reset(0, 0); err != nil {
			return err
		}
	}
	// What the log holds may be in the page cache only.
	if err := r.store.Sync(); err != nil {
		return err
	}
	_, durable := r.store.Last()
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.volume = replication.NewVolume(replication.VolumeConfig{
		Core: replication.Config{
			Self: replication.NodeID(r.m.cfg.Node), Incarnation: replication.Incarnation(r.m.incarnation), Gate: promises{r.gate},
			Times: r.m.cfg.Times, Fresh: made && !lost, KeepBranches: true, Durable: durable, Coded: r.coded, Events: r.events(),
		},
		Disk: r.disk(), Clock: r.m.cfg.Clock, Authority: r,
		InflightBytes: min(16<<20, r.store.Stats().LogSizeBytes/8),
		Hangup:        func() { r.m.cfg.Withdraw(r.name, true) },
		Failed:        r.fail,
	})
	r.work.Go(r.follow)
	r.work.Go(r.deliver)
	r.work.Go(r.reportMarks)
	if r.coded == nil {
		r.work.Go(r.scrub)
	}
	if lost {
		r.work.Go(r.confess)
	}
	return nil
}

// confess has the quorum record that what this replica held is not there any more,
// so that nobody is told to promote it by force.
func (r *replica) confess() {
	for r.ctx.Err() == nil {
		v := proto.CloneOf(r.m.volumeOf(r.name, r.id))
		i := slices.IndexFunc(v.GetMembers(), func(x *metapb.Member) bool { return x.Node == r.m.cfg.Node })
		if i < 0 || v.Members[i].State != metapb.ReplicaState_REPLICA_STATE_OUTDATED {
			return
		}
		v.Members[i].State = metapb.ReplicaState_REPLICA_STATE_INCONSISTENT
		ctx, cancel := context.WithTimeout(r.ctx, lookEvery)
		_, err := r.m.cfg.Cluster.Do(ctx, &metapb.Command{Reason: "the replica on " + r.m.cfg.Node + " begins anew",
			Op: &metapb.Command_SetMembers{SetMembers: &metapb.SetMembers{Volume: v.Name, Generation: v.Generation, Number: v.Number, Members: v.Members}}})
		cancel()
		r.log.Debug("told the quorum that this replica is empty", "err", err)
		select {
		case <-r.ctx.Done():
		case <-time.After(askAgain):
		}
	}
}

// promises is a gate that follows its volume into another lineage; the core does so
// only where what it has promised before has no meaning any more.
type promises struct{ *fencing.Gate }

// Promise implements replication.Gate.
func (p promises) Promise(lineage uint64, g replication.Generation) error {
	if now, _ := p.Promised(); now != lineage {
		return p.Adopt(lineage, g)
	}
	return p.Gate.Promise(lineage, g)
}

func (r *replica) events() replication.Events {
	return replication.Events{
		Role: func(role replication.Role, g replication.Generation) {
			r.log.Info("role", "role", role.String(), "generation", g)
			select {
			case r.turn <- struct{}{}:
			default:
			}
		},
		Served:  func(x *replication.Certificate) { c := *x; r.work.Go(func() { r.certify(&c) }) },
		Refused: func(from replication.NodeID, what string) { r.log.Debug("refused", "from", from, "what", what) },
		Mended: func(off int64, from replication.NodeID) {
			r.log.Warn("a bad block was repaired", "offset", off, "from", from, "advice", "if it comes back, look at the disk")
		},
		Rebuilt: func(off int64, at replication.NodeID) {
			r.log.Warn("a bad block of a shard was repaired", "offset", off, "node", at, "advice", "if it comes back, look at the disk")
		},
		Note: func(text string) { r.log.Info(text) },
	}
}

// storeEvents log what an operator should know, and keep it for Status. A store
// that fails is noticed by the next write or sync of the replica.
func (r *replica) storeEvents() blockdev.StoreEvents {
	return blockdev.StoreEvents{
		Full: func(full bool) {
			r.mu.Lock()
			r.full = full
			r.mu.Unlock()
			if full {
				r.log.Warn("the disk is full: writes of the volume wait", "advice", "free space on this node, or remove its replica: blkctl replica remove "+r.name+" "+r.m.cfg.Node)
			} else {
				r.log.Info("the disk has space again")
			}
		},
		BadBlock: func(b *blockdev.ChecksumError) {
			r.mu.Lock()
			r.bad++
			r.mu.Unlock()
			r.log.Error("bad block", "offset", b.Off, "file", b.File, "file_offset", b.FileOff)
		},
		Recovered: func(rec blockdev.Recovery) {
			r.log.Info("replica recovered after an unclean stop", "entries", rec.Entries, "bytes", rec.Bytes, "cut", rec.Cut)
		},
	}
}

// take notes the newest record. It is delivered in the background: a volume whose
// disk makes it wait must not hold up others.
func (r *replica) take(v *metapb.Volume) {
	r.mu.Lock()
	news := r.latest != v
	r.latest = v
	r.mu.Unlock()
	if news {
		select {
		case r.news <- struct{}{}:
		default:
		}
	}
}

func (r *replica) deliver() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.news:
		}
		r.mu.Lock()
		v := r.latest
		r.mu.Unlock()
		r.volume.Record(RecordOf(v))
		r.disagree(v)
	}
}

// reportMarks tells the quorum, each second, how far the volume is committed if
// this node serves it: a later primary whose log does not reach it must not serve.
func (r *replica) reportMarks() {
	var marked replication.Mark
	var grown growth
	tick := r.m.cfg.Clock.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C():
		}
		role, gen := r.volume.Role()
		mark := replication.Mark{Generation: gen, Seq: r.store.Committed()}
		if role == replication.Primary && grown.unrecorded(r) {
			r.recordSize(grown.size)
		}
		if role != replication.Primary || mark == marked {
			continue
		}
		ctx, cancel := context.WithTimeout(r.ctx, lookEvery)
		result, err := r.m.cfg.Cluster.Do(ctx, &metapb.Command{Op: &metapb.Command_ReportMark{ReportMark: &metapb.ReportMark{
			Volume: r.name, Generation: uint64(mark.Generation), Seq: uint64(mark.Seq),
		}}})
		cancel()
		if err == nil && result.Code == metapb.Code_CODE_OK {
			marked = mark
		}
	}
}

// growth is a size of the volume and an entry of the log behind the one that made it.
type growth struct {
	size int64
	seq  replication.Seq
}

// unrecorded tells whether the volume has been larger than the quorum has recorded
// since the last call, and that is committed: whoever resized it could not record it.
func (g *growth) unrecorded(r *replica) bool {
	r.mu.Lock()
	recorded := r.latest.GetSizeBytes()
	r.mu.Unlock()
	size := r.disk().Size()
	known := g.size == size && size > recorded && r.store.Committed() >= g.seq
	if g.size != size {
		g.size = size
		_, g.seq = r.store.Last()
	}
	return known
}

// recordSize tells the quorum what the log has decided.
func (r *replica) recordSize(size int64) {
	ctx, cancel := context.WithTimeout(r.ctx, lookEvery)
	defer cancel()
	_, err := r.m.cfg.Cluster.Do(ctx, &metapb.Command{Reason: "its log says so",
		Op: &metapb.Command_ResizeVolume{ResizeVolume: &metapb.ResizeVolume{Name: r.name, SizeBytes: size}}})
	r.log.Debug("told the quorum the volume's size", "bytes", size, "err", err)
}

// follow serves the volume while this node is its primary.
func (r *replica) follow() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.turn:
		}
		role, gen := r.volume.Role()
		switch serve := role == replication.Primary; {
		case serve:
			r.m.cfg.Serve(r.name, func(attachment uint64, from blockdev.Origin) blockdev.Device {
				return r.volume.Session(gen, attachment, from)
			})
			r.log.Info("this node serves the volume", "generation", gen)
		case r.isServed():
			r.m.cfg.Withdraw(r.name, false)
		}
		r.mu.Lock()
		r.served = role == replication.Primary
		r.mu.Unlock()
		r.m.fire()
	}
}

func (r *replica) isServed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.served
}

// fail gives the replica up: nobody knows what is on its disk.
func (r *replica) fail(err error) {
	r.mu.Lock()
	r.failed = err
	r.mu.Unlock()
	r.log.Error("the replica on this node has failed; the volume goes on without it", "err", err,
		"advice", "check the disk, then restart blkd on this node")
	if err := r.m.cfg.Cluster.Unclean(true); err != nil {
		r.log.Error("that it failed could not be noted", "err", err)
	}
	r.work.Go(r.yield)
	r.m.fire()
}

// yield has the quorum promote another member if this node, whose replica has
// failed, is the primary: the node lives, so nobody else would notice.
func (r *replica) yield() {
	for next := 0; r.ctx.Err() == nil; next++ {
		r.mu.Lock()
		v := r.latest
		r.mu.Unlock()
		if v.GetPrimary() != r.m.cfg.Node || v.PrimaryIncarnation != r.m.incarnation {
			return
		}
		var others []*metapb.Member
		for _, x := range v.Members {
			if x.Node != r.m.cfg.Node && x.State == metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE && !x.Amnesiac {
				others = append(others, x)
			}
		}
		if len(others) > 0 {
			to := others[next%len(others)]
			ctx, cancel := context.WithTimeout(r.ctx, lookEvery)
			_, err := r.m.cfg.Cluster.Do(ctx, &metapb.Command{Reason: "the replica on " + r.m.cfg.Node + " has failed",
				Op: &metapb.Command_Promote{Promote: &metapb.Promote{Volume: v.Name, Generation: v.Generation, Number: v.Number,
					To: to.Node, Incarnation: to.Incarnation}}})
			cancel()
			r.log.Debug("asked for another primary", "to", to.Node, "err", err)
		}
		select {
		case <-r.ctx.Done():
		case <-time.After(askAgain):
		}
	}
}

// close ends the replica's part and closes its files.
func (r *replica) close() error {
	r.cancel()
	r.mu.Lock()
	for _, cancel := range r.links {
		cancel()
	}
	clear(r.links)
	failed := r.failed
	r.mu.Unlock()
	r.m.cfg.Withdraw(r.name, false)
	r.volume.Close()
	r.work.Wait()
	err := errors.Join(r.closeStores(), r.gate.Close())
	if failed != nil {
		return nil // told before
	}
	return err
}

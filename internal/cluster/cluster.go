package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// Cluster is this node's part in the cluster. It is safe for concurrent use.
type Cluster struct {
	cfg         Config
	world       World
	log         *slog.Logger
	db          *metadata.Log
	incarnation uint64
	every       time.Duration // between heartbeats
	requests    atomic.Uint64 // request ids made
	syncs       syncTimes     // of the metadata disk

	ctx    context.Context // ends when Stop begins
	cancel context.CancelFunc
	work   sync.WaitGroup // everything that has been started
	turn   signal         // phase, obstacle or what peers answered has changed
	news   signal         // Changed

	editing sync.Mutex // of identity

	mu         sync.Mutex
	phase      Phase
	obstacle   obstacle
	refused    *RefusedError
	unclean    bool             // a volume was not closed in order
	identity   *metapb.Identity // replaced, never changed
	backup     *backup          // nil: the node does not found from one, or no more
	server     *metadata.Server // nil until the node has founded or joined
	firstIndex uint64           // the last of the Raft log at the start
	peers      map[string]*peer
	greetings  map[string]*api.Greeting // by name: the latest that was welcome here
	refusals   map[string]string        // by name: what was logged last
	detector   *metadata.Detector
	steward    *steward      // nil: this node does not lead
	quorate    time.Duration // when this node last had a leader and a majority in contact
	attempts   map[*ongoing]bool
	event      uint64 // of the state, when last looked at
	beats      uint64 // sent so far
}

// Start makes this node part of its cluster: it opens the metadata database, and
// everything else happens in the background. It returns before the node takes
// part, and without waiting for any other node; see [Cluster.Status]. What is
// wrong with the configuration or the disk is an error. Register has to be
// called, and the gRPC server to serve on cfg.Address, for the others to answer.
func Start(cfg Config, w World) (*Cluster, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, world: w, log: w.Log,
		peers: map[string]*peer{}, greetings: map[string]*api.Greeting{}, refusals: map[string]string{}, attempts: map[*ongoing]bool{}}
	if err := w.FS.MkdirAll(cfg.Dir); err != nil {
		return nil, fmt.Errorf("metadata directory: %w", err)
	}
	db, err := metadata.OpenLog(timedFS{w.FS, &c.syncs, c.now}, cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("metadata database in %s: %w", cfg.Dir, err)
	}
	c.db = db
	if err := c.begin(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.watchPeers()
	c.work.Go(c.run)
	c.work.Go(c.watch)
	return c, nil
}

// begin makes the identity of this run durable, before anybody hears of it.
func (c *Cluster) begin() error {
	id := c.db.Identity()
	if id.Name != "" && id.Name != c.cfg.Name {
		return fmt.Errorf("the data directory is that of node %s, not of %s; set --node-name %s, or choose another directory with --data-dir", id.Name, c.cfg.Name, id.Name)
	}
	id.Name, id.List = c.cfg.Name, formatList(c.cfg.List)
	for _, number := range []*uint64{&id.Disk, &c.incarnation} {
		if *number == 0 {
			n, err := random(c.world.Rand)
			if err != nil {
				return err
			}
			*number = n
		}
	}
	id.Tried = append(id.Tried, c.incarnation)
	if extra := len(id.Tried) - triedMost; extra > 0 {
		id.Tried = slices.Delete(id.Tried, 0, extra)
	}
	if err := c.db.SetIdentity(id); err != nil {
		return fmt.Errorf("metadata database in %s: %w", c.cfg.Dir, err)
	}
	c.identity = id
	if err := c.readBackup(); err != nil {
		return err
	}
	c.phase = c.firstPhase()
	detector, err := metadata.NewDetector(c.cfg.Name, c.incarnation, c.cfg.Detector, c.now())
	if err != nil {
		return err
	}
	c.detector, c.every = detector, detector.Heartbeat()
	c.quorate = c.now()
	return nil
}

// triedMost bounds the list of starts that were never confirmed. It takes as
// many starts without a quorum in a row, and one before them that was registered
// and did not learn of it, for this node to be taken for an old copy by mistake.
const triedMost = 1000

// random is a random number that is not 0.
func random(r io.Reader) (uint64, error) {
	var b [8]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, fmt.Errorf("random number: %w", err)
		}
		if n := binary.LittleEndian.Uint64(b[:]); n != 0 {
			return n, nil
		}
	}
}

func (c *Cluster) now() time.Duration { return c.world.Clock.Now() }

// after is a channel that is closed after d.
func (c *Cluster) after(d time.Duration) <-chan struct{} {
	ch := make(chan struct{})
	c.world.Clock.AfterFunc(d, func() { close(ch) })
	return ch
}

// watchPeers starts to look for the nodes that are known and not looked for yet,
// and forgets those that are no longer known. Until the quorum's records are
// here, known are those of the list and whom the others name.
func (c *Cluster) watchPeers() {
	type place struct{ recorded, listed, told string }
	known := map[string]place{}
	watched := []metadata.Peer{}
	ids, nextID := map[string]uint64{}, uint64(0)
	if s := c.serverNow(); s != nil {
		s.View(func(s *metadata.State) {
			for _, n := range s.Nodes() {
				known[n.Name] = place{recorded: n.Address}
				ids[n.Name] = n.Id
				watched = append(watched, metadata.Peer{Name: n.Name, Incarnation: n.Incarnation})
			}
			nextID = s.Info().NextId
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	blank := len(known) == 0
	for _, p := range c.cfg.List {
		if k, ok := known[p.Name]; ok || blank {
			k.listed = p.Address
			known[p.Name] = k
		}
	}
	for _, p := range c.peers {
		if !blank {
			break
		}
		for _, r := range p.answer.greeting.GetRuns() {
			if k := known[r.Name]; k.recorded == "" {
				k.recorded = r.Address
				known[r.Name] = k
				watched = append(watched, metadata.Peer{Name: r.Name, Incarnation: r.Incarnation})
			}
		}
	}
	delete(known, c.cfg.Name)
	if c.ctx.Err() != nil || c.phase == Refused {
		clear(known)
	}
	for name, k := range known {
		if g := c.greetings[name]; g != nil {
			k.told = g.Address
		}
		p := c.peers[name]
		if p == nil {
			p = &peer{c: c, name: name, out: newOutbox(), poke: make(chan struct{}, 1), beats: map[uint64]*beats{}}
			c.peers[name] = p
		}
		p.setAddresses(k.told, k.recorded, k.listed)
		if p.cancel == nil {
			var ctx context.Context
			ctx, p.cancel = context.WithCancel(c.ctx)
			c.work.Go(func() { p.run(ctx) })
		}
	}
	for name, p := range c.peers {
		if _, ok := known[name]; !ok {
			p.cancel()
			delete(c.peers, name)
		}
	}
	if !blank {
		c.forgetGreetings(ids, nextID)
	}
	c.detector.SetPeers(c.now(), watched)
}

// forgetGreetings makes nodes that were removed or replaced greet again, and be
// refused. Whoever has a Raft id that is not recorded here yet may go on. With
// c.mu held.
func (c *Cluster) forgetGreetings(ids map[string]uint64, nextID uint64) {
	for name, g := range c.greetings {
		if g.Id != 0 && g.Id <= nextID && g.Id != ids[name] {
			delete(c.greetings, name)
		}
	}
}

// identityNow is what the disk knows of this node; it is never changed.
func (c *Cluster) identityNow() *metapb.Identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.identity
}

// editIdentity changes what the disk knows of this node; it is durable when nil
// is returned.
func (c *Cluster) editIdentity(edit func(*metapb.Identity)) error {
	c.editing.Lock()
	defer c.editing.Unlock()
	id := proto.CloneOf(c.identityNow())
	edit(id)
	if err := c.db.SetIdentity(id); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.identity = id
	return nil
}

// serverNow is the Raft member; nil before the node has founded or joined.
func (c *Cluster) serverNow() *metadata.Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server
}

// Unclean says that a volume of this node could not be closed in order; ioError,
// because of an I/O error. The next start then claims no membership that rests on
// what was only in memory. It is called before Stop.
func (c *Cluster) Unclean(ioError bool) error {
	c.mu.Lock()
	c.unclean = true
	c.mu.Unlock()
	if !ioError {
		return nil
	}
	return c.editIdentity(func(id *metapb.Identity) { id.IoError = true })
}

// Stop ends this node's part in the cluster: it hands the leadership over, if it
// has it, until ctx ends, ends all connections to other nodes, and notes that it
// ended in order. Volumes have to be closed before. Calls that are under way end
// with ErrStopped.
func (c *Cluster) Stop(ctx context.Context) error {
	c.handOver(ctx)
	c.mu.Lock()
	c.cancel() // with the lock, so that no work begins afterwards
	server := c.server
	c.mu.Unlock()
	if server != nil {
		server.Stop()
	}
	c.work.Wait()
	c.turn.fire()
	c.news.fire()
	c.mu.Lock()
	clean := !c.unclean && c.phase != Failed && c.identity.Incarnation == c.incarnation
	c.mu.Unlock()
	var err error
	if clean {
		err = c.editIdentity(func(id *metapb.Identity) { id.Clean = true })
	}
	return errors.Join(err, c.db.Close())
}

package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"blkd/internal/env"
	"blkd/nbd"
)

const volumesDir = "volumes"

// branchesDir holds what forced promotions have left of replicas.
const branchesDir = "branches"

// World is what a node needs from its surroundings.
type World struct {
	FS  env.FS
	Log *slog.Logger
	// NBD are sockets that were opened for the node (systemd socket
	// activation). With them the configured addresses are not opened, unless
	// they were given explicitly.
	NBD []net.Listener
	// Cluster is a socket that was opened for the cluster address; nil: the node
	// opens it.
	Cluster net.Listener
	// Clock is the time of the cluster; nil: the system's.
	Clock env.Clock
}

// Node is a running blkd.
type Node struct {
	cfg     Config
	fs      env.FS
	log     *slog.Logger
	started time.Time
	lock    io.Closer
	certs   *certificates // nil without TLS

	nbd       *nbd.Server
	listeners []net.Listener // of nbd
	control   *grpc.Server
	member    *member // nil: it stands alone
	clustered atomic.Pointer[exports]

	web     *web          // nil without a metrics address
	ready   chan struct{} // closed when the node serves
	fatal   chan error
	serving sync.WaitGroup

	stopping context.Context // ends when Stop begins
	stop     context.CancelFunc

	mu      sync.Mutex
	volumes map[string]*volume
}

// Start brings a node up: when it returns, every volume is either served or
// known as failed, and clients can connect. A node of a cluster then looks for
// the others, however long that takes; see Ready. The error says what kept it
// down.
func Start(cfg Config, w World) (*Node, error) {
	n := &Node{cfg: cfg, fs: w.FS, log: w.Log, started: time.Now(),
		ready: make(chan struct{}), fatal: make(chan error, 8), volumes: map[string]*volume{}}
	n.stopping, n.stop = context.WithCancel(context.Background())
	specs, err := cfg.volumes()
	if err != nil {
		return nil, err
	}
	if n.lock, err = lockDataDir(n.fs, cfg.DataDir); err != nil {
		return nil, err
	}
	for _, step := range n.steps(specs, w) {
		if err := step(); err != nil {
			// The first error is the one to tell; stopping what was
			// started can only add noise.
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if stopErr := n.Stop(ctx); stopErr != nil {
				n.log.Debug("stopping after a failed start", "err", stopErr)
			}
			return nil, err
		}
	}
	if n.member != nil {
		n.serving.Go(n.member.observe)
	} else {
		close(n.ready)
	}
	return n, nil
}

// steps bring the node up, in order.
func (n *Node) steps(specs []VolumeSpec, w World) []func() error {
	nbd := func() error { return n.serveNBD(w.NBD) }
	switch {
	case !n.cfg.inCluster():
		return []func() error{n.refuseMember, n.newServer, func() error { return n.openVolumes(specs) }, nbd, n.serveControl, n.serveWeb}
	case n.cfg.Cluster.Witness:
		return []func() error{func() error { return n.joinCluster(w) }, n.serveControl, n.serveWeb}
	default:
		return []func() error{n.newServer, nbd, func() error { return n.joinCluster(w) }, n.serveControl, n.serveWeb}
	}
}

// Ready is closed when the node serves: at once if it stands alone, else when it
// has become a member of its cluster for the first time.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Fatal delivers the error of a server that ended by itself; the node should
// then be stopped.
func (n *Node) Fatal() <-chan error { return n.fatal }

// serve runs a server until it ends; an error makes the node stop.
func (n *Node) serve(what string, run func() error) {
	n.serving.Go(func() {
		if err := run(); err != nil {
			select {
			case n.fatal <- fmt.Errorf("%s: %w", what, err):
			default: // one is enough to stop
			}
		}
	})
}

// Stop drains and releases everything: no new client or command is served, the
// requests received are finished until ctx ends, then the stores are flushed and
// closed and the data directory is released.
func (n *Node) Stop(ctx context.Context) error {
	if n.member != nil && n.member.replicas != nil {
		n.member.handOver(ctx)
	}
	n.stop()
	var errs []error
	if n.control != nil {
		stopGracefully(ctx, n.control)
	}
	if n.nbd != nil {
		if err := n.nbd.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("nbd: %w", err))
		}
	}
	for _, l := range n.listeners {
		l.Close() // already closed by Shutdown, unless it was never served
	}
	errs = append(errs, n.closeVolumes())
	if n.member != nil {
		errs = append(errs, n.member.stop(ctx))
	}
	if n.web != nil {
		errs = append(errs, n.web.stop(ctx))
	}
	n.serving.Wait()
	return errors.Join(append(errs, n.lock.Close())...)
}

// stopGracefully lets calls in flight finish until ctx ends.
func stopGracefully(ctx context.Context, s *grpc.Server) {
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	s.GracefulStop()
}

// Reload reads the TLS certificates again, those of NBD and those of the cluster.
// On an error the old ones stay in use.
func (n *Node) Reload() error {
	var errs []error
	if n.certs != nil {
		errs = append(errs, n.certs.reload())
	}
	if n.member != nil && n.member.certs != nil {
		errs = append(errs, n.member.certs.Reload())
	}
	return errors.Join(errs...)
}

// Alive returns when the node's locks can be had: a deadlock keeps it from
// returning, and systemd's watchdog then restarts blkd.
func (n *Node) Alive() {
	if n.member != nil {
		n.member.cluster.Status()
	}
	for _, v := range n.list() {
		v.mu.Lock()
		v.mu.Unlock() //nolint:staticcheck // that it can be had is all
	}
}

// list is every volume, by name.
func (n *Node) list() []*volume {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]*volume, 0, len(n.volumes))
	for _, v := range n.volumes {
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b *volume) int { return cmp.Compare(a.name, b.name) })
	return all
}

// lookup finds a volume; nil if there is none.
func (n *Node) lookup(name string) *volume {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.volumes[name]
}

// insert adds a volume unless the name is taken.
func (n *Node) insert(v *volume) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.volumes[v.name] != nil {
		return false
	}
	n.volumes[v.name] = v
	return true
}

func (n *Node) remove(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.volumes, name)
}

func (n *Node) volumeDir(name string) string {
	return filepath.Join(n.cfg.DataDir, volumesDir, name)
}

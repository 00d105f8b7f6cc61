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
	"time"

	"google.golang.org/grpc"

	"blkd/internal/env"
	"blkd/nbd"
)

const volumesDir = "volumes"

// World is what a node needs from its surroundings.
type World struct {
	FS  env.FS
	Log *slog.Logger
	// NBD are sockets that were opened for the node (systemd socket
	// activation). With them the configured addresses are not opened, unless
	// they were given explicitly.
	NBD []net.Listener
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
	web       *web // nil without a metrics address
	fatal     chan error
	serving   sync.WaitGroup

	stopping context.Context // ends when Stop begins
	stop     context.CancelFunc

	mu      sync.Mutex
	volumes map[string]*volume
}

// Start brings a node up: when it returns, every volume is either served or
// known as failed, and clients can connect. The error says what kept it down.
func Start(cfg Config, w World) (*Node, error) {
	n := &Node{cfg: cfg, fs: w.FS, log: w.Log, started: time.Now(),
		fatal: make(chan error, 8), volumes: map[string]*volume{}}
	n.stopping, n.stop = context.WithCancel(context.Background())
	specs, err := cfg.volumes()
	if err != nil {
		return nil, err
	}
	if n.lock, err = lockDataDir(n.fs, cfg.DataDir); err != nil {
		return nil, err
	}
	steps := []func() error{
		n.newServer,
		func() error { return n.openVolumes(specs) },
		func() error { return n.serveNBD(w.NBD) },
		n.serveControl,
		n.serveWeb,
	}
	for _, step := range steps {
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
	return n, nil
}

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

// Reload reads the TLS certificates again. On an error the old ones stay in use.
func (n *Node) Reload() error {
	if n.certs == nil {
		return nil
	}
	return n.certs.reload()
}

// Alive returns when the node's locks can be had: a deadlock keeps it from
// returning, and systemd's watchdog then restarts blkd.
func (n *Node) Alive() {
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

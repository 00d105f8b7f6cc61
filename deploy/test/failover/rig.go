package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
	"blkd/internal/verifier"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

const (
	volume   = "v"
	size     = 256 << 20
	blocks   = 8192 // of the load, from the first block on; Stale uses others
	depth    = 16
	patience = 2 * time.Minute // with what a cluster does by itself
)

// rig is a cluster, a volume on some of its nodes, and a client of one that has no
// copy of it.
type rig struct {
	*clustertest.Cluster
	dir    string
	remove bool // dir at the end
	client *clustertest.Node
	copies []*clustertest.Node
	volume *clustertest.Volume
	dev    *nbd.Client
	late   *nbd.Client // of a primary that is frozen; nil: there is none
	load   *verifier.Load
	// latency is told how long each write of the load took; nil: nobody wants to know.
	latency func(time.Duration)
}

// newRig starts as many nodes as are to have a copy, and others. The client's node is
// the last one.
func newRig(ctx context.Context, o *options, names, copies []string) (r *rig, err error) {
	r = &rig{remove: o.dir == ""}
	if r.dir, err = os.MkdirTemp(o.dir, "failover-"); err != nil {
		return nil, err
	}
	if r.dir, err = filepath.Abs(r.dir); err != nil {
		return nil, err
	}
	r.Cluster, err = clustertest.New(clustertest.Config{Blkd: o.blkd, Dir: r.dir, Names: names, Args: []string{"--log-level", "debug"}})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(r.dir))
	}
	if err := r.begin(ctx, copies, o.layoutOf(len(copies))); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *rig) begin(ctx context.Context, copies []string, layout *metapb.Layout) error {
	if err := r.Start(ctx); err != nil {
		return err
	}
	for _, n := range r.Nodes {
		if slices.Contains(copies, n.Name) {
			r.copies = append(r.copies, n)
		}
	}
	r.client = r.Nodes[len(r.Nodes)-1]
	var err error
	if r.volume, err = r.CreateVolumeOf(ctx, volume, size, r.client, r.copies, layout); err != nil {
		return err
	}
	r.dev, err = r.volume.Dial(ctx, r.client, nbd.DialOptions{})
	return err
}

// close ends everything. What the nodes have written is removed.
func (r *rig) close() {
	r.Cluster.Close() // before the clients, which might wait for a volume that does not answer
	if r.load != nil {
		r.load.Stop() //nolint:errcheck // everything was checked, or another error came first
	}
	for _, dev := range []*nbd.Client{r.dev, r.late} {
		if dev != nil {
			dev.Close() //nolint:errcheck // likewise
		}
	}
	if r.remove {
		os.RemoveAll(r.dir)
	}
}

func (r *rig) volumes() api.VolumeServiceClient { return api.NewVolumeServiceClient(r.client.Conn()) }

// startLoad starts the client's reads and writes, and returns what they are.
func (r *rig) startLoad(o *options) verifier.Config {
	cfg := verifier.Config{Device: r.dev, Blocks: blocks, Depth: depth, ReadPercent: 25,
		FlushEvery: 100 * time.Millisecond, Pause: o.pause, Latency: r.latency}
	r.load = verifier.Start(cfg)
	return cfg
}

// until asks again and again until there is nothing to complain of.
func (r *rig) until(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if r.load != nil && r.load.Err() != nil {
			return r.load.Err()
		}
		select {
		case <-ctx.Done():
			logs := ""
			for _, n := range r.Nodes {
				logs += "\n" + n.Log()
			}
			return fmt.Errorf("waited %v: %w%s", patience, err, logs)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// still waits until every copy has everything, which takes a load that has ended.
func (r *rig) still(ctx context.Context) error {
	return r.until(ctx, func(ctx context.Context) error {
		v, err := r.volume.Show(ctx)
		if err != nil {
			return err
		}
		for _, x := range v.Replicas {
			if !clustertest.Sound(v, x.Node) || x.HeldSeq != v.Replicas[0].HeldSeq {
				return fmt.Errorf("the copy on %s lacks something: %v", x.Node, v)
			}
		}
		return nil
	})
}

// resumed waits until a write is acknowledged that was sent from now on, and
// returns the longest time without one since the load was marked.
func (r *rig) resumed(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := r.load.Acknowledged(ctx, time.Now()); err != nil {
		return 0, err
	}
	return r.load.Longest().Length(), nil
}

// finish ends the load and reads everything back, through every node that runs.
func (r *rig) finish(ctx context.Context) error {
	if err := r.load.Stop(); err != nil {
		return err
	}
	for _, n := range r.Nodes {
		if !n.Runs() {
			continue
		}
		var dev *nbd.Client
		err := r.until(ctx, func(ctx context.Context) (err error) { // one that has just started exports nothing yet
			dev, err = r.volume.Dial(ctx, n, nbd.DialOptions{})
			return err
		})
		if err != nil {
			return fmt.Errorf("connecting to %s: %w", n.Name, err)
		}
		c, err := r.load.Check(dev)
		if err := errors.Join(err, dev.Close(), c.Example); err != nil {
			return fmt.Errorf("read back through %s: %d lost, %d wrong: %w", n.Name, c.Lost, c.Wrong, err)
		}
	}
	return nil
}

// data is a node's data directory.
func (r *rig) data(n *clustertest.Node) string { return filepath.Join(r.dir, n.Name, "data") }

// sleep lets time pass, unless the program is to end.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

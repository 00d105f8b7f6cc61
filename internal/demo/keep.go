package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"blkd/internal/api"
	"blkd/internal/units"
)

// Cluster says what Keep keeps up.
type Cluster struct {
	Nodes int
	// Dir keeps the nodes' data for the next time. Empty: a temporary directory,
	// which is removed at the end.
	Dir    string
	Volume string
	Size   int64 // of the volume, bytes
}

// restartAfter is how long a node that was killed stays away.
const restartAfter = 5 * time.Second

// stopTime is how long the nodes may take to end in order.
const stopTime = 10 * time.Second

// Keep runs a cluster with a volume until ctx ends, and says on out how to use it.
// A node that ends is started again a little later.
func Keep(ctx context.Context, blkd string, cfg Cluster, out io.Writer) error {
	dir, note := cfg.Dir, "kept"
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "blkd-dev-"); err != nil {
			return err
		}
		note = "removed at the end"
		defer os.RemoveAll(dir)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	c, err := newCluster(blkd, dir, cfg.Nodes)
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.startAll(ctx); err != nil {
		return err
	}
	err = c.createVolume(ctx, cfg.Volume, cfg.Size, c.mirrored())
	if err != nil && api.Explain(err).Code != codes.AlreadyExists {
		return said(err)
	}
	fmt.Fprintf(out, "%d blkd processes on loopback; their data is in %s (%s)\n\n", cfg.Nodes, dir, note)
	c.describe(out, dir, cfg)
	err = c.keep(ctx, out)
	if cfg.Dir != "" {
		c.stopAll()
	}
	return err
}

// describe tells what there is and how to use it.
func (c *cluster) describe(out io.Writer, dir string, cfg Cluster) {
	for _, n := range c.nodes {
		fmt.Fprintf(out, "  %s  process %d  %s\n", n.name, n.process.cmd.Process.Pid, n.uri(cfg.Volume))
	}
	last := c.nodes[len(c.nodes)-1]
	fmt.Fprintf(out, `
In another terminal:
  export BLKCTL_NODE=%s
  blkctl status
  blkctl promote %s
  fio --name=t --ioengine=nbd --uri=%s --rw=randwrite --bs=4k --iodepth=16 --time_based --runtime=60
  nbdcopy image.raw %s
  blkctl drill all --dev %s
  blkctl volume create mine 1GiB && sudo -E blkctl attach mine

Volume %s is %s and shared: every client may write to it. One that you create has one
writing client at a time; blkctl attachments tells which. A node that you kill is started again %s later. Ctrl-C ends all of it.
`, c.list(), cfg.Volume, last.uri(cfg.Volume), last.uri(cfg.Volume), dir, cfg.Volume, units.Size(cfg.Size), roughly(restartAfter))
}

// keep starts nodes again that have ended, until ctx ends.
func (c *cluster) keep(ctx context.Context, out io.Writer) error {
	again := make(chan error)
	for _, n := range c.nodes {
		go func() { again <- c.guard(ctx, n, out) }()
	}
	var first error
	for range c.nodes {
		if err := <-again; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// guard starts one node again whenever it has ended.
func (c *cluster) guard(ctx context.Context, n *node, out io.Writer) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.process.ended:
		}
		fmt.Fprintf(out, "%s has ended: %v\n", n.name, n.process.err)
		if pause(ctx, restartAfter) != nil {
			return nil
		}
		if err := c.start(n); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s runs again, as process %d\n", n.name, n.process.cmd.Process.Pid)
	}
}

// stopAll asks every node to end in order, and waits for that.
func (c *cluster) stopAll() {
	for _, n := range c.nodes {
		n.process.signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		n.process.signal(syscall.SIGCONT) //nolint:errcheck // likewise
	}
	late := time.After(stopTime)
	for _, n := range c.nodes {
		select {
		case <-n.process.ended:
		case <-late:
			return
		}
	}
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"blkd/blockdev"
	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
	"blkd/internal/verifier"
	"blkd/nbd"
)

// quorum kills so many voters that the metadata quorum is lost. The volume's members,
// and the client's node, are the others.
func quorum(ctx context.Context, o *options) error {
	r, err := newRig(ctx, o, []string{"n1", "n2", "n3", "n4", "n5"}, []string{"n4", "n5"})
	if err != nil {
		return err
	}
	defer r.close()
	r.startLoad(o)
	if err := calm(ctx); err != nil {
		return err
	}
	r.load.Mark()
	before := r.load.Counts()
	for _, n := range r.Nodes[:3] {
		n.Kill()
	}
	if err := sleep(ctx, o.frozen); err != nil {
		return err
	}
	st, err := api.NewClusterServiceClient(r.client.Conn()).Status(ctx, &api.ClusterStatusRequest{})
	if err != nil {
		return err
	}
	if !st.Stale {
		return fmt.Errorf("%d of %d voters are enough", st.Quorum.GetHave(), st.Quorum.GetVoters())
	}
	stall, err := r.resumed(ctx)
	if err != nil {
		return err
	}
	report(fmt.Sprintf("%d of %d voters, no quorum for %v", st.Quorum.GetHave(), st.Quorum.GetVoters(), o.frozen), []time.Duration{stall})
	fmt.Printf("  %d writes meanwhile, no error\n", r.load.Counts().Writes-before.Writes)
	for _, n := range r.Nodes[:3] {
		if err := n.Start(); err != nil {
			return err
		}
	}
	if err := r.Settle(ctx); err != nil {
		return err
	}
	return r.finish(ctx)
}

// power kills all nodes at once.
func power(ctx context.Context, o *options) error {
	r, err := oneEach(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	var writes, flushes int64
	for i := range o.rounds {
		n, err := r.powerLoss(ctx, o)
		if err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
		writes, flushes = writes+n.Writes, flushes+n.Flushes
	}
	fmt.Printf("kill -9 of all %d nodes at once, %d times, under %d writes and %d flushes: nothing acknowledged is lost\n",
		len(r.Nodes), o.rounds, writes, flushes)
	return r.compare(ctx)
}

// powerLoss kills all nodes under load and tells what that had done.
func (r *rig) powerLoss(ctx context.Context, o *options) (n verifier.Counts, err error) {
	if err := r.zero(); err != nil {
		return n, err
	}
	r.startLoad(o)
	if err := sleep(ctx, time.Second); err != nil {
		return n, err
	}
	if err := r.load.Err(); err != nil {
		return n, err
	}
	for _, node := range r.Nodes {
		node.Kill()
	}
	load := r.load
	r.load = nil // its errors are those that were to come
	if err := load.Stop(); err == nil {
		return n, errors.New("the client has not noticed it")
	}
	r.dev.Close() //nolint:errcheck // the connection is lost
	if err := r.Start(ctx); err != nil {
		return n, err
	}
	if err := r.volume.Level(ctx); err != nil {
		return n, err
	}
	if r.dev, err = r.volume.Dial(ctx, r.client, nbd.DialOptions{}); err != nil {
		return n, err
	}
	c, err := load.Check(r.dev)
	if err != nil {
		return n, err
	}
	if c.Lost+c.Wrong > 0 {
		return n, fmt.Errorf("%d blocks lack what was acknowledged, %d of them what was flushed, and %d are wrong: %w", c.Lost, c.LostDurable, c.Wrong, c.Example)
	}
	return load.Counts(), nil
}

// zero makes the blocks of the next load read as zeros, as it expects them.
func (r *rig) zero() error { return blockdev.WriteZeroes(r.dev, 0, blocks*blockdev.BlockSize, 0) }

// site has every member lose its power, for all that it can know: its blkd is killed,
// and the machine has been booted since. The client's node is elsewhere.
func site(ctx context.Context, o *options) error {
	if os.Getuid() != 0 {
		fmt.Println("site is left out: it needs root, to have a machine booted anew")
		return nil
	}
	r, err := oneEach(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	before, err := r.volume.Show(ctx)
	if err != nil {
		return err
	}
	r.startLoad(o)
	if err := sleep(ctx, time.Second); err != nil {
		return err
	}
	for _, n := range r.copies {
		n.Kill()
	}
	for _, n := range r.copies {
		if err := r.reboot(n); err != nil {
			return err
		}
	}
	if err := r.Settle(ctx); err != nil {
		return err
	}
	load := r.load
	r.load = nil // its errors are those that were to come
	if err := r.volume.Level(ctx); err != nil {
		return err
	}
	after, err := r.volume.Show(ctx)
	if err != nil {
		return err
	}
	was, is := before.Record.GetAttachment().GetNumber(), after.Record.GetAttachment().GetNumber()
	if is <= was {
		return fmt.Errorf("every member has lost its power, and the attachment is number %d still, after %d", is, was)
	}
	if err := r.refused(ctx, load); err != nil {
		return err
	}
	dev, err := r.volume.Dial(ctx, r.client, nbd.DialOptions{})
	if err != nil {
		return err
	}
	r.dev.Close() //nolint:errcheck // the connection is lost
	r.dev = dev
	c, err := load.Check(r.dev)
	if err != nil {
		return err
	}
	if c.LostDurable+c.Wrong > 0 {
		return fmt.Errorf("%d blocks lack what was flushed, and %d are wrong: %w", c.LostDurable, c.Wrong, c.Example)
	}
	fmt.Printf("power loss of all members: what was flushed is there, attachment %d is number %d now, and the client from before was refused until it connected anew\n", was, is)
	return r.compare(ctx)
}

// refused waits until a client from before an outage has been refused.
func (r *rig) refused(ctx context.Context, load *verifier.Load) error {
	since := load.Counts()
	err := r.until(ctx, func(context.Context) error {
		if load.Err() == nil {
			n := load.Counts()
			return fmt.Errorf("a client from before it goes on as if nothing had been lost: %d writes since", n.Writes-since.Writes)
		}
		return nil
	})
	load.Stop() //nolint:errcheck // it was to be refused
	return err
}

// reboot starts a node on a machine that was booted since.
func (r *rig) reboot(n *clustertest.Node) error {
	boot := filepath.Join(r.dir, n.Name, "boot_id")
	if err := os.WriteFile(boot, []byte(rand.Text()+"\n"), 0o644); err != nil {
		return err
	}
	n.Args = append([]string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, boot}, n.Args...)
	return n.Start()
}

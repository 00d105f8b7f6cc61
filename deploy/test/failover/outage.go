package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/verifier"
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
	r, err := mirror3(ctx, o)
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
	if err := r.level(ctx); err != nil {
		return n, err
	}
	if r.dev, err = dial(ctx, r.client); err != nil {
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

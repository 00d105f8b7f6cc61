package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"blkd/deploy/test/clustertest"
)

// faults does harm to one voter after another, of which there are always two
// others that work.
type faults struct {
	cluster *clustertest.Cluster
	network *clustertest.Network
	rng     *rand.Rand
}

// next does something to the leader, or to another voter, and undoes it.
func (f *faults) next(ctx context.Context) error {
	victim, err := f.victim(ctx)
	if err != nil {
		return err
	}
	node := f.cluster.Nodes[victim]
	other := (victim + 1 + f.rng.IntN(2)) % 3
	kinds := []struct {
		name string
		do   func() error
	}{
		{"killed", func() error { node.Kill(); return nil }},
		{"told to stop", node.Stop},
		{"standing still", node.Pause},
		{"cut off", func() error { return f.network.Cut(victim) }},
		{"cut off", func() error { return f.network.Cut(victim) }},
		{"cut off from " + f.cluster.Nodes[other].Name, func() error { return f.network.Part(victim, other) }},
	}
	kind := kinds[f.rng.IntN(len(kinds))]
	harmed := time.Duration(1000+f.rng.IntN(2500)) * time.Millisecond
	fmt.Printf("%s is %s for %v\n", node.Name, kind.name, harmed)
	if err := kind.do(); err != nil {
		return err
	}
	if err := sleep(ctx, harmed); err != nil {
		return err
	}
	if err := f.undo(node); err != nil {
		return err
	}
	return f.cluster.Settle(ctx)
}

// victim is the leader, two times out of three, or any of the first three nodes.
func (f *faults) victim(ctx context.Context) (int, error) {
	if f.rng.IntN(3) == 0 {
		return f.rng.IntN(3), nil
	}
	leader, err := f.cluster.Leader(ctx)
	for err == nil && leader.Name == spared { // it votes in the place of one that failed too often
		leader, err = f.cluster.Transfer(ctx, "")
	}
	return slices.Index(f.cluster.Nodes, leader), err
}

func (f *faults) undo(node *clustertest.Node) error {
	if err := f.network.Heal(); err != nil {
		return err
	}
	if !node.Runs() {
		return node.Start()
	}
	return node.Resume()
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

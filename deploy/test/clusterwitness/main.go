// Command clusterwitness tests the smallest cluster that survives: two nodes with
// data and a witness. It kills one after the other with SIGKILL while a client
// writes to a volume, and checks that the metadata can be changed and the volume be
// written without the one that is gone, that it comes back, and that every write
// that was acknowledged is there. It says how long both took.
//
// It also checks that the witness stays small.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
	"blkd/metadata/metapb"
)

const (
	volume     = "v"
	volumeSize = 64 << 20
	witness    = "w1"

	witnessMost = 64 << 20 // bytes of memory that the witness may take
)

func main() {
	// The nodes are to die with the thread that started them, so that thread must stay.
	runtime.LockOSThread()
	var (
		blkd   = flag.String("blkd", "", "blkd `program` to test")
		dir    = flag.String("dir", "", "empty `directory` for the nodes (default: a temporary one)")
		rounds = flag.Int("rounds", 2, "`number` of times that each node is killed")
	)
	flag.Parse()
	if *blkd == "" || flag.NArg() > 0 || *rounds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *blkd, *dir, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "clusterwitness:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, blkd, dir string, rounds int) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "clusterwitness-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	cluster, err := clustertest.New(clustertest.Config{Blkd: blkd, Dir: dir, Names: []string{"n1", "n2", witness},
		Witnesses: map[string]bool{witness: true}, Args: []string{"--store-log-size", "16MiB"}})
	if err != nil {
		return err
	}
	defer cluster.Close()
	if err := cluster.Start(ctx); err != nil {
		return err
	}
	if err := create(ctx, cluster.Nodes[0], volume, 2); err != nil {
		return err
	}
	w := startWriter(ctx, cluster.Nodes[:2])
	defer w.stop()
	if err := w.writeAfter(ctx, time.Now()); err != nil {
		return err
	}
	for round := range rounds {
		for i, victim := range cluster.Nodes {
			if err := kill(ctx, cluster, victim, w, fmt.Sprintf("x%d-%d", round, i)); err != nil {
				return fmt.Errorf("%s was killed: %w", victim.Name, errors.Join(err, w.failure()))
			}
		}
	}
	written, err := w.end(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%d acknowledged writes are there\n", written)
	return checkWitness(cluster.Nodes[2])
}

// kill kills a node, sees that all goes on, and that it comes back.
func kill(ctx context.Context, cluster *clustertest.Cluster, victim *clustertest.Node, w *writer, name string) error {
	leader, err := cluster.Leader(ctx)
	if err != nil {
		return err
	}
	role := ""
	if leader == victim {
		role = ", leader of the quorum"
	}
	killed := time.Now()
	victim.Kill()
	survivor := cluster.Nodes[0]
	if survivor == victim {
		survivor = cluster.Nodes[1]
	}
	if err := create(ctx, survivor, name, 1); err != nil {
		return err
	}
	changed := time.Since(killed)
	if err := w.writeAfter(ctx, killed); err != nil {
		return err
	}
	fmt.Printf("%s%s was killed: metadata changed after %v, volume written after %v\n",
		victim.Name, role, changed.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond))
	if err := victim.Start(); err != nil {
		return err
	}
	if err := cluster.Settle(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = api.NewClusterServiceClient(survivor.Conn()).Wait(ctx,
		&api.WaitRequest{Condition: api.WaitCondition_WAIT_CONDITION_UP_TO_DATE, Volume: volume})
	if err != nil {
		return fmt.Errorf("volume %s does not get its replicas back: %w", volume, err)
	}
	return nil
}

// create makes a volume, as soon as the quorum lets it.
func create(ctx context.Context, at *clustertest.Node, name string, copies int32) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request := &api.CreateVolumeRequest{Name: name, SizeBytes: volumeSize, Request: newRequest(),
		Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: copies}}
	for {
		_, err := api.NewVolumeServiceClient(at.Conn()).Create(ctx, request)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("volume %s cannot be made: %w", name, err)
		case <-time.After(20 * time.Millisecond):
			request.Request = newRequest() // a refusal is an answer, and would be repeated
		}
	}
}

// checkWitness compares what the witness has taken of memory, at most, with what it may.
func checkWitness(n *clustertest.Node) error {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Pid()))
	if err != nil {
		return err
	}
	_, rest, found := bytes.Cut(status, []byte("VmHWM:"))
	var kib int64
	if _, err := fmt.Sscan(string(rest), &kib); !found || err != nil {
		return fmt.Errorf("the memory of the witness is not known: %w", err)
	}
	fmt.Printf("the witness took %d MiB of memory at most\n", kib>>10)
	if kib<<10 > witnessMost {
		return fmt.Errorf("it may take %d MiB", witnessMost>>20)
	}
	return nil
}

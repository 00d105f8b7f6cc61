// Command clusterkill kills the leader of the metadata quorum with SIGKILL, again
// and again, while clients create and delete volumes, and checks that no change
// that was reported as done is lost, and that none is applied twice.
//
// Every change has a request id, and a client that gets no answer repeats it, at
// another node, until it gets one. It prints how long it takes from a kill until a
// change succeeds that was asked for after it.
//
// At the end every node is asked what there is, and the history of every volume:
// one creation, and one deletion at most.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"blkd/deploy/test/clustertest"
)

func main() {
	// The nodes are to die with the thread that started them, so that thread must stay.
	runtime.LockOSThread()
	var (
		blkd    = flag.String("blkd", "", "blkd `program` to test")
		dir     = flag.String("dir", "", "empty `directory` for the nodes (default: a temporary one)")
		kills   = flag.Int("kills", 50, "`number` of kills")
		clients = flag.Int("clients", 4, "`number` of clients")
	)
	flag.Parse()
	if *blkd == "" || flag.NArg() > 0 || *kills < 1 || *clients < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *blkd, *dir, *kills, *clients); err != nil {
		fmt.Fprintln(os.Stderr, "clusterkill:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, blkd, dir string, kills, clients int) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("", "clusterkill-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	cluster, err := clustertest.New(clustertest.Config{Blkd: blkd, Dir: dir, Names: []string{"n1", "n2", "n3", spared},
		Args: []string{"--store-log-size", "1MiB"}})
	if err != nil {
		return err
	}
	defer cluster.Close()
	began := time.Now()
	if err := cluster.Start(ctx); err != nil {
		return err
	}
	fmt.Printf("four nodes, three of them voters, formed a cluster in %v\n", time.Since(began).Round(time.Millisecond))

	l := startLoad(ctx, cluster.Conns(), clients)
	var gaps []time.Duration
	for i := range kills {
		gap, err := kill(ctx, cluster, l)
		if err != nil {
			l.stop() //nolint:errcheck // the first error counts
			return fmt.Errorf("kill %d: %w", i+1, err)
		}
		gaps = append(gaps, gap)
	}
	if err := l.stop(); err != nil {
		return err
	}
	if err := cluster.Settle(ctx); err != nil {
		return err
	}
	if err := check(ctx, cluster, l.done()); err != nil {
		return err
	}
	slices.Sort(gaps)
	fmt.Printf("%d kills of the leader under %d changes: none lost, none applied twice\n", kills, len(l.done()))
	fmt.Printf("from a kill to the next success: median %v, max %v\n", gaps[len(gaps)/2].Round(time.Millisecond), gaps[len(gaps)-1].Round(time.Millisecond))
	return nil
}

// kill kills the leader and tells how long it took until a change succeeded that
// was asked for afterwards. Then the node comes back.
func kill(ctx context.Context, cluster *clustertest.Cluster, l *load) (time.Duration, error) {
	leader, err := cluster.Leader(ctx)
	for err == nil && leader.Name == spared { // it votes in the place of one that was killed too often
		leader, err = cluster.Transfer(ctx, "")
	}
	if err != nil {
		return 0, err
	}
	l.pause(ctx, 500*time.Millisecond) // so that changes are under way
	killed := time.Now()
	leader.Kill()
	success, err := l.successAfter(ctx, killed)
	if err != nil {
		return 0, err
	}
	if err := leader.Start(); err != nil {
		return 0, err
	}
	return success.Sub(killed), cluster.Settle(ctx)
}

// errNoSuccess says that a cluster of which two nodes run does nothing.
var errNoSuccess = errors.New("no change succeeded within a minute of it")

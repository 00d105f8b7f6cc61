// Command clusterpartition checks that the metadata of a cluster is linearizable:
// clients add, replace, remove and look at the records of a few nodes that never
// start, through all that do, while voters are killed, stopped, paused and cut off
// from others, and a checker looks for an order of all operations that explains
// every answer.
//
// The nodes run in network namespaces that the program makes itself and removes;
// it needs root and iproute2. With -mutant it plants that bug in every node, which
// a build with the tag mutants can, and succeeds if the check finds a violation.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"blkd/deploy/test/clustertest"
	"blkd/internal/mutant"
)

type options struct {
	blkd, dir, out string
	duration       time.Duration
	clients        int
	seed           uint64
	mutant         string
}

func main() {
	// The nodes are to die with the thread that started them, so that thread must stay.
	runtime.LockOSThread()
	var o options
	flag.StringVar(&o.blkd, "blkd", "", "blkd `program` to test")
	flag.StringVar(&o.dir, "dir", "", "empty `directory` for the nodes (default: a temporary one)")
	flag.StringVar(&o.out, "out", "", "`directory` for a page that shows a violation (default: none is written)")
	flag.DurationVar(&o.duration, "time", time.Minute, "`time` to go on")
	flag.IntVar(&o.clients, "clients", 8, "`number` of clients")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "`seed` of what is done; not of how it interleaves")
	flag.StringVar(&o.mutant, "mutant", "", "`name` of a bug to plant, which has to be found")
	flag.Parse()
	if o.blkd == "" || flag.NArg() > 0 || o.clients < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "clusterpartition:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "clusterpartition-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.dir)
	}
	fmt.Println("seed", o.seed)
	operations, err := record(ctx, o)
	if err != nil {
		return err
	}
	page := ""
	if o.out != "" {
		page = filepath.Join(o.out, "clusterpartition.html")
	}
	began := time.Now()
	violated, err := check(operations, page)
	if err != nil {
		return err
	}
	fmt.Printf("%d operations checked in %v\n", len(operations), time.Since(began).Round(time.Millisecond))
	switch {
	case o.mutant == "" && violated:
		return errors.New("the metadata is not linearizable" + shown(page))
	case o.mutant != "" && !violated:
		return fmt.Errorf("the planted bug %s was not found", o.mutant)
	case violated:
		fmt.Println("not linearizable: the planted bug", o.mutant, "was found"+shown(page))
	default:
		fmt.Println("linearizable")
	}
	return nil
}

func shown(page string) string {
	if page == "" {
		return ""
	}
	return "; see " + page
}

// record runs a cluster under faults and returns what the clients did and saw.
func record(ctx context.Context, o options) ([]operation, error) {
	names := []string{"n1", "n2", "n3", spared}
	network, err := clustertest.NewNetwork(fmt.Sprintf("blkd%d", os.Getpid()), len(names))
	if err != nil {
		return nil, err
	}
	defer network.Close()
	cfg := clustertest.Config{Blkd: o.blkd, Dir: o.dir, Names: names, Network: network}
	if o.mutant != "" {
		cfg.Env = []string{mutant.Variable + "=" + o.mutant}
	}
	cluster, err := clustertest.New(cfg)
	if err != nil {
		return nil, err
	}
	defer cluster.Close()
	if err := cluster.Start(ctx); err != nil {
		return nil, err
	}
	l := startLoad(ctx, cluster.Conns(), o.clients, o.seed)
	f := faults{cluster, network, rand.New(rand.NewPCG(o.seed, 0))}
	for end := time.Now().Add(o.duration); time.Now().Before(end) && err == nil; {
		err = f.next(ctx)
	}
	return l.stop(), errors.Join(err, l.err)
}

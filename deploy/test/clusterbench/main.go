// Command clusterbench measures the metadata quorum of blkd beside a cluster of three
// etcd members: how long one durable change takes, and how long it takes after the
// leader was killed until the next one succeeds. Both have their default settings and
// lie on the same file system; they take turns, and each round begins with the other.
//
// A change is, in etcd, a put of 256 bytes; in blkd, that a node which is known and
// not there is drained, or is not: one record is replaced, and one event told. Both are
// asked by gRPC over TCP on the loopback, in plain text.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

type options struct {
	blkd, etcd, dir string
	rounds, kills   int
	time            time.Duration
}

func main() {
	// The nodes are to die with the thread that started them, so that thread must stay.
	runtime.LockOSThread()
	var o options
	flag.StringVar(&o.blkd, "blkd", "", "blkd `program`")
	flag.StringVar(&o.etcd, "etcd", "etcd", "etcd `program`")
	flag.StringVar(&o.dir, "dir", "", "`directory` for the data of both, on the file system to measure")
	flag.IntVar(&o.rounds, "rounds", 7, "`number` of rounds")
	flag.IntVar(&o.kills, "kills", 3, "`number` of kills of each leader in a round")
	flag.DurationVar(&o.time, "time", 2*time.Second, "`time` for each measurement")
	flag.Parse()
	if o.blkd == "" || o.dir == "" || flag.NArg() > 0 || o.rounds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "clusterbench:", err)
		os.Exit(1)
	}
}

// member is one process of a side, as its clients use it.
type member interface {
	// change makes one durable change; i is another one each time.
	change(ctx context.Context, i int) error
	kill()
	start() error
}

// side is a cluster that is measured.
type side interface {
	members() []member
	// leader is the index of the member that leads.
	leader(ctx context.Context) (int, error)
	// settle waits until every member works.
	settle(ctx context.Context) error
	close()
}

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp(o.dir, "clusterbench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ours, err := startBlkd(ctx, o.blkd, filepath.Join(dir, "blkd"))
	if err != nil {
		return err
	}
	defer ours.close()
	theirs, err := startEtcd(ctx, o.etcd, filepath.Join(dir, "etcd"))
	if err != nil {
		return err
	}
	defer theirs.close()
	sides := [2]side{ours, theirs}
	results := newResults()
	for round := range o.rounds {
		for _, s := range scenarios {
			for turn := range 2 {
				i := (round + turn) % 2
				times, err := s.measure(ctx, sides[i], o.time)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", names[i], s.name, err)
				}
				results.add(s.name, i, times)
			}
		}
		for turn := range 2 {
			i := (round + turn) % 2
			times, err := recoveries(ctx, sides[i], o.kills)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", names[i], recovery, err)
			}
			results.add(recovery, i, times)
		}
		fmt.Fprintf(os.Stderr, "round %d of %d is done\n", round+1, o.rounds)
	}
	results.print(os.Stdout)
	return nil
}

// Command failoverpartition cuts networks under a mirrored volume, and checks that what
// its clients were told is strictly linearizable: clients of every node, with several
// connections each, read the same few blocks and write some of them, while the primary is cut off
// alone or with others, both ways and one way, from members and from the metadata
// quorum, and by a link that flaps. Package history judges every block, porcupine some.
//
// The nodes run in network namespaces that the program makes itself and removes; it
// needs root and iproute2. With -mutant it plants that bug in every node, which a build
// with the tag mutants can, and succeeds if the check finds a violation.
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
	"strings"
	"syscall"
	"time"

	"blkd/internal/mutant"
)

type options struct {
	blkd, dir string
	hold      time.Duration // how long a cut lasts
	flaps     time.Duration // how long the link flaps
	judge     time.Duration // service must go on within it after each cut; 0: it is only told
	shared    bool          // all clients write all blocks
	blocks    int64         // that the clients use
	mutant    string
	cuts      []cut
}

func main() {
	// The nodes are to die with the thread that started them, so that thread must stay.
	runtime.LockOSThread()
	var o options
	var names []string
	for _, c := range cuts {
		names = append(names, c.name)
	}
	flag.StringVar(&o.blkd, "blkd", "", "blkd `program` to test")
	flag.StringVar(&o.dir, "dir", "", "empty `directory` for the nodes (default: a temporary one)")
	flag.DurationVar(&o.hold, "hold", 5*time.Second, "`time` for which a network is cut")
	flag.DurationVar(&o.flaps, "flaps", time.Minute, "`time` for which a link flaps, once a second")
	flag.DurationVar(&o.judge, "judge", 0, "fail if service takes longer than this `time` after a cut; 0: it is only told")
	flag.BoolVar(&o.shared, "shared", false, "have all clients write all blocks, at the same time too")
	flag.Int64Var(&o.blocks, "blocks", 512, "use so many `blocks`; few of them make it likely that clients meet")
	flag.StringVar(&o.mutant, "mutant", "", "`name` of a bug to plant, which has to be found")
	only := flag.String("only", strings.Join(names, ","), "`cuts` to make")
	flag.Parse()
	for _, name := range strings.Split(*only, ",") {
		i := slices.Index(names, name)
		if i < 0 || o.blkd == "" || flag.NArg() > 0 {
			flag.Usage()
			os.Exit(2)
		}
		o.cuts = append(o.cuts, cuts[i])
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "failoverpartition:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o *options) (err error) {
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "failoverpartition-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.dir)
	}
	r, err := newRig(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	for _, c := range o.cuts {
		if err := r.make(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	violation, err := r.verdict(ctx)
	switch {
	case err != nil:
		return err
	case o.mutant == "":
		return violation
	case violation == nil:
		return errors.New("the planted bug " + o.mutant + " was not found")
	}
	fmt.Printf("the planted bug %s was found: %v\n", o.mutant, violation)
	return nil
}

// planted is the environment of a node with a bug.
func (o *options) planted() []string {
	if o.mutant == "" {
		return nil
	}
	return []string{mutant.Variable + "=" + o.mutant}
}

// Command failover kills, freezes and relieves the primaries of mirrored volumes
// under load, with real processes on loopback, and measures what a client notices
// that is connected to another node.
//
// The client keeps 16 reads and writes in flight. Every block tells its version, so
// that a lost, torn or old one is found at once or at the end. No scenario passes
// with an error that the client saw, or with an acknowledged write missing.
//
//	kill      kill -9 of the primary; every second time it leads the metadata quorum too
//	promote   blkctl promote, while the primary works
//	freeze    kill -STOP of the primary, and kill -CONT long after another took over
//	members   kill -9 of each member in turn; the members are equal in the end, and one
//	          that was away fetches only what has changed
//	slow      one member is a hundred times slower, and writes take as long as beside it without
//	quorum    so many voters are killed that the metadata quorum is lost; a volume on others goes on
//	power     kill -9 of all nodes at once
//	site      all members lose their power, for all that they know: the client is refused
//	fio       fio with verify as the client, while primaries are killed
//	losses    kill -9 of as many members at once as may be lost, the primary or not
//	rebuild   of an erasure code: the rate at which a shard is rebuilt, and the space that shards take
//
// With -layout ec:K+M, kill, promote, freeze, fio, losses and rebuild are of an erasure code; the
// other scenarios are of mirrors.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"blkd/metadata/metapb"
)

// options are how much is done.
type options struct {
	blkd, dir         string
	kills, promotions int
	rounds            int           // of members, power and fio
	members           time.Duration // how long they are killed at the least
	frozen            time.Duration
	away              time.Duration // how long a member is, whose return is measured
	slow              time.Duration // how long a member is slow
	data, parity      int           // shards of the erasure code; 0: it is a mirror
	pause             time.Duration // of each of the client's 16 places, after an answer
}

// scenarios in the order in which they run.
var scenarios = []struct {
	name string
	run  func(context.Context, *options) error
}{
	{"kill", kill}, {"promote", promote}, {"freeze", freeze}, {"members", members}, {"slow", slowMember}, {"quorum", quorum}, {"power", power}, {"site", site}, {"fio", fio}, {"losses", losses}, {"rebuild", rebuild},
}

// width is the number of members of the volume.
func (o *options) width() int {
	if o.data > 0 {
		return o.data + o.parity
	}
	return 3
}

// may is how many of them may be lost at once.
func (o *options) may() int { return max(o.parity, 1) }

// layoutOf is the layout of a volume with so many members.
func (o *options) layoutOf(members int) *metapb.Layout {
	if o.data > 0 {
		return &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_EC, Data: int32(o.data), Parity: int32(o.parity)}
	}
	return &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: int32(members)}
}

func main() {
	// The nodes are to die with the thread that started them, so that thread must stay.
	runtime.LockOSThread()
	var o options
	var names []string
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	flag.StringVar(&o.blkd, "blkd", "", "blkd `program` to test")
	flag.StringVar(&o.dir, "dir", "", "`directory` that keeps what the nodes write and log (default: a temporary one, which is removed)")
	flag.IntVar(&o.kills, "kills", 50, "`number` of primaries that are killed, for those that lead the quorum too and as many for others")
	flag.IntVar(&o.promotions, "promotions", 100, "`number` of promotions")
	flag.IntVar(&o.rounds, "rounds", 3, "how `often` each member is killed, and all at once")
	flag.DurationVar(&o.members, "members", 0, "`time` for which members are killed in turn, if that takes longer than rounds")
	flag.DurationVar(&o.frozen, "frozen", 30*time.Second, "`time` for which a primary stands still")
	flag.DurationVar(&o.away, "away", 10*time.Second, "`time` for which a member is away")
	flag.DurationVar(&o.slow, "slow", 20*time.Second, "`time` for which a member is slow")
	flag.DurationVar(&o.pause, "pause", time.Millisecond, "`time` that the client lets pass after each answer, in each of its 16 places")
	flag.Func("layout", "`ec:K+M`, an erasure code (default: a mirror of three)", func(text string) error {
		_, err := fmt.Sscanf(text, "ec:%d+%d", &o.data, &o.parity)
		return err
	})
	only := flag.String("only", strings.Join(names, ","), "`scenarios` to run")
	flag.Parse()
	chosen := strings.Split(*only, ",")
	for _, name := range chosen {
		if !slices.Contains(names, name) || o.blkd == "" || flag.NArg() > 0 || min(o.kills, o.promotions, o.rounds) < 1 {
			flag.Usage()
			os.Exit(2)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for _, s := range scenarios {
		if !slices.Contains(chosen, s.name) {
			continue
		}
		if err := s.run(ctx, &o); err != nil {
			fmt.Fprintf(os.Stderr, "failover: %s: %v\n", s.name, err)
			os.Exit(1)
		}
	}
}

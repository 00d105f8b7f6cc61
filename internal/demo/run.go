package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/units"
	"blkd/internal/verifier"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

const (
	volume      = "demo"
	volumeBytes = 64 << 20
	loadBlocks  = 8192 // of the load, from the first block on
	staleFirst  = loadBlocks
	staleCount  = 16 // writes, and as many reads
	depth       = 16
	calm        = 700 * time.Millisecond // of load before each event
)

// errWrong says that the demonstration failed as such: the output has told how.
var errWrong = errors.New("something acknowledged was lost, or something was accepted that should not have been")

// story is one run of the demonstration.
type story struct {
	*cluster
	out    io.Writer
	layout *metapb.Layout
	client *node       // the load goes through it; nothing is done to it
	dev    *nbd.Client // connected to it
	late   *nbd.Client // connected to the primary that is frozen
	load   *verifier.Load

	refused verifier.Refused
}

// Run shows on out how a volume outlives a killed, a relieved and a frozen primary.
// The volume has a layout; nil is a mirror of three. Everything that it started is gone
// when it returns. It fails if anything that was acknowledged is lost, or was accepted
// from an old generation.
func Run(ctx context.Context, blkd string, layout *metapb.Layout, out io.Writer) error {
	dir, err := os.MkdirTemp("", "blkd-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	nodes := 3 // the acts need as many
	if layout != nil {
		nodes = max(nodes, int(layout.Copies), int(layout.Data+layout.Parity))
	}
	c, err := newCluster(blkd, dir, nodes)
	if err != nil {
		return err
	}
	if layout == nil {
		layout = c.mirrored()
	}
	s := &story{cluster: c, out: out, layout: layout}
	err = s.tell(ctx)
	c.close() // before the clients, which might wait for a volume that does not answer
	if s.load != nil {
		s.load.Stop() //nolint:errcheck // everything was checked, or the first error counts
	}
	for _, dev := range []*nbd.Client{s.dev, s.late} {
		if dev != nil {
			dev.Close() //nolint:errcheck // likewise
		}
	}
	return cmp.Or(ctx.Err(), err)
}

func (s *story) tell(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	for _, act := range []func(context.Context) error{s.crash, s.relieve, s.freeze} {
		if err := act(ctx); err != nil {
			return errors.Join(err, s.load.Err())
		}
	}
	return s.verdict(ctx)
}

// begin starts the cluster, the volume and the load.
func (s *story) begin(ctx context.Context) error {
	began := time.Now()
	if err := s.startAll(ctx); err != nil {
		return err
	}
	if err := s.createVolume(ctx, volume, volumeBytes, s.layout); err != nil {
		return said(err)
	}
	primary, err := s.primary(ctx, s.nodes[0])
	if err != nil {
		return err
	}
	s.client = s.other(primary.name)
	if s.dev, err = s.client.dial(ctx, volume); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%d blkd processes on loopback, started in %s; volume %s: %s, %s, primary %s\n",
		len(s.nodes), roughly(time.Since(began)), volume, units.Size(volumeBytes), metapb.LayoutWord(s.layout), primary.name)
	fmt.Fprintf(s.out, "a client of %s keeps %d reads and writes in flight and checks every block that it reads\n", s.client.name, depth)
	s.load = verifier.Start(verifier.Config{Device: s.dev, Blocks: loadBlocks, Depth: depth, ReadPercent: 25,
		FlushEvery: 100 * time.Millisecond, Pause: 2 * time.Millisecond})
	return nil
}

// other is the last node that has none of some names.
func (s *story) other(names ...string) *node {
	var found *node
	for _, n := range s.nodes {
		taken := false
		for _, name := range names {
			taken = taken || n.name == name
		}
		if !taken {
			found = n
		}
	}
	return found
}

// victim finds the primary, lets the load run for a while, and marks the time.
func (s *story) victim(ctx context.Context) (*node, *timeline, error) {
	p, err := s.primary(ctx, s.client)
	if err != nil {
		return nil, nil, err
	}
	if err := pause(ctx, calm); err != nil {
		return nil, nil, err
	}
	seq, err := s.lastEvent(ctx, s.client)
	if err != nil {
		return nil, nil, err
	}
	s.load.Mark()
	return p, &timeline{out: s.out, after: seq, began: time.Now()}, s.load.Err()
}

// crash kills the primary.
func (s *story) crash(ctx context.Context) error {
	p, t, err := s.victim(ctx)
	if err != nil {
		return err
	}
	t.title("kill -9 of the primary, %s", p.name)
	t.began = time.Now()
	p.kill()
	if err := s.failover(ctx, t, p); err != nil {
		return err
	}
	back := time.Now()
	if err := s.start(p); err != nil {
		return err
	}
	if err := s.level(ctx, p); err != nil {
		return err
	}
	t.line(time.Now(), "%s, started again %s ago, holds everything that it missed", p.name, roughly(time.Since(back)))
	return nil
}

// failover waits until writes are acknowledged again that were sent after the
// primary had gone, and tells what happened.
func (s *story) failover(ctx context.Context, t *timeline, old *node) error {
	gone := time.Now()
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.load.Acknowledged(wait, gone); err != nil {
		return err
	}
	gap := s.load.Longest()
	if err := s.explain(ctx, t, old, gap.To); err != nil {
		return err
	}
	t.line(gap.To, "the first write after it; the client waited %s and saw no error", roughly(gap.Length()))
	return nil
}

// relieve promotes another node while the primary works.
func (s *story) relieve(ctx context.Context) error {
	p, t, err := s.victim(ctx)
	if err != nil {
		return err
	}
	to := s.other(p.name, s.client.name)
	t.title("blkctl promote %s --to %s", volume, to.name)
	t.began = time.Now()
	answer, err := s.client.volumes().Promote(ctx, &api.PromoteRequest{Name: volume, To: to.name, Request: request("a demonstration")})
	if err != nil {
		return said(err)
	}
	done := time.Now()
	if err := s.load.Acknowledged(ctx, done); err != nil { // so that a gap at the end is over
		return err
	}
	if answer.Kind != metapb.PromotionKind_PROMOTION_KIND_HANDOVER || answer.To != to.name {
		return fmt.Errorf("it was to be a hand-over to %s and became a %s to %s", to.name, api.PromotionWord(answer.Kind), answer.To)
	}
	if err := s.explain(ctx, t, nil, done); err != nil {
		return err
	}
	t.line(done, "the promotion is certified; the longest that no write was acknowledged is %s", roughly(s.load.Longest().Length()))
	return nil
}

// freeze stops the primary's process, lets another one take over, and wakes it.
func (s *story) freeze(ctx context.Context) error {
	p, t, err := s.victim(ctx)
	if err != nil {
		return err
	}
	if s.late, err = p.dial(ctx, volume); err != nil {
		return err
	}
	stale, err := verifier.NewStale(s.late, staleFirst, staleCount)
	if err != nil {
		return err
	}
	t.title("kill -STOP of the primary, %s", p.name)
	t.began = time.Now()
	if err := p.stop(); err != nil {
		return err
	}
	stale.Send()
	t.line(time.Now(), "a client of %s sends it %d writes and %d reads; it does not move", p.name, staleCount, staleCount)
	if err := s.failover(ctx, t, p); err != nil {
		return err
	}
	if err := stale.Replace(s.dev); err != nil {
		return err
	}
	return s.wake(ctx, t, p, stale)
}

// wake lets a frozen primary go on, which does not know that it is one no more.
func (s *story) wake(ctx context.Context, t *timeline, p *node, stale *verifier.Stale) error {
	if err := pause(ctx, calm); err != nil {
		return err
	}
	t.line(time.Now(), "kill -CONT %s", p.name)
	if err := p.resume(); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var err error
	if s.refused, err = stale.Answers(wait, s.dev); err != nil {
		return err
	}
	t.line(time.Now(), "of what it found waiting it granted %d of %d writes and %d of %d reads",
		s.refused.Accepted, s.refused.Writes, s.refused.Served, s.refused.Reads)
	if err := s.level(ctx, p); err != nil {
		return err
	}
	t.line(time.Now(), "%s has joined again by itself, and holds everything that it missed", p.name)
	return nil
}

// verdict reads everything back, through every node.
func (s *story) verdict(ctx context.Context) error {
	if err := pause(ctx, calm); err != nil {
		return err
	}
	if err := s.load.Stop(); err != nil {
		return err
	}
	var worst verifier.Checked
	for _, n := range s.nodes {
		c, err := s.check(ctx, n)
		if err != nil {
			return fmt.Errorf("reading back through %s: %w", n.name, err)
		}
		worst.Blocks = c.Blocks
		worst.Lost, worst.Wrong = max(worst.Lost, c.Lost), max(worst.Wrong, c.Wrong)
		worst.Example = errors.Join(worst.Example, c.Example)
	}
	generations, err := s.agree(ctx)
	if err != nil {
		return err
	}
	n := s.load.Counts()
	old := s.refused.Accepted + s.refused.Served
	fmt.Fprintf(s.out, "\n%s writes and %s reads, no errors; %d blocks read back through each node; %d generations, each served by one node\n",
		grouped(n.Writes), grouped(n.Reads), worst.Blocks, generations)
	fmt.Fprintf(s.out, "acknowledged writes lost: %d, writes accepted from an old generation: %d (checked)\n", worst.Lost+worst.Wrong, s.refused.Accepted)
	if worst.Lost+worst.Wrong > 0 || old > 0 {
		return errors.Join(errWrong, worst.Example)
	}
	return nil
}

func (s *story) check(ctx context.Context, n *node) (verifier.Checked, error) {
	dev, err := n.dial(ctx, volume)
	if err != nil {
		return verifier.Checked{}, err
	}
	defer dev.Close() //nolint:errcheck // it was only read
	return s.load.Check(blockdev.Device(dev))
}

// pause lets time pass, unless the program is to end.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

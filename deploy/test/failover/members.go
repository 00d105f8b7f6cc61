package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"blkd/blockdev"
	"blkd/deploy/test/clustertest"
	"blkd/internal/env"
	"blkd/metadata/metapb"
)

// members kills each member in turn, as often as is asked for or for a time, and
// compares them in the end.
func members(ctx context.Context, o *options) error {
	r, err := oneEach(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	r.startLoad(o)
	watched := r.watchCopies(ctx)
	var took []time.Duration
	for began := time.Now(); len(took) < len(r.copies)*o.rounds || time.Since(began) < o.members; {
		again, err := r.bounce(ctx, r.copies[len(took)%len(r.copies)], 300*time.Millisecond)
		if err != nil {
			return err
		}
		took = append(took, again)
	}
	fewest, err := watched()
	if err != nil {
		return err
	}
	slices.Sort(took)
	n := r.load.Counts()
	fmt.Printf("kill -9 of each of 3 members in turn, %d times in all, under %d writes and %d reads: never fewer than %d copies up to date; up to date again after: median %v, max %v\n",
		len(took), n.Writes, n.Reads, fewest, took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	if err := r.finish(ctx); err != nil {
		return err
	}
	// Once what has changed fits in the log, and once only its end does.
	for _, times := range []int{1, 12} {
		if err := r.measureReturn(ctx, o.away, times); err != nil {
			return err
		}
	}
	return r.compare(ctx)
}

// watchCopies looks at the record of the volume until the function that it returns is
// called, which tells how many copies that count it has had at the least. Fewer than
// min-copies are an error.
func (r *rig) watchCopies(ctx context.Context) (stop func() (int, error)) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	fewest, least := len(r.copies), 0
	go func() {
		defer close(done)
		for sleep(ctx, 20*time.Millisecond) == nil {
			v, err := r.volume.Show(ctx)
			if err != nil {
				continue // the node has no quorum for a moment
			}
			n := 0
			for _, m := range v.Record.GetMembers() {
				if m.State == metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE && !m.Amnesiac {
					n++
				}
			}
			fewest, least = min(fewest, n), int(v.Record.GetMinCopies())
		}
	}()
	return func() (int, error) {
		cancel()
		<-done
		if fewest < least || least == 0 {
			return fewest, fmt.Errorf("%d copies counted, min-copies is %d", fewest, least)
		}
		return fewest, nil
	}
}

// bounce kills a member and starts it again a while later, and tells how long it took
// from then until it was up to date.
func (r *rig) bounce(ctx context.Context, n *clustertest.Node, away time.Duration) (time.Duration, error) {
	if err := calm(ctx); err != nil {
		return 0, err
	}
	n.Kill()
	if _, err := r.resumed(ctx); err != nil {
		return 0, err
	}
	if err := sleep(ctx, away); err != nil {
		return 0, err
	}
	back := time.Now()
	if err := n.Start(); err != nil {
		return 0, err
	}
	if err := r.Settle(ctx); err != nil {
		return 0, err
	}
	err := r.volume.Level(ctx)
	return time.Since(back), err
}

// changedBytes is the part of the volume that is written while a member is away.
const changedBytes = 8 << 20

// measureReturn lets a member be away while a small part of the volume is written, a
// number of times, and tells how much the member writes when it is back.
func (r *rig) measureReturn(ctx context.Context, away time.Duration, times int) error {
	if err := r.write(ctx, size); err != nil {
		return err
	}
	if err := r.still(ctx); err != nil {
		return err
	}
	p, err := r.volume.Primary(ctx)
	if err != nil {
		return err
	}
	n := r.copies[0]
	if n == p {
		n = r.copies[1]
	}
	n.Kill()
	for range times {
		if err := r.write(ctx, changedBytes); err != nil {
			return err
		}
	}
	if err := errors.Join(sleep(ctx, away), n.Start()); err != nil {
		return err
	}
	if err := r.Settle(ctx); err != nil {
		return err
	}
	if err := r.still(ctx); err != nil {
		return err
	}
	written, err := bytesWritten(n)
	if err != nil {
		return err
	}
	fmt.Printf("a member is away for %v, meanwhile %d of %d MiB are written %d times: back again, it wrote %d MiB until it was up to date\n",
		away, int64(changedBytes)>>20, int64(size)>>20, times, written>>20)
	if written > size/2 {
		return errors.New("it fetched what had not changed")
	}
	return nil
}

// write writes the beginning of the volume.
func (r *rig) write(ctx context.Context, n int64) error {
	p := make([]byte, 1<<20)
	rand.Read(p) // never fails
	for off := int64(0); off < n && ctx.Err() == nil; off += int64(len(p)) {
		if err := blockdev.WriteAt(r.dev, p, off, 0); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// bytesWritten is what a process has written since it began, to files and sockets.
func bytesWritten(n *clustertest.Node) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", n.Pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var bytes int64
		if _, err := fmt.Sscanf(line, "wchar: %d", &bytes); err == nil {
			return bytes, nil
		}
	}
	return 0, fmt.Errorf("/proc/%d/io does not tell what was written", n.Pid())
}

// compare stops all nodes and compares the members' stores.
func (r *rig) compare(ctx context.Context) error {
	if err := r.still(ctx); err != nil {
		return err
	}
	for _, n := range r.Nodes {
		if n != r.client && n.Runs() {
			if err := n.Stop(); err != nil {
				return err
			}
		}
	}
	var first []uint64
	for _, n := range r.copies {
		sums, err := digests(r.data(n))
		if err != nil {
			return err
		}
		if first == nil {
			first = sums
		}
		for i := range sums {
			if sums[i] != first[i] {
				return fmt.Errorf("%s and %s differ between %d and %d MiB", r.copies[0].Name, n.Name, i, i+1)
			}
		}
	}
	fmt.Printf("  read back through every node; the stores of %d members are equal by digest\n", len(r.copies))
	return nil
}

// digests sums up each MiB of the volume in a node's data directory.
func digests(data string) (sums []uint64, err error) {
	dirs, err := filepath.Glob(filepath.Join(data, "volumes", volume+".*", "store"))
	if err != nil || len(dirs) != 1 {
		return nil, fmt.Errorf("%d stores of volume %s are in %s: %w", len(dirs), volume, data, err)
	}
	s, err := blockdev.OpenStore(blockdev.StoreOptions{FS: env.OS{}, Dir: dirs[0], Volume: volume, Replica: true})
	if err != nil {
		return nil, err
	}
	defer s.Close() //nolint:errcheck // it was only read
	// All that clients have written was acknowledged, so what is in the log counts.
	_, last := s.Last()
	if err := s.Commit(last); err != nil {
		return nil, err
	}
	for off := int64(0); off < size; off += 1 << 20 {
		sum, err := s.Digest(off, 1<<20)
		if err != nil {
			return nil, err
		}
		sums = append(sums, sum)
	}
	return sums, nil
}

package replicas

import (
	"context"
	"errors"
	"slices"
	"time"

	"blkd/blockdev"
	"blkd/replication"
)

const (
	compareStep = 256 << 10 // bytes that are compared at once
	holeStep    = 64 << 20  // where the primary has no data
	busyTries   = 20        // of a range that is written to all the time
	busyPause   = 50 * time.Millisecond
	// mostDifferences is how many runs of blocks a comparison lists.
	mostDifferences = 1000
)

// Comparison is a comparison of a volume's replicas with the primary's, block by
// block, while clients use it. The shards of an erasure code are compared by computing
// their parity anew; offsets and lengths are then those of one shard.
type Comparison struct {
	Only   string // compare just this node's; empty: all that count
	Repair bool   // write what differs again, from the primary
	// BytesPerSecond bounds how much is read at each replica; 0: no bound.
	BytesPerSecond int64
	Gentle         bool // it gives way to requests of clients
	// Progress is told how far it is, in bytes of the volume. Nil: nobody is.
	Progress func(checked, total int64)
}

// Difference is a run of blocks in which a replica is not like the primary's.
type Difference struct {
	Node       string
	Off, Len   int64 // bytes
	Unreadable bool  // it failed its checksum, rather than being different
}

// Findings is what a comparison has found.
type Findings struct {
	Nodes       []string // that were compared, the primary first
	Checked     int64    // bytes of the volume
	Different   int64    // bytes, of all replicas together
	Repaired    int64
	Skipped     int64        // bytes that were written to all the time, or whose replica was silent
	Differences []Difference // the first of them
}

// comparer is one comparison under way.
type comparer struct {
	Comparison
	r     *replica
	found Findings
}

// Compare compares the replicas of a volume that this node is primary of. The error
// says why it did not come to the end; replication.ErrMoved: this node is not primary.
func (m *Manager) Compare(ctx context.Context, volume string, x Comparison) (*Findings, error) {
	r, err := m.served(volume)
	if err != nil {
		return nil, err
	}
	c := &comparer{Comparison: x, r: r, found: Findings{Nodes: []string{m.cfg.Node}}}
	compared := r.store
	if r.coded != nil {
		compared = r.shard
	}
	total := (compared.Size() + blockdev.BlockSize - 1) / blockdev.BlockSize * blockdev.BlockSize
	for at := int64(0); at < total; {
		step, err := r.nextStep(at, total)
		if err != nil {
			return nil, err
		}
		if step.Read && x.Gentle {
			if err := r.giveWay(ctx); err != nil {
				return nil, err
			}
		}
		if err := c.compare(ctx, step); err != nil {
			return nil, err
		}
		at += step.Len
		c.found.Checked = at
		if x.Progress != nil {
			x.Progress(at, total)
		}
		if step.Read && x.BytesPerSecond > 0 {
			if err := wait(ctx, time.Duration(step.Len*int64(time.Second)/x.BytesPerSecond)); err != nil {
				return nil, err
			}
		}
	}
	if c.found.Skipped == 0 {
		r.agreed(&c.found)
	}
	return &c.found, nil
}

// nextStep is the range at off that is compared next. Of an erasure code, what is a hole
// in one shard may be data in the others.
func (r *replica) nextStep(off, total int64) (replication.Comparison, error) {
	step := replication.Comparison{Off: off, Len: min(total-off, compareStep), Read: true}
	if r.coded != nil {
		return step, nil
	}
	data, n, err := r.store.NextData(off)
	switch {
	case n == 0:
		step.Len, step.Read = min(total-off, holeStep), false
	case data > off:
		step.Len, step.Read = min(data-off, holeStep), false
	default:
		step.Len = min(n, compareStep)
	}
	return step, err
}

// compare compares a range, and what differs again in smaller parts, down to blocks.
func (c *comparer) compare(ctx context.Context, x replication.Comparison) error {
	x.Rewrite = c.Repair && x.Len == blockdev.BlockSize
	results, err := c.try(ctx, x)
	if errors.Is(err, replication.ErrBusy) {
		c.found.Skipped += x.Len
		return nil
	}
	if err != nil {
		return err
	}
	differs := false
	for _, found := range results {
		node := string(found.Node)
		switch {
		case c.Only != "" && node != c.Only:
		case found.Silent:
			c.found.Skipped += x.Len
		default:
			if !slices.Contains(c.found.Nodes, node) {
				c.found.Nodes = append(c.found.Nodes, node)
			}
			differs = differs || found.Differs || found.Unreadable
			if (found.Differs || found.Unreadable) && x.Len == blockdev.BlockSize {
				c.differs(Difference{Node: node, Off: x.Off, Len: x.Len, Unreadable: found.Unreadable})
			}
		}
	}
	if !differs || x.Len == blockdev.BlockSize {
		return nil
	}
	part := int64(blockdev.BlockSize)
	if x.Len > compareStep {
		part = compareStep
	}
	for at := x.Off; at < x.Off+x.Len; at += part {
		smaller := replication.Comparison{Off: at, Len: min(part, x.Off+x.Len-at), Read: x.Read}
		if err := c.compare(ctx, smaller); err != nil {
			return err
		}
	}
	return nil
}

// differs notes a block that is not like the primary's.
func (c *comparer) differs(d Difference) {
	if c.Repair {
		c.found.Repaired += d.Len
	}
	c.r.log.Error("a replica is not like the primary's", "node", d.Node, "offset", d.Off, "unreadable", d.Unreadable, "repaired", c.Repair)
	c.found.add(d)
}

// add notes a difference, as a part of an earlier one where it continues that.
func (f *Findings) add(d Difference) {
	f.Different += d.Len
	list := f.Differences
	for i := len(list) - 1; i >= 0; i-- {
		if last := &list[i]; last.Node == d.Node && last.Unreadable == d.Unreadable {
			if last.Off+last.Len == d.Off {
				last.Len += d.Len
				return
			}
			break
		}
	}
	if len(list) < mostDifferences {
		f.Differences = append(list, d)
	}
}

// try compares a range, and again while it is busy.
func (c *comparer) try(ctx context.Context, x replication.Comparison) (results []replication.Compared, err error) {
	for range busyTries {
		once := x
		results, err = c.r.volume.Compare(ctx, &once)
		if !errors.Is(err, replication.ErrBusy) {
			return results, err
		}
		if err := wait(ctx, busyPause); err != nil {
			return nil, err
		}
	}
	return nil, err
}

// wait is a pause that ends with ctx.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

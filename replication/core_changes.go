package replication

import (
	"fmt"
	"slices"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// A shard that was away is brought level by what batches have changed since. Which rows
// these are, k others know: of a row in which none of k shards has changed, none has.
// Fewer do not, not even the parity alone: that of equal blocks is zeros, and stays a
// hole when they change. Each member remembers at which entry of its shard
// a batch became current since it was opened; so a batch that was lost meanwhile is
// known to nobody, and a shard that has it is rebuilt as a whole.

// mostPoints bounds what a member remembers of batches.
const mostPoints = 1 << 12

// remember notes where the current batch ends in the shard's log. It holds mu.
func (d *Coded) remember(seq Seq) {
	if len(d.points) == mostPoints {
		d.points = d.points[1:]
	}
	d.points = append(d.points, part{d.current, seq})
}

// base is the batch of which the shard's content is good, whatever else it may hold; 0:
// none.
func (d *Coded) base() (b batchID, seq Seq) {
	gen, seq, ok := d.shard.Base()
	if !ok {
		return 0, 0
	}
	return batchID(gen), seq
}

// keepBase is where a RESET says up to which entry content is kept: the shard's is, as
// of the batch that it had, and what has changed since is copied over it.
const keepBase Seq = 2

// rejoin is a Reset that keeps the shard as of a batch. It is false if it has another.
func (d *Coded) rejoin(gen Generation, seq Seq, base batchID) (ok bool, err error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	b, at := d.base()
	if b != base || b == 0 {
		return false, nil
	}
	// The shard first: it is what makes the member incomplete.
	at = max(at, d.shard.Committed()) + 1
	if err := d.shard.Rejoin(Generation(d.begin), at); err != nil {
		return false, err
	}
	d.forget()
	d.remember(at)
	return true, d.Staging.Reset(gen, seq)
}

// changes maps the blocks of a range of the shard that batches after since may have
// changed, and tells which batch the shard has now.
func (d *Coded) changes(since batchID, off, n int64) (blockMap, batchID, error) {
	if err := d.settle(); err != nil {
		return nil, 0, err
	}
	m := make(blockMap, mapBytes(n))
	d.mu.Lock()
	i := slices.IndexFunc(d.points, func(p part) bool { return p.batch == since || mutant.On(mutant.ReplicaChangesAny) })
	var from Seq
	if i >= 0 {
		from = d.points[i].end
	}
	batch := d.current
	d.mu.Unlock()
	if i < 0 {
		return nil, 0, fmt.Errorf("what has changed since batch %x: %w", uint64(since), blockdev.ErrTrimmed)
	}
	for at := off; at < off+n; {
		start, length, err := d.shard.NextChange(from, at)
		if err != nil {
			return nil, 0, err
		}
		if length == 0 {
			break
		}
		for at = start; at < min(start+length, off+n); at += blockSize {
			m.set((at - off) / blockSize)
		}
		at = start + length
	}
	return m, batch, nil
}

// changed is which blocks of a shard are copied: what has changed, or, of one that is
// copied as a whole, what is data.
type changed struct {
	since batchID // 0: as a whole
	off   int64   // of the shard: what m is of
	m     blockMap
	asked bool
}

// nextChanged moves the cursor of a join to the next blocks that are to be copied, and
// tells how many bytes those are, 0 at the end. It is not known yet if ok is false.
func (c *Core) nextChanged(j *join) (n int64, ok bool) {
	size := c.coded.shardSize()
	for x := &j.changed; j.cursor < size; {
		i := (j.cursor - x.off) / blockSize
		if x.m == nil || i >= int64(len(x.m))*8 || j.cursor < x.off {
			c.askChanges(j, min(maxMap, size-j.cursor))
			return 0, false
		}
		if !x.m.has(i) {
			j.cursor += blockSize
			continue
		}
		for n < min(c.lim.CopyBytes, size-j.cursor) && i < int64(len(x.m))*8 && x.m.has(i) {
			n += blockSize
			i++
		}
		return n, true
	}
	return 0, true
}

// askChanges asks what is to be copied from the cursor of a join on. What has changed
// since, the other shards say together; what is data, the shard itself if there is a
// member that it is moved from, else k others. Batches that are decided later reach the
// joiner by themselves.
func (c *Core) askChanges(j *join, n int64) {
	if j.changed.asked {
		return
	}
	j.changed.asked = true
	shard := c.p.base.member(j.node).Shard
	f := &fetch{off: j.cursor, n: n, need: 1 << shard, mapped: true, since: j.changed.since}
	if f.since != 0 {
		f.need, f.bare = (uint32(1)<<c.width()-1)&^f.need, true
	} else if c.shardOf(shard) == nil {
		f.except = f.need
	}
	f.done = func(f *fetch) {
		if c.p.join != j {
			return
		}
		j.changed.asked = false
		m := blockMap(f.got[shard])
		if f.since != 0 {
			m = c.changedRows(f)
		}
		switch {
		case m == nil && f.since == 0:
			return // it is asked again
		case m == nil:
			if p := c.peer(j.node); p != nil {
				p.whole = true
			}
			c.endJoin("nobody knows what has changed since it was here")
			c.p.joins.succeeded() // it is rebuilt as a whole, at once
			return
		}
		j.changed.off, j.changed.m = f.off, m
		c.copyOn()
	}
	c.fetchShards(f)
}

// changedRows is which rows have changed, by what shards have said; nil: too few know.
func (c *Core) changedRows(f *fetch) blockMap {
	var all [][]byte
	for _, m := range f.got {
		if m != nil {
			all = append(all, m)
		}
	}
	if mutant.On(mutant.ReplicaChangesFew) && len(all) > 0 {
		return all[0]
	}
	if len(all) < c.coded.code.K() {
		return nil
	}
	m := make(blockMap, mapBytes(f.n))
	mergeMaps(m, all)
	return m
}

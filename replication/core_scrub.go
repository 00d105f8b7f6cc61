package replication

import (
	"bytes"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"blkd/internal/mutant"
)

// A bad block of a shard is mended by a batch like any other: it has the row of the
// block besides what the log has, and the shard's block of it, made anew from the
// others, is what that shard has to store. So it is decided by the log, and whatever
// stops in the midst of it leaves the row as it was, or mended.

// mostRotten bounds the rows that wait to be mended; the others are found again.
const mostRotten = 1 << 16

// unsound remembers that shards cannot be read at a row, or differ there.
func (c *Core) unsound(row int64, shards uint32) {
	if p := c.p.pour; p != nil && shards&^p.mending[row] == 0 || len(c.p.rotten) >= mostRotten {
		return
	}
	if c.p.rotten == nil {
		c.p.rotten = map[int64]uint32{}
	}
	c.p.rotten[row] |= shards
}

// takeRotten takes rows to be mended, as far as the shards in question count: one that
// does not is rebuilt anyway.
func (c *Core) takeRotten() map[int64]uint32 {
	count, taken := uint32(0), map[int64]uint32{}
	for _, m := range c.p.base.Members {
		if m.State == UpToDate && !m.Amnesiac {
			count |= 1 << m.Shard
		}
	}
	for _, row := range slices.Sorted(maps.Keys(c.p.rotten)) {
		if len(taken) == pourRows || mutant.On(mutant.ReplicaMendNever) {
			break
		}
		taken[row] = c.p.rotten[row] & count
		delete(c.p.rotten, row)
	}
	return taken
}

// unreadable are the shards that rows are not read from, because they are mended.
func (c *Core) unreadable(mend uint32) uint32 {
	if mutant.On(mutant.ReplicaMendBlind) {
		return 0
	}
	return mend
}

// rowsLost deals with rows of a batch that too few shards have soundly. Where nothing
// new is to be stored they stay as they are. Else the batch is given up, and collected
// again later: the lost blocks may be overwritten by then.
func (c *Core) rowsLost(p *pour, group []int, err error) {
	if c.p.pour != p {
		return
	}
	if p.rows.fresh[group[0]] == 0 {
		for _, i := range group {
			p.rows.mend[i] = 0
		}
		c.rowsRead(p)
		return
	}
	c.note("the log cannot be poured: blocks of the same stripe are lost: %v", err)
	c.p.pours.first = c.times.Retry
	c.p.pours.failed(c.now)
	if c.p.lost.err == nil {
		c.p.lost.since = c.now
	}
	c.p.lost.err = err
	c.endPour(err)
}

// lostRows is why batches are given up, and since when; err nil: they are not.
type lostRows struct {
	err   error
	since Instant
}

// rowsMended tells which blocks a batch has mended.
func (c *Core) rowsMended(p *pour) {
	for i, row := range p.rows.at {
		for rest := p.rows.mend[i]; rest != 0 && c.cfg.Events.Rebuilt != nil; rest &= rest - 1 {
			if m := c.shardOf(bits.TrailingZeros32(rest)); m != nil {
				c.cfg.Events.Rebuilt(row*blockSize, m.Node)
			}
		}
	}
}

// shardOf is the member that counts with a shard; nil if there is none.
func (c *Core) shardOf(shard int) *Member {
	i := slices.IndexFunc(c.p.base.Members, func(m Member) bool { return m.Shard == shard && m.State == UpToDate && !m.Amnesiac })
	if i < 0 {
		return nil
	}
	return &c.p.base.Members[i]
}

// scanShards reads a range of all shards and compares them.
func (c *Core) scanShards(x *Comparison) {
	x.asked, x.at = true, c.now
	c.fetchShards(&fetch{off: x.Off, n: x.Len, need: 1<<c.width() - 1, bare: true, done: func(f *fetch) {
		if c.p.compare != x {
			return
		}
		if f.mixed() && !mutant.On(mutant.ReplicaCompareMixed) {
			c.report(x, fmt.Errorf("%w: a batch was poured meanwhile", ErrBusy))
			return
		}
		var differ uint32
		c.task(false, func() (err error) {
			differ, err = c.coded.inconsistent(f)
			return err
		}, func(err error) {
			if c.must("compare shards", err) && c.p.compare == x {
				c.scanned(x, f, differ)
			}
		})
	}})
}

// mixed tells whether shards of different batches were read.
func (f *fetch) mixed() bool {
	first := slices.IndexFunc(f.got[:], func(got []byte) bool { return got != nil })
	for s, got := range f.got {
		if got != nil && f.of[s] != f.of[first] {
			return true
		}
	}
	return false
}

// scanned reports what was found, when it is mended if that is asked for.
func (c *Core) scanned(x *Comparison, f *fetch, differ uint32) {
	for _, m := range c.p.base.Members {
		if m.State == UpToDate && !m.Amnesiac {
			bad := f.rotten>>m.Shard&1 != 0
			x.results = append(x.results, Compared{Node: m.Node, Unreadable: bad, Silent: !bad && f.got[m.Shard] == nil, Differs: differ>>m.Shard&1 != 0})
		}
	}
	if differ |= f.rotten; differ == 0 || !x.Rewrite {
		c.report(x, nil)
		return
	}
	if len(c.p.rotten) >= mostRotten {
		c.report(x, fmt.Errorf("%w: %d rows are to be mended before", ErrBusy, mostRotten))
		return
	}
	for off := x.Off; off < x.Off+x.Len; off += blockSize {
		c.unsound(off/blockSize, differ)
	}
	c.p.compare, c.p.rewriting = nil, x
}

// inconsistent tells which of the shards that were fetched do not go with the others,
// as bits. If one shard is wrong and two more than k were read, it is that one; with
// fewer, data are believed and parity is not, for data are what clients read.
func (d *Coded) inconsistent(f *fetch) (uint32, error) {
	var have []int
	for s, got := range f.got {
		if got != nil {
			have = append(have, s)
		}
	}
	wrong, err := d.disagree(f, have)
	if wrong == 0 || err != nil || len(have) < d.code.K()+2 {
		return wrong, err
	}
	for i, s := range have {
		rest, err := d.disagree(f, slices.Delete(slices.Clone(have), i, i+1))
		if err != nil {
			return 0, err
		}
		if rest == 0 {
			return 1 << s, nil
		}
	}
	return wrong, nil
}

// disagree tells which of the shards after the first k are not what those make.
func (d *Coded) disagree(f *fetch, have []int) (wrong uint32, err error) {
	k := d.code.K()
	if len(have) <= k {
		return 0, nil
	}
	var from [][]byte
	for _, s := range have[:k] {
		from = append(from, f.got[s])
	}
	made := make([]byte, f.n)
	for _, s := range have[k:] {
		if err := d.code.Rebuild(made, s, have[:k], from); err != nil {
			return 0, err
		}
		if !bytes.Equal(made, f.got[s]) {
			wrong |= 1 << s
		}
	}
	return wrong, nil
}

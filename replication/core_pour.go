package replication

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"time"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// pour is what takes the log's oldest blocks to the shards, at the primary (protocol
// section 8):
//
//	collect   the oldest blocks of the log, by rows: a row is 4 KiB at one place of
//	          every shard
//	read      what else is in these rows, from the shards
//	encode    the parity
//
// Then they are a [batch]. One pour at a time. It claims only what was committed when it
// began, and leaves out the rows of large writes that were undecided then or became
// batches before it did: their decisions come before its own, and supersede what it has
// collected there.
type pour struct {
	rows    rows
	mending map[int64]uint32 // rows that are in it because of bad blocks: in which shards, as bits
	upto    Seq              // what the log holds up to here is in the shards then
	leave   []*large
	waits   int // reads under way
	began   Instant
	batch   *batch // nil: it is none yet
}

const (
	pourRows = 2048            // of a batch, about
	pourIdly = 2 * time.Second // what waits in the log is poured after so long

	maxPouredZero = 4 << 20 // bytes of an entry of zeros, so that a batch is not much larger
)

// tickPour begins a batch when there is something to do, and goes on with one.
func (c *Core) tickPour() {
	if c.coded == nil || c.role != Primary {
		return
	}
	c.tickFetches()
	c.boundLog()
	if c.tryChain(); c.role != Primary || c.p.pour != nil {
		return
	}
	if c.p.drain != nil || !c.p.pours.ready(c.now) || c.soundShards("") < max(c.coded.code.K(), c.p.base.MinCopies) {
		// A batch that fewer than k shards that count have would be lost with them; one
		// that joins may not come to count.
		return
	}
	used, size := c.coded.LogUsed()
	// A block that is written again meanwhile, or whose neighbours in the row are, is
	// poured once with them.
	fill := size / 4
	if len(c.p.base.set()) < c.width() {
		// Whoever is away for a short while needs only the log if nothing is poured
		// meanwhile.
		fill = size * 3 / 8
	}
	idle := len(c.p.base.set()) == c.width() && used > 0 && c.now.after(c.p.poured.add(pourIdly))
	if used > fill || idle || len(c.p.rotten) > 0 && c.now.after(c.p.poured.add(c.times.Probe)) {
		c.collectRows(used > fill)
	}
}

// boundLog uses no more of the log than every member has that has to hold it.
func (c *Core) boundLog() {
	least := int64(0)
	for _, m := range c.participants() {
		if p := c.peer(m.Node); p != nil && p.log > 0 && (least == 0 || p.log < least) {
			least = p.log
		}
	}
	c.coded.least.Store(least)
}

// collectRows takes the oldest blocks of the log. Full: even if there are none, the
// log has to be let go.
func (c *Core) collectRows(full bool) {
	p := &pour{began: c.now, mending: c.takeRotten()}
	for _, b := range c.p.chain {
		if b.write != nil {
			p.leave = append(p.leave, b.write)
		}
	}
	c.p.pour = p
	last := c.p.commit
	if mutant.On(mutant.ReplicaPourAhead) {
		last = math.MaxInt64
	}
	c.task(true, func() (err error) {
		p.rows, p.upto, err = c.coded.collect(pourRows, last, p.mending)
		return err
	}, func(err error) {
		switch {
		case c.p.pour != p:
			return
		case err != nil:
			c.note("the log cannot be poured: %v", err)
			fallthrough
		case len(p.rows.at) == 0 && !full, p.upto == 0:
			c.endPour(ErrBusy)
			return
		}
		c.readRows(p)
	})
}

// collect reads the oldest blocks that the log has of entries up to last, and what else
// it has in their rows, and in those of blocks to be mended.
func (d *Coded) collect(most int, last Seq, mends map[int64]uint32) (r rows, upto Seq, err error) {
	upto, blocks, ok := d.Staged(most, last)
	if !ok {
		upto = d.decision().upto
	}
	r.at = slices.Sorted(maps.Keys(mends))
	for _, b := range blocks {
		if b*blockSize != blockdev.AsideOff {
			_, at := d.place(b * blockSize)
			r.at = append(r.at, at/blockSize)
		}
	}
	slices.Sort(r.at)
	r.at = slices.Compact(r.at)
	k := d.code.K()
	r.end = (d.Size() + blockSize - 1) / blockSize * blockSize // not before: it may have grown, and blocks be there
	r.fresh = make([]uint32, len(r.at))
	r.mend = make([]uint32, len(r.at))
	r.data = make([][]byte, k+d.code.M())
	for s := range r.data {
		r.data[s] = make([]byte, len(r.at)*blockSize)
	}
	for i := 0; i < len(r.at); {
		n := r.run(i, func(j int) bool { return r.at[j]*blockSize/d.unit == r.at[i]*blockSize/d.unit })
		for s := range k {
			if err := d.stagedRun(&r, i, n, s); err != nil {
				return r, 0, err
			}
		}
		i += n
	}
	for i, at := range r.at {
		r.mend[i] = mends[at]
	}
	return r, upto, nil
}

// stagedRun reads n rows of a shard from i on, which lie in one piece of the volume,
// as far as the log has them.
func (d *Coded) stagedRun(r *rows, i, n, shard int) error {
	off := d.origin(shard, r.at[i]*blockSize)
	if off >= r.end {
		return nil
	}
	n = min(n, int((r.end-off)/blockSize))
	missing := uint32(1) << shard
	for j := range n {
		r.fresh[i+j] |= missing
	}
	return d.ReadStaged(r.data[shard][i*blockSize:(i+n)*blockSize], off, func(at, length int64) {
		for j := range length / blockSize {
			r.fresh[i+int((at-off)/blockSize+j)] &^= missing
		}
	})
}

// rows are 4 KiB of every shard at some places.
type rows struct {
	at    []int64  // block of the shards, rising
	fresh []uint32 // which data shards have something new there, as bits
	mend  []uint32 // which shards cannot be read there, and are written anew
	data  [][]byte // by shard: the rows, one after the other
	end   int64    // of the volume, bytes: what is behind it is zeros
}

// block is row i of a shard.
func (r *rows) block(shard, i int) []byte { return r.data[shard][i*blockSize : (i+1)*blockSize] }

// written tells whether a shard is written at row i: if it has something new or bad
// there, or is a parity of something new.
func (r *rows) written(i, shard, k int) bool {
	return (r.fresh[i]|r.mend[i])>>shard&1 != 0 || shard >= k && r.fresh[i] != 0
}

// run is how many rows follow i, that one included, one after the other in the shards,
// of which same holds.
func (r *rows) run(i int, same func(j int) bool) int {
	n := 1
	for i+n < len(r.at) && r.at[i+n] == r.at[i]+int64(n) && n < maxRead/blockSize && same(i+n) {
		n++
	}
	return n
}

// readRows reads what the log does not have of the rows.
func (c *Core) readRows(p *pour) {
	all := uint32(1)<<c.coded.code.K() - 1
	p.waits = 1
	for _, group := range p.rows.alike() {
		first := group[0]
		need := all &^ p.rows.fresh[first]
		if need == 0 {
			continue
		}
		p.waits++
		f := &fetch{n: int64(len(group)) * blockSize, need: need, except: c.unreadable(p.rows.mend[first])}
		for _, i := range group {
			f.rows = append(f.rows, p.rows.at[i])
		}
		f.done = func(f *fetch) {
			if f.err != nil {
				c.rowsLost(p, group, f.err)
				return
			}
			for s := range c.coded.code.K() {
				for j, i := range group {
					if need>>s&1 != 0 {
						copy(p.rows.block(s, i), f.got[s][j*blockSize:])
					}
				}
			}
			c.rowsRead(p)
		}
		c.fetchShards(f)
	}
	c.rowsRead(p)
}

// alike groups the rows of which the same shards are new and bad, so many at a time as
// an answer brings: one question to a shard brings what a group needs of it. Those with
// bad blocks are grouped only where they are neighbours: what is lost in one of them is
// not mended in any.
func (r *rows) alike() (groups [][]int) {
	newest := map[[2]uint32]int{}
	for i, at := range r.at {
		joins := func(g []int) bool {
			return len(g) < maxRead/blockSize && (r.mend[i] == 0 || at == r.at[g[len(g)-1]]+1)
		}
		kind := [2]uint32{r.fresh[i], r.mend[i]}
		g, ok := newest[kind]
		if !ok || !joins(groups[g]) {
			g = len(groups)
			groups, newest[kind] = append(groups, nil), g
		}
		groups[g] = append(groups[g], i)
	}
	return groups
}

func (c *Core) rowsRead(p *pour) {
	if p.waits--; p.waits > 0 || c.p.pour != p {
		return
	}
	c.task(true, func() error { return c.coded.code.Encode(p.rows.data) }, func(err error) {
		if c.must("encode a batch", err) && c.p.pour == p {
			p.rows.leaveOut(p.leave)
			p.batch = &batch{rows: &p.rows, pour: p}
			c.enchain(p.batch)
		}
	})
}

// leaveOut takes the rows of large writes out.
func (r *rows) leaveOut(writes []*large) {
	for i, at := range r.at {
		for _, w := range writes {
			if first := w.rows.at[0]; at >= first && at < first+int64(len(w.rows.at)) && !mutant.On(mutant.ReplicaPourWritten) {
				r.fresh[i], r.mend[i] = 0, 0
			}
		}
	}
}

// part is what a shard has to store of a batch.
func (r *rows) part(shard, k int) (entries []blockdev.Entry) {
	const chunk = StripeUnit / blockSize
	touched := func(i int) bool { return r.written(i, shard, k) }
	for i := 0; i < len(r.at); {
		if !touched(i) {
			i++
			continue
		}
		zero := isZero(r.block(shard, i))
		n := r.run(i, func(j int) bool { return touched(j) && isZero(r.block(shard, j)) == zero })
		// Whole chunks by themselves: they are stored without a detour.
		if head := int((chunk - r.at[i]%chunk) % chunk); head > 0 {
			n = min(n, head)
		} else if n > chunk {
			n -= n % chunk
		}
		e := blockdev.Entry{Kind: blockdev.EntryZero, Off: r.at[i] * blockSize, Len: int64(n) * blockSize}
		if !zero {
			e.Kind, e.Data = blockdev.EntryWrite, r.data[shard][i*blockSize:(i+n)*blockSize]
		}
		entries = append(entries, e)
		i += n
	}
	return entries
}

var zeroBlock [blockSize]byte

func isZero(block []byte) bool { return bytes.Equal(block, zeroBlock[:]) }

// endPour forgets the batch, and tells a comparison that waited for it how that went.
func (c *Core) endPour(err error) {
	p := c.p.pour
	c.p.pour, c.p.poured = nil, c.now
	if x := c.p.rewriting; x != nil {
		if _, mine := p.mending[x.Off/blockSize]; mine {
			c.report(x, err)
		}
	}
}

// copyShard sends piece n of a copy: of the member that has the shard and leaves, else,
// or if that does not answer, rebuilt from other shards. Pieces of zeros are left out.
func (c *Core) copyShard(p *peer, j *join, n uint64) {
	at := j.pieces[n]
	m := c.p.base.member(j.node)
	j.reading = true
	j.share.left -= at.n
	f := &fetch{off: at.off, n: at.n, need: 1 << m.Shard}
	if c.shardOf(m.Shard) == nil {
		f.except = f.need // else it is moved from there
	}
	f.done = func(f *fetch) {
		j.reading = false
		if c.p.join != j || j.sent+1 != n || !p.ready || !p.up || f.err != nil || f.batch != c.coded.batch() && !mutant.On(mutant.ReplicaCopyOther) {
			return // read again
		}
		data := f.got[bits.TrailingZeros32(f.need)]
		if j.behind == 0 && allBlocksZero(data) && j.cursor < c.coded.shardSize() {
			j.planned = n - 1 // another range takes its number
			c.copyOn()
			return
		}
		if need := c.coded.decision().seq; p.next <= need {
			return
		}
		j.sent = n
		j.copied += at.n
		c.sendPiece(p, n, at, data)
		c.copyOn()
	}
	c.fetchShards(f)
}

func allBlocksZero(p []byte) bool {
	for ; len(p) > 0; p = p[blockSize:] {
		if !isZero(p[:blockSize]) {
			return false
		}
	}
	return true
}

func (d *Coded) shardSize() int64 { return shardSize(d.Size(), d.code.K(), d.unit) }

// shardFollows tells whether a joiner's shard has every batch that is decided by what
// the log holds, so that the log alone brings it level.
func (c *Core) shardFollows(m *Message) bool {
	if c.coded == nil {
		return true
	}
	underWay := batchID(0)
	if len(c.p.chain) > 0 {
		underWay = c.p.chain[0].id
	}
	return batchID(m.Copy) >= c.coded.latest(underWay)
}

// dropPoured lets the log go as far as the shards have it.
func (c *Core) dropPoured() {
	if c.coded == nil || c.failed != nil {
		return
	}
	if _, room := c.coded.unsettled(); room {
		c.wantSync()
	}
	if seq := c.coded.toDrop(); seq > 0 {
		c.task(true, func() error { return c.coded.dropTo(seq) }, func(err error) { c.must("let the log go", err) })
	}
}

// tickShard has what is decided done to the shard soon; whoever reads does not wait.
func (c *Core) tickShard() {
	if c.coded == nil {
		return
	}
	if some, _ := c.coded.unsettled(); some {
		c.wantSync()
	}
}

// soundShards counts those that count, but for that of a node.
func (c *Core) soundShards(but NodeID) (n int) {
	for _, m := range c.p.base.Members {
		if m.Node != but && m.State == UpToDate && !m.Amnesiac {
			n++
		}
	}
	return n
}

// rebuildable tells whether as many shards can be read as bring another one back.
func (c *Core) rebuildable() bool {
	if c.coded == nil {
		return true
	}
	readable := 0
	for i := range c.p.base.Members {
		m := &c.p.base.Members[i]
		if p := c.peer(m.Node); m.State == UpToDate && !m.Amnesiac && (m.Node == c.self || p.up && p.ready) {
			readable++
		}
	}
	return readable >= c.coded.code.K()
}

// pouring tells what the pour under way waits for, or else the oldest large write.
func (c *Core) pouring() string {
	p := c.p.pour
	var b *batch
	if p != nil {
		b = p.batch
	} else if len(c.p.chain) > 0 {
		b = c.p.chain[0]
	}
	switch {
	case b != nil && c.lacks(b) != "":
		return "the shard on " + string(c.lacks(b))
	case b != nil:
		return "the commit of its decision"
	case p == nil:
		return ""
	case p.waits > 0:
		return fmt.Sprintf("%d reads of shards", p.waits)
	}
	return "its rows"
}

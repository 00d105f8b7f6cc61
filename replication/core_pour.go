package replication

import (
	"bytes"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"time"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// pour is one batch on its way from the log to the shards, at the primary (protocol
// section 8):
//
//	collect   the oldest blocks of the log, by rows: a row is 4 KiB at one place of
//	          every shard
//	read      what else is in these rows, from the shards
//	encode    the parity
//	prepare   every recorded shard stores its part beside what it has, durably
//	decide    an entry of the log; when that is committed, so is the batch
//
// One batch at a time. A primary that steps down forgets it: the log alone tells the
// next one whether it was decided.
type pour struct {
	rows    rows
	mending map[int64]uint32 // rows that are in it because of bad blocks: in which shards, as bits
	upto    Seq              // what the log holds up to here is in the shards then
	batch   batchID
	waits   int // reads under way
	began   Instant
	seq     Seq // of the decision; 0: it is not in the log yet
	// By the run of a node: since when it was sent its part, and whether it has it.
	sent  map[Incarnation]Instant
	holds map[Incarnation]bool
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
	if c.p.pour != nil {
		c.tryPour()
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
	p := &pour{began: c.now, mending: c.takeRotten(), sent: map[Incarnation]Instant{}, holds: map[Incarnation]bool{}}
	c.p.pour = p
	c.task(true, func() (err error) {
		p.rows, p.upto, err = c.coded.collect(pourRows, p.mending)
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

// collect reads the oldest blocks of the log, and what else it has in their rows, and
// in those of blocks to be mended.
func (d *Coded) collect(most int, mends map[int64]uint32) (r rows, upto Seq, err error) {
	upto, blocks, ok := d.Staged(most)
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
			c.p.batches++
			p.batch = newBatchID(c.gen, c.p.batches)
			c.tryPour()
		}
	})
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

// participants are the runs of all members whose shards count, may come to count by a
// change that is undecided, or are being rebuilt.
func (c *Core) participants() (all []*Member) {
	add := func(m *Member) {
		if m != nil && !slices.ContainsFunc(all, func(x *Member) bool { return x.Incarnation == m.Incarnation }) {
			all = append(all, m)
		}
	}
	count := func(members []Member) {
		for i := range members {
			if members[i].State == UpToDate {
				add(&members[i])
			}
		}
	}
	count(c.p.base.Members)
	if c.p.pend != nil {
		count(c.p.pend.Members)
	}
	if j := c.p.join; j != nil && j.joined {
		add(c.p.base.member(j.node))
	}
	return all
}

// tryPour has the batch prepared, and decided when all have it.
func (c *Core) tryPour() {
	p := c.p.pour
	if p == nil || p.batch == 0 || c.role != Primary {
		return
	}
	for _, m := range c.participants() {
		if !p.holds[m.Incarnation] && p.sent[m.Incarnation] == 0 {
			c.sendPart(p, m)
		}
	}
	if p.seq != 0 || c.p.drain != nil || !c.prepared() {
		return
	}
	_, last := c.disk.Last()
	p.seq = last + 1
	d := decision{batch: p.batch, upto: p.upto}
	if c.appendEntries([]blockdev.Entry{{Gen: c.gen, Seq: p.seq, Kind: blockdev.EntryWrite, Off: blockdev.AsideOff, Len: blockSize, Data: d.encode()}}) {
		c.progress()
	}
}

// prepared tells whether every shard that counts has the batch, durably.
func (c *Core) prepared() bool {
	lacking := 0
	for _, m := range c.participants() {
		if !c.p.pour.holds[m.Incarnation] {
			lacking++
		}
	}
	if mutant.On(mutant.ReplicaShardOutsider) {
		return len(c.p.pour.holds) >= len(c.participants())-1
	}
	return lacking == 0 || mutant.On(mutant.ReplicaUnprepared)
}

// undecidable is the highest seq that may be committed: a decision waits until every
// shard that counts by then has its batch.
func (c *Core) undecidable(q Seq) Seq {
	if p := c.p.pour; p != nil && p.seq != 0 && q >= p.seq && !c.prepared() {
		return p.seq - 1
	}
	return q
}

// pouredAt tells whether a replica that joins has its part of the batch whose decision
// is in the log. It may have joined since the decision was appended, and must not count
// without: a later primary commits that with the log, and cannot know.
func (c *Core) pouredAt(j *peer) bool {
	p := c.p.pour
	return p == nil || p.seq == 0 || p.holds[j.inc] || mutant.On(mutant.ReplicaGrowUnpoured)
}

func (c *Core) sendPart(p *pour, m *Member) {
	entries := p.rows.part(m.Shard, c.coded.code.K())
	if m.Node == c.self {
		p.sent[m.Incarnation] = c.now
		batch := p.batch
		c.task(true, func() error { return c.coded.prepare(batch, entries) }, func(err error) {
			if c.must("prepare a batch", err) && c.p.pour == p {
				p.holds[c.inc] = true
				c.tryPour()
			}
		})
		return
	}
	need := c.coded.decision().seq
	q := c.peer(m.Node)
	if q == nil || q.inc != m.Incarnation || !q.up || !q.ready || q.next <= need {
		return
	}
	p.sent[m.Incarnation] = c.now
	x := c.mem.message(MsgPrepare)
	x.Gen, x.Commit, x.Copy, x.Entries = c.gen, need, uint64(p.batch), entries
	c.send(q, x)
}

// onPrepare stores a part of a batch beside what the shard has.
func (c *Core) onPrepare(from NodeID, m *Message) {
	gen, inc, batch := m.Gen, m.From, m.Copy
	answer := func(refused bool) {
		x := c.mem.message(MsgPrepared)
		x.Gen, x.Copy, x.Refused = gen, batch, refused
		c.sendTo(from, inc, x)
	}
	if c.coded == nil || gen != c.prom || c.role != Secondary || m.Commit > c.matched && m.Commit > c.disk.Committed() {
		answer(true)
		return
	}
	// What was decided before is done first. So whatever is prepared still was never
	// decided.
	if m.Commit > c.disk.Committed() && !c.must("commit", c.disk.Commit(m.Commit)) {
		return
	}
	entries := cloneEntries(m.Entries) // the data are the caller's
	invited := c.invited
	c.task(true, func() error { return c.coded.prepare(batchID(batch), entries) }, func(err error) {
		if c.must("prepare a batch", err) && c.prom == gen && c.role == Secondary {
			// Who was invited to join may have to begin anew, without this part.
			answer(invited != c.invited && !mutant.On(mutant.ReplicaPreparedStale))
		}
	})
}

// cloneEntries copies entries and their data, which lie in one piece then.
func cloneEntries(entries []blockdev.Entry) []blockdev.Entry {
	n := 0
	for i := range entries {
		n += len(entries[i].Data)
	}
	entries, data := slices.Clone(entries), make([]byte, 0, n)
	for i := range entries {
		if e := &entries[i]; len(e.Data) > 0 {
			data = append(data, e.Data...)
			e.Data = data[len(data)-len(e.Data):]
		}
	}
	return entries
}

// onPrepared counts a shard that has the batch.
func (c *Core) onPrepared(p *peer, m *Message) {
	b := c.p.pour
	if b == nil || batchID(m.Copy) != b.batch {
		return
	}
	if m.Refused {
		delete(b.sent, p.inc) // again, when it follows the log
		return
	}
	b.holds[p.inc] = true
	c.tryPour()
	c.progress() // the decision may have waited for it
}

// partLost tells that a part may be lost with a connection.
func (c *Core) partLost(p *peer) {
	if b := c.p.pour; b != nil {
		delete(b.sent, p.inc)
	}
}

// partGone tells that a member begins anew: what it has stored of a batch may be gone.
func (c *Core) partGone(p *peer) {
	if c.partLost(p); c.p.pour != nil {
		delete(c.p.pour.holds, p.inc)
	}
}

// partLate tells whether a member takes too long to store its part.
func (c *Core) partLate(p *peer) bool {
	b := c.p.pour
	return b != nil && b.sent[p.inc] != 0 && !b.holds[p.inc] && c.now.after(b.sent[p.inc].add(c.times.Slow))
}

// decidedBy ends a batch when its decision is committed.
func (c *Core) decidedBy(commit Seq) {
	if p := c.p.pour; p != nil && p.seq != 0 && commit >= p.seq {
		c.p.pours.succeeded()
		c.p.lost = lostRows{}
		c.rowsMended(p)
		c.endPour(nil)
	}
}

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
	if c.p.pour != nil {
		underWay = c.p.pour.batch
	}
	return batchID(m.Copy) >= c.coded.latest(underWay)
}

// dropPoured lets the log go as far as the shards have it.
func (c *Core) dropPoured() {
	if c.coded == nil || c.failed != nil {
		return
	}
	if seq := c.coded.toDrop(); seq > 0 {
		c.task(true, func() error { return c.coded.dropTo(seq) }, func(err error) { c.must("let the log go", err) })
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

// pouring tells what the batch under way waits for.
func (c *Core) pouring() string {
	p := c.p.pour
	switch {
	case p == nil:
		return ""
	case p.waits > 0:
		return fmt.Sprintf("%d reads of shards", p.waits)
	case p.batch == 0:
		return "its rows"
	}
	for _, m := range c.participants() {
		if !p.holds[m.Incarnation] {
			return "the shard on " + string(m.Node)
		}
	}
	return "the commit of its decision"
}

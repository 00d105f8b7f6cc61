package replication

import (
	"errors"
	"maps"
	"math/bits"
	"slices"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// Task is work that takes long: the caller runs it without holding the core up, and
// then calls Finished. Serial ones of a core are run one after the other, in order.
type Task struct {
	Serial bool
	run    func() error
	done   func(error)
}

// Run does the work, on any goroutine.
func (t *Task) Run() error { return t.run() }

// Finished reports how a task that the effects asked for went.
func (c *Core) Finished(now Instant, t *Task, err error) {
	if c.enter(now) {
		t.done(err)
	}
}

func (c *Core) task(serial bool, run func() error, done func(error)) {
	c.out.Tasks = append(c.out.Tasks, &Task{serial, run, done})
}

// fetch brings a range, or rows, of some shards to the primary: from their members, or, if one
// does not answer or fails its check, from k others of the same batch. It goes on
// until it has them, or the generation ends; only if more shards than the code can do
// without fail their check in one row is there an error.
type fetch struct {
	id     uint64
	off, n int64
	rows   []int64 // blocks of the shards that are brought instead, rising; n is what they have together
	need   uint32  // shards, as bits
	except uint32  // not to be asked
	mapped bool    // what is data in them, instead of their content
	since  batchID // mapped: what has changed since this batch, instead of what is data
	bare   bool    // nothing is rebuilt: shards that cannot be read stay out
	bad    uint32  // cannot be read now,
	rotten uint32  // because a block fails its check
	asked  uint32
	got    [32][]byte
	of     [32]batchID
	batch  batchID // of what was rebuilt; else of the first of them
	err    error   // of the last check that failed; when done: the content is lost
	done   func(*fetch)
	again  Instant // nothing is under way: begin anew then; 0: something is
	busy   bool    // it is being rebuilt
	made   bool    // it was
}

// question is a part of a fetch that a member was asked for.
type question struct {
	f     *fetch
	shard int
	peer  *peer
	at    Instant
}

// fetch begins one.
func (c *Core) fetchShards(f *fetch) {
	if c.p.fetches == nil {
		c.p.fetches, c.p.questions = map[uint64]*fetch{}, map[uint64]question{}
	}
	c.p.reads++
	f.id = c.p.reads
	c.p.fetches[f.id] = f
	c.beginFetch(f)
}

func (c *Core) beginFetch(f *fetch) {
	f.asked, f.again, f.bad, f.rotten, f.err, f.made = 0, 0, f.except, 0, nil, false
	clear(f.got[:])
	for s := range c.width() {
		if f.need>>s&1 != 0 {
			c.askShard(f, s)
		}
	}
	c.goOn(f)
}

// width is the number of shards.
func (c *Core) width() int { return c.coded.code.K() + c.coded.code.M() }

// askShard asks the member that has a shard.
func (c *Core) askShard(f *fetch, shard int) {
	if f.bad>>shard&1 != 0 {
		return
	}
	f.asked |= 1 << shard
	m := c.shardOf(shard)
	if m == nil {
		f.bad |= 1 << shard
		return
	}
	if m.Node != c.self {
		c.askPeer(f, shard, c.peer(m.Node))
		return
	}
	p, batch := make([]byte, f.bytes()), batchID(0)
	c.task(false, func() (err error) {
		if f.mapped {
			p, batch, err = c.coded.mapShard(f.since, f.off, f.n)
		} else {
			batch, err = c.coded.readShard(p, f.ranges())
		}
		return err
	}, func(err error) { c.gotShard(f, shard, p, batch, err) })
}

// ranges are where what is fetched lies in each shard.
func (f *fetch) ranges() (at []missingRange) {
	if f.rows == nil {
		return []missingRange{{f.off, f.n}}
	}
	for i, row := range f.rows {
		if i > 0 && row == f.rows[i-1]+1 {
			at[len(at)-1].n += blockSize
		} else {
			at = append(at, missingRange{row * blockSize, blockSize})
		}
	}
	return at
}

// bytes is how long what is fetched of each shard is.
func (f *fetch) bytes() int64 {
	if f.mapped {
		return mapBytes(f.n)
	}
	return f.n
}

func (c *Core) askPeer(f *fetch, shard int, p *peer) {
	need := c.coded.decision().seq
	if p == nil || !p.up || !p.ready || p.next <= need {
		f.bad |= 1 << shard
		return
	}
	c.p.reads++
	c.p.questions[c.p.reads] = question{f, shard, p, c.now}
	m := c.mem.message(MsgRead)
	m.Gen, m.Commit, m.Copy, m.Off, m.Len = c.gen, need, c.p.reads, f.off, f.n
	m.Sync, m.Held = f.mapped, Seq(f.since)
	if f.rows != nil {
		m.Off, m.Len = 0, 0
		for _, r := range f.ranges() {
			m.Entries = append(m.Entries, blockdev.Entry{Kind: blockdev.EntryZero, Off: r.off, Len: r.n})
		}
	}
	c.send(p, m)
}

// onShard takes a member's answer in.
func (c *Core) onShard(p *peer, m *Message) {
	q, ok := c.p.questions[m.Copy]
	if !ok || q.peer != p {
		return
	}
	delete(c.p.questions, m.Copy)
	var err error
	data := make([]byte, q.f.bytes()) // nothing was sent of zeros
	switch {
	case m.Incomplete:
		err = &blockdev.ChecksumError{Off: m.Off, File: "the shard on " + string(p.node)}
	case m.Refused || len(m.Data) > 0 && len(m.Data) != len(data):
		err = blockdev.ErrIO
	}
	copy(data, m.Data)
	c.gotShard(q.f, q.shard, data, batchID(m.LastGen), err)
}

func (c *Core) gotShard(f *fetch, shard int, data []byte, batch batchID, err error) {
	if c.p.fetches[f.id] != f || f.asked>>shard&1 == 0 || f.got[shard] != nil {
		return
	}
	var rotten *blockdev.ChecksumError
	switch {
	case errors.As(err, &rotten):
		f.rotten |= 1 << shard
		f.err = err
		if !f.bare {
			c.unsound(rotten.Off/blockSize, 1<<shard)
		}
		fallthrough
	case err != nil:
		f.bad |= 1 << shard
	default:
		f.got[shard], f.of[shard] = data, batch
	}
	c.goOn(f)
}

// goOn ends a fetch that has everything, asks further shards, or rebuilds.
func (c *Core) goOn(f *fetch) {
	if f.busy {
		return
	}
	have, missing := uint32(0), f.need
	for s := range c.width() {
		if f.got[s] != nil {
			have |= 1 << s
		}
	}
	missing &^= have
	if missing == 0 || f.bare && missing&^f.bad == 0 {
		if f.err = nil; !f.made {
			f.batch = f.of[bits.TrailingZeros32(f.need)]
		}
		c.endFetch(f)
		return
	}
	if missing&f.bad == 0 || f.bare {
		return // they are on their way
	}
	k := c.coded.code.K()
	for s := 0; s < c.width() && bits.OnesCount32(f.asked&^f.bad) < k; s++ {
		if f.asked>>s&1 == 0 {
			c.askShard(f, s)
		}
	}
	switch {
	case bits.OnesCount32(f.asked&^f.bad) >= k:
	case f.rotten != 0 && f.n > blockSize:
		c.splitFetch(f) // each row may be rebuilt from others
	case c.width()-bits.OnesCount32(f.rotten|f.except) < k && f.rotten != 0:
		c.endFetch(f)
	default:
		c.retryFetch(f) // too few can be read now
	}
	switch {
	case bits.OnesCount32(have) >= k:
		c.rebuild(f, have)
	}
}

// splitFetch goes on in two halves.
func (c *Core) splitFetch(f *fetch) {
	delete(c.p.fetches, f.id)
	clear(f.got[:])
	for s := range c.width() {
		if f.need>>s&1 != 0 {
			f.got[s] = make([]byte, f.n)
		}
	}
	half, waits := f.n/2/blockSize*blockSize, 2
	f.err = nil
	for _, r := range [2]missingRange{{0, half}, {half, f.n - half}} {
		var rows []int64
		if f.rows != nil {
			rows = f.rows[r.off/blockSize : (r.off+r.n)/blockSize]
		}
		c.fetchShards(&fetch{off: f.off + r.off, n: r.n, rows: rows, need: f.need, except: f.except, done: func(x *fetch) {
			for s := range c.width() {
				if x.err == nil && f.need>>s&1 != 0 {
					copy(f.got[s][r.off:], x.got[s])
				}
			}
			f.err = errors.Join(f.err, x.err)
			if waits--; waits == 1 {
				f.batch = x.batch
				return
			}
			if f.batch != x.batch {
				f.batch = 0
			}
			f.done(f)
		}})
	}
}

// retryFetch begins anew, a little later, with every shard.
func (c *Core) retryFetch(f *fetch) {
	if f.again == 0 {
		f.again = c.now.add(c.times.Probe / 4)
	}
}

// rebuild makes what is missing of k shards, which must be of one batch: a mixture is
// not what anybody wrote (I14).
func (c *Core) rebuild(f *fetch, have uint32) {
	code := c.coded.code
	var from []int
	var data [][]byte
	for s := range c.width() {
		if have>>s&1 == 0 || len(from) == code.K() {
			continue
		}
		if len(from) > 0 && f.of[s] != f.of[from[0]] && !mutant.On(mutant.ReplicaMixBatches) {
			c.retryFetch(f)
			return
		}
		from, data = append(from, s), append(data, f.got[s])
	}
	f.busy, f.made, f.batch = true, true, f.of[from[0]]
	var made [32][]byte
	c.task(false, func() error {
		for s := range code.K() + code.M() {
			if f.need>>s&1 == 0 || have>>s&1 != 0 {
				continue
			}
			made[s] = make([]byte, f.bytes())
			if f.mapped {
				mergeMaps(made[s], data)
			} else if err := code.Rebuild(made[s], s, from, data); err != nil {
				return err
			}
		}
		return nil
	}, func(err error) {
		if f.busy = false; c.p.fetches[f.id] != f || !c.must("rebuild", err) {
			return
		}
		for s, p := range made {
			if p != nil {
				f.got[s] = p
			}
		}
		c.goOn(f)
	})
}

func (c *Core) endFetch(f *fetch) {
	delete(c.p.fetches, f.id)
	f.done(f)
}

// tickFetches gives up members that do not answer, and begins anew what could not be
// done.
func (c *Core) tickFetches() {
	for _, id := range slices.Sorted(maps.Keys(c.p.questions)) {
		q, ok := c.p.questions[id]
		if !ok || c.peer(q.peer.node) == q.peer && q.peer.up && !c.now.after(q.at.add(c.times.Drop)) {
			continue
		}
		delete(c.p.questions, id)
		c.gotShard(q.f, q.shard, nil, 0, blockdev.ErrIO)
	}
	for _, id := range slices.Sorted(maps.Keys(c.p.fetches)) {
		if f := c.p.fetches[id]; f != nil && f.again != 0 && c.now.after(f.again) {
			c.beginFetch(f)
		}
	}
}

// missingRange is a part of a read that is not in the log.
type missingRange struct{ off, n int64 }

// Read fills a request that the effects ask for: what another node wants to know from
// the shard, else as far as the log goes. It tells whether there is a rest, for
// [Core.ReadRest].
func (d *Coded) Read(r *Request) (rest bool, err error) {
	if r.Map != nil {
		return d.readMap(r)
	}
	if r.serve != nil {
		if r.at == nil {
			r.at = []missingRange{{r.Off, r.Len}}
		}
		r.batch, err = d.readShard(r.Data, r.at)
		return false, err
	}
	err = d.readLog(r)
	return err == nil && len(r.missing) > 0, err
}

func (d *Coded) readLog(r *Request) error {
	off, end := span(r)
	r.whole, r.missing = r.Data, nil
	if end-off != r.Len {
		r.whole = make([]byte, end-off)
	}
	err := d.ReadStaged(r.whole, off, func(off, n int64) { r.missing = append(r.missing, missingRange{off, n}) })
	if err == nil && len(r.missing) == 0 && end-off != r.Len {
		copy(r.Data, r.whole[r.Off-off:])
	}
	return err
}

// ReadRest goes on with a request that [Coded.Read] has filled in part: what is missing
// is in the shards.
func (c *Core) ReadRest(now Instant, r *Request) {
	if !c.enter(now) || c.role == Secondary || r.gen != c.gen {
		if r.job == nil {
			c.finish(r, ErrMoved)
		}
		return
	}
	c.p.reading = append(c.p.reading, r)
	off, end := span(r)
	waits, lost := 1, error(nil)
	done := func() {
		if waits--; waits > 0 {
			return
		}
		c.p.reading = slices.DeleteFunc(c.p.reading, func(x *Request) bool { return x == r })
		if end-off != r.Len && r.Map == nil {
			copy(r.Data, r.whole[r.Off-off:])
		}
		c.readDone(r, lost)
	}
	for _, m := range r.missing {
		for _, f := range c.coded.parts(m, r.Map != nil) {
			waits++
			shard := bits.TrailingZeros32(f.need)
			f.done = func(f *fetch) {
				switch {
				case f.err != nil:
					lost = f.err
				case f.mapped:
					c.coded.scatterMap(r.Map, off, m, shard, f)
				default:
					c.coded.scatter(r.whole, off, m, shard, f)
				}
				done()
			}
			c.fetchShards(f)
		}
	}
	done()
}

// parts are the fetches that bring a range of the volume. What lies in a shard of a
// range lies there in one piece.
func (d *Coded) parts(m missingRange, mapped bool) (parts []*fetch) {
	most := int64(maxRead)
	if mapped {
		most = maxMap
	}
	for shard := range d.code.K() {
		from, to := int64(-1), int64(0)
		for off := m.off; off < m.off+m.n; {
			end := min((off/d.unit+1)*d.unit, m.off+m.n)
			if s, at := d.place(off); s == shard {
				if from < 0 {
					from = at
				}
				to = at + end - off
			}
			off = end
		}
		for ; from >= 0 && from < to; from += most {
			parts = append(parts, &fetch{off: from, n: min(most, to-from), need: 1 << shard, mapped: mapped})
		}
	}
	return parts
}

// scatter puts what was fetched of a shard where it belongs in a range of the volume.
func (d *Coded) scatter(buf []byte, off int64, m missingRange, shard int, f *fetch) {
	for at := f.off; at < f.off+f.n; {
		end := min((at/d.unit+1)*d.unit, f.off+f.n)
		from := d.origin(shard, at)
		n := end - at
		if from >= m.off && from+n <= m.off+m.n {
			copy(buf[from-off:from-off+n], f.got[shard][at-f.off:])
		}
		at = end
	}
}

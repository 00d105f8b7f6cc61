package replication

import (
	"slices"
	"time"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// large is a write of whole stripes that is encoded at once and stored in the shards,
// while all that the log keeps of it is the decision about its batch:
//
//	admitted ──► encoded ──► in the chain ──► decided: an entry of the log, like another write's
//	                │             │
//	                └─────────────┴──► given up: its data go into the log
//
// Its range is locked until it is in the log, one way or the other.
type large struct {
	req   *Request
	lock  *flight
	rows  rows
	since Instant
}

// isLarge tells whether a write is to be a batch of its own.
func (c *Core) isLarge(r *Request) bool {
	if c.coded == nil || r.Op != blockdev.OpWrite || r.Len < c.lim.LargeBytes {
		return false
	}
	stripe := int64(c.coded.code.K()) * c.coded.unit
	return r.Off%stripe == 0 && r.Len%stripe == 0 && c.p.larges.ready(c.now) && c.allPrepare() &&
		c.p.compare == nil && c.p.rewriting == nil && len(c.p.rotten) == 0 // else batches mix with what is read
}

// allPrepare tells whether all shards count and answer, and no change is going on that
// large writes would hold up, or that would hold them up: else the log is the better way.
func (c *Core) allPrepare() bool {
	switch {
	case c.role != Primary || c.p.drain != nil || c.p.pend != nil || c.p.frozen != 0 || c.p.shape != nil || c.p.join != nil:
	case !c.p.now.self || c.p.now.n != c.width() || len(c.p.now.peers) != c.width()-1:
	default:
		return !slices.ContainsFunc(c.p.now.peers, func(p *peer) bool {
			return !p.up || !p.ready || p.version < versionChains || p.stalled != 0 && c.now.after(p.stalled.add(c.patience()))
		})
	}
	return false
}

// patience is how long a large write may wait for shards that do not prepare it.
func (c *Core) patience() time.Duration { return c.times.Drop / 2 }

// writeLarge begins a large write.
func (c *Core) writeLarge(r *Request) {
	w := &large{req: r, since: c.now, lock: &flight{off: r.Off, end: r.Off + r.Len, req: r}, rows: c.coded.stripes(r.Off, r.Data)}
	c.lock(w.lock)
	c.task(false, func() error { return c.coded.code.Encode(w.rows.data) }, func(err error) {
		if !c.must("encode a write", err) || !slices.Contains(c.p.locked, w.lock) {
			return // the generation is over, and it was answered
		}
		if p := c.p.pour; p != nil && p.batch == nil {
			p.leave = append(p.leave, w)
		}
		c.enchain(&batch{rows: &w.rows, write: w})
	})
}

// stripes are the rows of whole stripes. The data are copied: they are stored later, and
// whoever waits for the write may be told before that it has moved.
func (d *Coded) stripes(off int64, data []byte) (r rows) {
	k := d.code.K()
	_, at := d.place(off)
	n := int64(len(data)) / int64(k)
	r.end = off + int64(len(data))
	r.fresh, r.mend = make([]uint32, n/blockSize), make([]uint32, n/blockSize)
	for i := range n / blockSize {
		r.at = append(r.at, at/blockSize+i)
		r.fresh[i] = 1<<k - 1
	}
	r.data = make([][]byte, k+d.code.M())
	for s := range r.data {
		r.data[s] = make([]byte, n)
	}
	for i := int64(0); len(data) > 0; i++ {
		shard, at := i%int64(k), i/int64(k)*d.unit
		copy(r.data[shard][at:at+d.unit], data)
		data = data[d.unit:]
	}
	return r
}

// stale tells whether a write that was admitted must not act any more: its session has
// ended meanwhile.
func (c *Core) stale(r *Request) bool {
	if c.superseded(r) {
		return !mutant.On(mutant.ReplicaFenceLarge)
	}
	if r.Origin.Client == 0 {
		return false
	}
	progress, _ := c.p.sessions.Find(r.Origin)
	return progress == blockdev.OpDone || progress == blockdev.OpOld
}

// written is what a decision does for the write that it is: entry holds it alone.
func (c *Core) written(w *large, entry []blockdev.Entry) {
	c.unlock(w.lock)
	w.req.last = entry[0].Seq
	c.p.inflight.push(flight{off: w.lock.off, end: w.lock.end, last: w.req.last, req: w.req})
	c.p.busy.add(w.lock.off, w.lock.end)
	c.sign(entry, w.req)
}

// giveUpLate gives up large writes that wait too long, or that now hold others up.
func (c *Core) giveUpLate() {
	if c.role != Primary || len(c.p.chain) == 0 {
		return
	}
	ready := c.allPrepare()
	i := slices.IndexFunc(c.p.chain, func(b *batch) bool {
		return b.seq == 0 && b.write != nil && (!ready || c.now.after(b.write.since.add(c.patience())))
	})
	if i >= 0 {
		c.p.larges.first = c.times.Retry
		c.p.larges.failed(c.now)
		c.giveUp(i)
	}
}

// giveUp gives up the batches of the chain from one on, none of which is decided. Large
// writes go into the log; a pour is begun anew, also one that is no batch yet and has
// left rows out because of them.
func (c *Core) giveUp(from int) {
	up := slices.Clone(c.p.chain[from:])
	if !mutant.On(mutant.ReplicaDecideGivenUp) {
		c.p.chain = c.p.chain[:from:from]
	}
	if p := c.p.pour; p != nil && p.batch == nil && len(p.leave) > 0 {
		c.endPour(ErrBusy)
	}
	for _, b := range up {
		switch {
		case b.seq != 0:
			panic("replication: a batch that is decided is given up")
		case b.pour != nil:
			c.endPour(ErrBusy)
		default:
			c.writeLogged(b.write)
		}
	}
}

// writeLogged puts a large write that was given up into the log.
func (c *Core) writeLogged(w *large) {
	c.unlock(w.lock)
	_, last := c.disk.Last()
	switch r := w.req; {
	case c.failed != nil || c.role != Primary:
	case c.superseded(r):
		c.refuse(r)
	case c.repeated(r, last):
	default:
		entries, _ := c.plan(nil, last, r, r.Off, r.Len, r.Data)
		c.sign(entries, r)
		c.appendEntries(entries)
	}
}

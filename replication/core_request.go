package replication

import (
	"slices"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

const blockSize = blockdev.BlockSize

// Submit takes clients' requests, in order. They were checked against the
// volume's size.
func (c *Core) Submit(now Instant, batch []*Request) {
	if !c.enter(now) || c.role == Secondary {
		for _, r := range batch {
			c.finish(r, ErrMoved)
		}
		return
	}
	if c.role != Primary || c.p.drain != nil {
		for _, r := range batch {
			c.park(r)
		}
		return
	}
	c.admit(batch)
	c.progress()
}

func (c *Core) finish(r *Request, err error) {
	if r.Err = err; err == nil {
		c.worked(r)
	}
	c.out.Done = append(c.out.Done, r)
}

func (c *Core) park(r *Request) {
	c.p.parked = append(c.p.parked, r)
	if r.Op != blockdev.OpFlush {
		c.p.busy.add(span(r))
	}
}

// admitParked tries again what had to wait, if anything that it may have waited
// for has happened.
func (c *Core) admitParked() {
	if c.role != Primary || c.p.drain != nil || !c.p.retry {
		return
	}
	c.p.retry = false
	if len(c.p.parked) == 0 {
		return
	}
	parked := c.p.parked
	c.p.parked, c.p.spare = c.p.spare[:0], nil
	for _, r := range parked {
		if r.Op != blockdev.OpFlush {
			c.p.busy.remove(span(r))
		}
	}
	c.admit(parked)
	clear(parked)
	c.p.spare = parked
}

// admit begins every request that nothing stands in the way of; the others are
// parked. Requests to the same range keep their order.
func (c *Core) admit(batch []*Request) {
	entries := c.mem.entries[len(c.mem.entries):]
	_, last := c.disk.Last()
	for _, r := range batch {
		switch {
		case c.superseded(r) && !c.lateFence(r):
			c.refuse(r)
		case r.Attachment > c.p.base.Attachment || r.Attachment != 0 && c.p.commit < c.p.fence:
			c.park(r) // until the record is known here, and nothing of the earlier client is under way
		case r.Op == blockdev.OpFlush:
			c.flush(r)
		case r.Len == 0 || r.Op == blockdev.OpCache:
			c.finish(r, nil)
		case c.blocked(r):
			c.park(r)
		case c.repeated(r, last):
		case r.Op == blockdev.OpRead:
			r.gen = c.gen
			c.out.Reads = append(c.out.Reads, r)
		case r.Off%blockSize != 0 || r.Len%blockSize != 0:
			c.modify(r)
		case c.isLarge(r):
			c.writeLarge(r)
		default:
			planned := len(entries)
			entries, last = c.plan(entries, last, r, r.Off, r.Len, r.Data)
			c.sign(entries[planned:], r)
		}
	}
	if len(entries) > 0 {
		c.mem.entries = append(c.mem.entries, entries...)
		c.appendEntries(entries)
	}
}

// lateFence plants a bug: a request of a session that has ended acts. It loses its
// number, for which it would be taken for an old one: its node serves the next client too.
func (c *Core) lateFence(r *Request) bool {
	if !mutant.On(mutant.ReplicaLateFence) {
		return false
	}
	r.Origin = blockdev.Origin{}
	return true
}

// superseded tells whether a request is of a session that has ended (S10): of another
// client than the one that holds the volume, or of an earlier session of it (I15).
func (c *Core) superseded(r *Request) bool {
	ended := c.p.base.Attachment
	if mutant.On(mutant.ReplicaOldSession) {
		ended = c.p.base.Fenced
	}
	return r.Attachment != 0 && r.Attachment < ended
}

// refuse answers a request of a session that has ended. A client that has lost the
// volume is told so. The one that holds it has asked again in its new session, and
// is told nothing: an error of the old one would reach the application.
func (c *Core) refuse(r *Request) {
	if r.Attachment < c.p.base.Fenced || mutant.On(mutant.ReplicaFenceSession) {
		c.finish(r, ErrFenced)
		return
	}
	c.finish(r, ErrMoved)
}

// span is the blocks that a request touches.
func span(r *Request) (off, end int64) {
	return r.Off / blockSize * blockSize, (r.Off + r.Len + blockSize - 1) / blockSize * blockSize
}

// blocked tells whether a request must wait: for the commit of a write to a
// block it reads (a value that was read is never unread, I8), for a range that
// is locked, or for one that waits longer.
func (c *Core) blocked(r *Request) bool {
	off, end := span(r)
	if !c.p.busy.maybe(off, end) {
		return false
	}
	if c.lockedRange(off, end) {
		return true
	}
	if aligned := r.Off == off && r.Off+r.Len == end; (r.Op == blockdev.OpRead || !aligned) && c.inFlight(off, end) && !mutant.On(mutant.ReplicaModifyInFlight) {
		return true
	}
	for _, p := range c.p.parked {
		o, e := span(p)
		if p.Op != blockdev.OpFlush && (p.Op.Mutates() || r.Op.Mutates()) && o < end && off < e {
			return true
		}
	}
	return false
}

func (c *Core) lockedRange(off, end int64) bool {
	if mutant.On(mutant.ReplicaModifyUnlocked) {
		return false
	}
	for _, f := range c.p.locked {
		if f.overlaps(off, end) {
			return true
		}
	}
	return false
}

func (c *Core) inFlight(off, end int64) bool {
	list := c.p.inflight.all()
	for i := range list {
		if list[i].overlaps(off, end) {
			return true
		}
	}
	return false
}

// flight is a mutation between its append and its commit, or a range that must
// not be appended to.
type flight struct {
	off, end int64
	last     Seq
	req      *Request
}

func (f *flight) overlaps(off, end int64) bool { return f.off < end && off < f.end }

// filter tells quickly that no range of many overlaps another one: it counts the
// ranges on every block, and a block shares its counter with others.
type filter struct {
	blocks *[filterSlots]uint16
	wide   int // ranges of so many blocks that they are only counted
}

const (
	filterSlots = 1 << 12
	filterWide  = 16 // blocks
)

func (f *filter) add(off, end int64)    { f.count(off, end, 1) }
func (f *filter) remove(off, end int64) { f.count(off, end, ^uint16(0)) }

func (f *filter) count(off, end int64, d uint16) {
	if end-off > filterWide*blockSize {
		f.wide += int(int16(d))
		return
	}
	if f.blocks == nil {
		f.blocks = new([filterSlots]uint16)
	}
	for ; off < end; off += blockSize {
		f.blocks[off/blockSize%filterSlots] += d
	}
}

// maybe tells whether a range may overlap one of the others.
func (f *filter) maybe(off, end int64) bool {
	if f.wide > 0 {
		return true
	}
	if f.blocks == nil {
		return false
	}
	if end-off > filterWide*blockSize {
		return true
	}
	for ; off < end; off += blockSize {
		if f.blocks[off/blockSize%filterSlots] != 0 {
			return true
		}
	}
	return false
}

// plan makes the entries of a mutation of whole blocks.
func (c *Core) plan(entries []blockdev.Entry, last Seq, r *Request, off, n int64, data []byte) ([]blockdev.Entry, Seq) {
	f := flight{off: off, end: off + n, req: r}
	if r.Op == blockdev.OpWrite || data != nil {
		for len(data) > 0 {
			k := min(int64(len(data)), c.lim.EntryBytes)
			last++
			entries = append(entries, blockdev.Entry{Gen: c.gen, Seq: last, Kind: blockdev.EntryWrite, Off: off, Len: k, Data: data[:k]})
			off, data = off+k, data[k:]
		}
	} else {
		most := n
		if c.coded != nil {
			most = maxPouredZero
		}
		for end := off + n; off < end; off += most {
			last++
			entries = append(entries, blockdev.Entry{Gen: c.gen, Seq: last, Kind: blockdev.EntryZero, Off: off, Len: min(most, end-off)})
		}
	}
	f.last, r.last = last, last
	c.p.inflight.push(f)
	c.p.busy.add(f.off, f.end)
	return entries, last
}

// modify begins a mutation that covers blocks in part: it reads the first and
// the last block, locked until the mutation is in the log.
func (c *Core) modify(r *Request) {
	off, end := span(r)
	f := &flight{off: off, end: end, req: r}
	c.lock(f)
	buf := make([]byte, 2*blockSize)
	waits := 0
	done := func(*Request) {
		if waits--; waits == 0 {
			c.modified(f, buf[:blockSize], buf[blockSize:])
		}
	}
	read := func(off int64, p []byte) {
		waits++
		c.out.Reads = append(c.out.Reads, &Request{Op: blockdev.OpRead, Off: off, Len: blockSize, Data: p, gen: c.gen, job: done})
	}
	read(off, buf[:blockSize])
	if end-off > blockSize {
		read(end-blockSize, buf[blockSize:])
	}
}

// modified appends a mutation whose edges were read.
func (c *Core) modified(f *flight, head, tail []byte) {
	c.unlock(f)
	r := f.req
	if c.superseded(r) && !mutant.On(mutant.ReplicaFenceModify) {
		c.refuse(r)
		return
	}
	var entries []blockdev.Entry
	_, last := c.disk.Last()
	if c.repeated(r, last) {
		return // its session has ended meanwhile
	}
	if f.end-f.off == blockSize {
		overlay(head, r, f.off)
		entries, _ = c.plan(entries, last, r, f.off, blockSize, head)
		c.sign(entries, r)
		c.appendEntries(entries)
		return
	}
	// One write if it carries data; else the edges, and zeros between them.
	if r.Op == blockdev.OpWrite {
		data := make([]byte, f.end-f.off)
		copy(data, head)
		copy(data[len(data)-blockSize:], tail)
		copy(data[r.Off-f.off:], r.Data)
		entries, _ = c.plan(entries, last, r, f.off, int64(len(data)), data)
	} else {
		overlay(head, r, f.off)
		overlay(tail, r, f.end-blockSize)
		entries, last = c.plan(entries, last, r, f.off, blockSize, head)
		if middle := f.end - f.off - 2*blockSize; middle > 0 {
			entries, last = c.plan(entries, last, r, f.off+blockSize, middle, nil)
		}
		entries, _ = c.plan(entries, last, r, f.end-blockSize, blockSize, tail)
	}
	c.sign(entries, r)
	c.appendEntries(entries)
}

// overlay applies a mutation to the block at off.
func overlay(block []byte, r *Request, off int64) {
	from, to := max(r.Off, off)-off, min(r.Off+r.Len, off+blockSize)-off
	if r.Op == blockdev.OpWrite {
		copy(block[from:to], r.Data[off+from-r.Off:])
	} else {
		clear(block[from:to])
	}
}

func (c *Core) lock(f *flight) {
	c.p.locked = append(c.p.locked, f)
	c.p.busy.add(f.off, f.end)
}

func (c *Core) unlock(f *flight) {
	n := len(c.p.locked)
	c.p.locked = slices.DeleteFunc(c.p.locked, func(x *flight) bool { return x == f })
	if len(c.p.locked) < n {
		c.p.busy.remove(f.off, f.end)
	}
	c.p.retry = true
}

// Read reports that Data of a request was filled from the replica, or why not.
func (c *Core) Read(now Instant, r *Request, err error) {
	if !c.enter(now) {
		if r.job == nil {
			c.finish(r, ErrMoved)
		}
		return
	}
	if r.serve != nil {
		r.serve(err)
		return
	}
	c.readDone(r, err)
}

// readDone is what follows a read.
func (c *Core) readDone(r *Request, err error) {
	switch {
	case c.role == Secondary || r.gen != c.gen:
		if r.job == nil {
			c.finish(r, ErrMoved)
		}
	case err != nil && c.mended(r, err):
	case r.job != nil:
		if err != nil {
			// Only a block that fails its check gets here, and nobody else has
			// it; the mutation or the copy that needs it cannot go on.
			c.readFailed(r, err)
			return
		}
		r.job(r)
		c.progress()
	case err != nil:
		c.finish(r, err)
	case c.leaseValid() || mutant.On(mutant.ReplicaNoLease):
		c.finish(r, nil)
	default:
		// It was read while nobody else served if that is proven now, later.
		c.p.unread = append(c.p.unread, r)
	}
}

// leaseValid tells whether no other node can have been serving until now: live
// leases of W-1 other members, under both sets. It is asked after the data was
// read (S6).
func (c *Core) leaseValid() bool {
	return c.role == Primary && c.lent(&c.p.now) && (c.p.pend == nil || c.lent(&c.p.then) || mutant.On(mutant.ReplicaLeaseOneSet))
}

// lent tells whether W-1 members of a set have lent this node the right to read,
// with those that cannot seal left out.
func (c *Core) lent(s *counted) bool {
	need := s.w
	if mutant.On(mutant.ReplicaOneLease) {
		need = min(need, 2)
	}
	if s.self {
		need--
	}
	for _, p := range s.peers {
		if p.lease.till > c.now {
			need--
		}
	}
	return need <= 0
}

// answerReads sends what waited for a lease.
func (c *Core) answerReads() {
	if len(c.p.unread) == 0 || !c.leaseValid() {
		return
	}
	for _, r := range c.p.unread {
		c.finish(r, nil)
	}
	c.p.unread = nil
}

// flush waits until everything acknowledged so far, on any connection, is
// durable at W members (S7).
func (c *Core) flush(r *Request) {
	r.last = c.p.commit
	if mutant.On(mutant.ReplicaFlushNothing) {
		c.finish(r, nil)
		return
	}
	c.p.flushes = append(c.p.flushes, r)
	c.needDurable(r.last)
}

// needDurable asks everybody who counts for a sync, once.
func (c *Core) needDurable(seq Seq) {
	c.p.syncTo = max(c.p.syncTo, seq)
	if c.durable < seq {
		c.wantSync()
	}
	for _, p := range c.p.peers {
		if p.up && p.ready && p.asked < seq && p.durable < seq {
			c.probe(p)
		}
	}
}

func (c *Core) answerFlushes() {
	if len(c.p.flushes) == 0 {
		return
	}
	durable := c.quorum(true)
	if mutant.On(mutant.ReplicaFlushOwn) {
		durable = c.durable
	}
	c.p.flushes = slices.DeleteFunc(c.p.flushes, func(r *Request) bool {
		if r.last > durable {
			return false
		}
		c.finish(r, nil)
		return true
	})
}

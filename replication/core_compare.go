package replication

import (
	"errors"
	"fmt"
	"slices"

	"blkd/blockdev"
)

// A blockdev.Store is one.
var _ Digester = (*blockdev.Store)(nil)

// Digester is a [Replica] that can sum up committed content: two replicas with the
// same content of a range have the same digest.
type Digester interface {
	Digest(off, n int64) (uint64, error)
}

// Comparison is a range that is compared with other members while the volume is in
// use: it is locked, and what is under way on it is committed first, so that all sum
// up the same state. Writes to it wait for a round trip and, with Read, for reads.
//
// Of an erasure code, the range is one of the shards, which are always read, and are
// compared by the parity being computed anew: nothing is locked, and a batch that
// becomes current meanwhile makes the range busy.
type Comparison struct {
	Off, Len int64 // whole blocks; at most 64 MiB, with Read or Rewrite, and of shards, 1 MiB
	// Read: the content is read and checked, not only the checksums compared.
	Read bool
	// Rewrite: if somebody differs, the range is written again with what this node
	// has, which must be read for that. Shards that differ are rebuilt from the others.
	Rewrite bool
	// Done is told of every member that was asked, once; or why nothing was compared:
	// ErrMoved if this node is primary no more, ErrBusy. It must not wait, and must not call
	// the core.
	Done func([]Compared, error)

	lock    *flight
	digest  uint64
	data    []byte
	asked   bool
	at      Instant
	id      uint64
	results []Compared
	pending []*peer
}

// Compared is what a comparison has found at one member.
type Compared struct {
	Node       NodeID
	Silent     bool // it did not answer, or cannot yet
	Unreadable bool // it failed a check
	Differs    bool
}

// ErrBusy tells that a range could not be compared now: it is written to all the
// time, or another comparison is under way.
var ErrBusy = errors.New("the range is busy")

// maxDigest is the longest range, in bytes, that is summed up at once.
const maxDigest = 64 << 20

// Compare begins a comparison, one at a time. The error says why it cannot begin;
// Done is not called then.
func (c *Core) Compare(now Instant, x *Comparison) error {
	if !c.enter(now) {
		return c.failed
	}
	most := int64(maxDigest)
	if x.Read = x.Read || x.Rewrite; x.Read {
		most = maxRead
	}
	_, able := c.disk.(Digester)
	if c.coded != nil {
		able, most, x.Read = x.Off+x.Len <= c.coded.shardSize(), maxRead, true
	}
	switch {
	case c.role != Primary:
		return fmt.Errorf("%w: this node is %s", ErrMoved, c.role)
	case c.p.compare != nil || c.p.rewriting != nil:
		return fmt.Errorf("%w: another comparison is under way", ErrBusy)
	case !able:
		return errors.New("the replica has no checksums there")
	case x.Off%blockSize != 0 || x.Len%blockSize != 0 || x.Len <= 0 || x.Len > most:
		return fmt.Errorf("%d bytes at %d cannot be compared at once", x.Len, x.Off)
	}
	c.p.compare = x
	c.tryCompare()
	return nil
}

// tryCompare goes on with the comparison when its range is free.
func (c *Core) tryCompare() {
	x := c.p.compare
	if x == nil || x.asked || c.role != Primary || !c.p.drain.lends() {
		return
	}
	if c.coded != nil {
		c.scanShards(x)
		return
	}
	end := x.Off + x.Len
	if x.at == 0 {
		x.at = c.now
	}
	if c.inFlight(x.Off, end) || c.lockedRange(x.Off, end) {
		// Nothing is locked meanwhile: what is under way may wait for a copy of this
		// range.
		if c.now.after(x.at.add(c.times.Drop)) {
			c.report(x, ErrBusy)
		}
		return
	}
	x.lock = &flight{off: x.Off, end: end}
	c.lock(x.lock)
	x.asked, x.at = true, c.now
	if !x.Read {
		c.askDigests(x)
		return
	}
	x.data = make([]byte, x.Len)
	c.out.Reads = append(c.out.Reads, &Request{Op: blockdev.OpRead, Off: x.Off, Len: x.Len, Data: x.data, gen: c.gen,
		job: func(*Request) {
			if c.p.compare == x {
				c.askDigests(x)
			}
		},
		fail: func(err error) {
			if c.p.compare == x {
				c.report(x, err)
			}
		}})
}

// askDigests sums the range up here, and asks the others to.
func (c *Core) askDigests(x *Comparison) {
	var err error
	if x.digest, err = c.disk.(Digester).Digest(x.Off, x.Len); err != nil {
		c.endComparison(err)
		return
	}
	c.p.reads++
	x.id, x.at = c.p.reads, c.now
	for _, p := range c.p.now.peers {
		if !p.up || !p.ready || p.next <= c.p.commit {
			x.results = append(x.results, Compared{Node: p.node, Silent: true})
			continue
		}
		x.pending = append(x.pending, p)
		m := c.mem.message(MsgDigest)
		m.Gen, m.Commit, m.Copy, m.Off, m.Len, m.Sync = c.gen, c.p.commit, x.id, x.Off, x.Len, x.Read
		c.send(p, m)
	}
	c.finishComparison(x)
}

// onDigested takes a member's digest in.
func (c *Core) onDigested(p *peer, m *Message) {
	x := c.p.compare
	if x == nil || !x.asked || m.Copy != x.id || !slices.Contains(x.pending, p) {
		return
	}
	r := Compared{Node: p.node}
	switch {
	case m.Refused:
		r.Silent = true
	case m.Incomplete:
		r.Unreadable = true
	default:
		r.Differs = m.Lease != x.digest
	}
	x.results = append(x.results, r)
	x.pending = slices.DeleteFunc(x.pending, func(q *peer) bool { return q == p })
	c.finishComparison(x)
}

// finishComparison reports when everybody has answered.
func (c *Core) finishComparison(x *Comparison) {
	if len(x.pending) > 0 {
		return
	}
	bad := slices.ContainsFunc(x.results, func(r Compared) bool { return r.Differs || r.Unreadable })
	if !bad || !x.Rewrite || !c.p.drain.lends() {
		c.endComparison(nil)
		return
	}
	r := &Request{Op: blockdev.OpWrite, Off: x.Off, Len: x.Len, Data: x.data, Attachment: c.p.base.Attachment}
	r.job = func(*Request) { c.report(x, nil) }
	_, last := c.disk.Last()
	entries, _ := c.plan(nil, last, r, x.Off, x.Len, x.data)
	c.unlock(x.lock)
	x.lock, c.p.compare = nil, nil
	c.p.rewriting = x
	if c.appendEntries(entries) {
		c.progress()
	}
}

// endComparison ends the one under way, if there is one.
func (c *Core) endComparison(err error) {
	for _, x := range []*Comparison{c.p.compare, c.p.rewriting} {
		if x != nil {
			c.report(x, err)
		}
	}
}

// report forgets a comparison and tells how it went.
func (c *Core) report(x *Comparison, err error) {
	if x.lock != nil {
		c.unlock(x.lock)
		x.lock = nil
	}
	if c.p.compare == x {
		c.p.compare = nil
	}
	if c.p.rewriting == x {
		c.p.rewriting = nil
	}
	x.Done(x.results, err)
}

// tickCompare gives up members that do not answer.
func (c *Core) tickCompare() {
	x := c.p.compare
	if x == nil || !x.asked {
		c.tryCompare()
		return
	}
	for _, p := range slices.Clone(x.pending) {
		if c.peer(p.node) != p || !p.up || c.now.after(x.at.add(c.times.Drop)) {
			c.onDigested(p, &Message{Copy: x.id, Refused: true})
		}
	}
}

// onDigest sums a range up for the primary, and reads it first if that is asked for.
func (c *Core) onDigest(from NodeID, m *Message) {
	d, able := c.disk.(Digester)
	if !able || !c.canServe(m, maxDigest) || m.Sync && m.Len > maxRead {
		c.refuseRead(MsgDigested, from, m)
		return
	}
	gen, inc, id, off, n, restarts := m.Gen, m.From, m.Copy, m.Off, m.Len, c.restarts
	answer := func(err error) {
		if c.role != Secondary || c.prom != gen {
			return
		}
		x := c.mem.message(MsgDigested)
		x.Gen, x.Copy, x.Off, x.Len, x.Incomplete = gen, id, off, n, err != nil
		if x.Refused = c.emptied(restarts); err == nil && !x.Refused {
			x.Lease, err = d.Digest(off, n)
			x.Refused = err != nil
		}
		c.sendTo(from, inc, x)
	}
	if !m.Sync {
		answer(nil)
		return
	}
	c.out.Reads = append(c.out.Reads, &Request{Op: blockdev.OpRead, Off: off, Len: n, Data: make([]byte, n), serve: answer, job: func(*Request) {}})
}

// Busy tells whether requests of clients are under way.
func (c *Core) Busy() bool {
	return c.p.inflight.len()+len(c.p.parked)+len(c.p.flushes)+len(c.p.unread)+len(c.p.reading) > 0
}

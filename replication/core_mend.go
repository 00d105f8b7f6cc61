package replication

import (
	"errors"
	"slices"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// mend is a block of the primary's replica that failed its check, on its way to be
// read from another member and written again, as an entry of the log like any other
// write. The block is locked, and nothing is under way on it, from when the member is
// asked until the write is in the log: what is written is what was committed.
//
//	waits for its range ──► asks a member ──► written ──► committed: read again
//	                          │      ▲
//	                          └──────┘ the next member; after the last one the
//	                                   readers get the error
type mend struct {
	off     int64
	err     error      // of the check
	waiting []*Request // they read again when it is done
	own     bool       // the range is locked by one of them
	lock    *flight    // nil: not locked yet, or by one of them
	since   Instant
	id      uint64
	asked   *peer // nil: nobody is
	at      Instant
	tried   []NodeID
	written bool
}

// mended begins to mend the block that made a read fail. It is false if that is
// not what is wrong, or the read has found more bad blocks than it has blocks.
func (c *Core) mended(r *Request, err error) bool {
	var bad *blockdev.ChecksumError
	if c.coded != nil || !errors.As(err, &bad) || c.role != Primary || r.mends > r.Len/blockSize+1 {
		return false
	}
	r.mends++
	off := bad.Off / blockSize * blockSize
	i := slices.IndexFunc(c.p.mends, func(m *mend) bool { return m.off == off })
	if i < 0 {
		i = len(c.p.mends)
		c.p.mends = append(c.p.mends, &mend{off: off, err: err, since: c.now})
	}
	m := c.p.mends[i]
	m.waiting = append(m.waiting, r)
	m.own = m.own || r.job != nil && m.lock == nil
	c.tryMends()
	return true
}

// tryMends asks members for the blocks that can be asked for.
func (c *Core) tryMends() {
	if c.role != Primary || !c.p.drain.lends() {
		return
	}
	for _, m := range slices.Clone(c.p.mends) {
		if m.written || m.asked != nil || !slices.Contains(c.p.mends, m) {
			continue
		}
		end := m.off + blockSize
		switch busy := c.inFlight(m.off, end) || !m.own && m.lock == nil && c.lockedRange(m.off, end); {
		case busy && c.now.after(m.since.add(2*c.times.Drop)):
			c.endMend(m) // what is written all the time may be good by now
			c.out.Reads = append(c.out.Reads, m.waiting...)
		case busy: // nothing is locked meanwhile: what is under way may wait for a copy of this range
		default:
			if !m.own && m.lock == nil && !mutant.On(mutant.ReplicaMendUnlocked) {
				m.lock = &flight{off: m.off, end: end}
				c.lock(m.lock)
			}
			c.askBlock(m)
		}
	}
}

// askBlock asks the next member that has committed what this node has.
func (c *Core) askBlock(m *mend) {
	hope := false
	for _, p := range c.p.now.peers {
		if slices.Contains(m.tried, p.node) {
			continue
		}
		hope = true
		if !p.up || !p.ready || p.next <= c.p.commit {
			continue
		}
		c.p.reads++
		m.id, m.asked, m.at = c.p.reads, p, c.now
		x := c.mem.message(MsgRead)
		x.Gen, x.Commit, x.Copy, x.Off, x.Len = c.gen, c.p.commit, m.id, m.off, blockSize
		c.send(p, x)
		return
	}
	if !hope || c.now.after(m.since.add(2*c.times.Drop)) {
		c.endMend(m)
		for _, r := range m.waiting {
			if r.job != nil {
				c.readFailed(r, m.err)
			} else {
				c.finish(r, m.err)
			}
		}
	}
}

// endMend forgets a mend, and lets its range go.
func (c *Core) endMend(m *mend) {
	c.p.mends = slices.DeleteFunc(c.p.mends, func(x *mend) bool { return x == m })
	if m.lock != nil {
		c.unlock(m.lock)
		m.lock = nil
	}
}

// onBlock writes the block that a member has sent.
func (c *Core) onBlock(p *peer, x *Message) {
	i := slices.IndexFunc(c.p.mends, func(m *mend) bool { return m.id == x.Copy && m.asked == p })
	if i < 0 || c.role != Primary {
		return
	}
	m := c.p.mends[i]
	if x.Refused || x.Off != m.off || len(x.Data) != blockSize {
		c.nextMember(m)
		return
	}
	if !c.p.drain.lends() {
		m.asked = nil // asked again if the hand-over is given up
		return
	}
	m.written = true
	r := &Request{Op: blockdev.OpWrite, Off: m.off, Len: blockSize, Data: slices.Clone(x.Data), Attachment: c.p.base.Attachment}
	r.job = func(*Request) {
		c.p.mends = slices.DeleteFunc(c.p.mends, func(x *mend) bool { return x == m })
		c.out.Reads = append(c.out.Reads, m.waiting...)
		if c.cfg.Events.Mended != nil {
			c.cfg.Events.Mended(m.off, p.node)
		}
	}
	_, last := c.disk.Last()
	entries, _ := c.plan(nil, last, r, m.off, blockSize, r.Data)
	if m.lock != nil {
		c.unlock(m.lock)
		m.lock = nil
	}
	if c.appendEntries(entries) {
		c.progress()
	}
}

// nextMember gives up the member that was asked.
func (c *Core) nextMember(m *mend) {
	m.tried = append(m.tried, m.asked.node)
	m.asked = nil
	c.tryMends()
}

// tickMends gives up members that do not answer.
func (c *Core) tickMends() {
	for _, m := range slices.Clone(c.p.mends) {
		if p := m.asked; !m.written && p != nil && (c.peer(p.node) != p || !p.up || c.now.after(m.at.add(c.times.Drop))) {
			c.nextMember(m)
		}
	}
	c.tryMends()
}

// maxRead is the longest range, in bytes, that a member is asked to read or to sum
// up at once.
const maxRead = 1 << 20

// onRead reads committed content for the primary, or maps it, with everything that it
// had committed when it asked.
func (c *Core) onRead(from NodeID, m *Message) {
	most, mapped := int64(maxRead), m.Sync && c.coded != nil
	if mapped {
		most = maxMap
	}
	if !c.canServe(m, most) {
		c.refuseRead(MsgBlock, from, m)
		return
	}
	gen, inc, id, restarts := m.Gen, m.From, m.Copy, c.restarts
	r := &Request{Op: blockdev.OpRead, Off: m.Off, Len: m.Len}
	for i := range m.Entries {
		r.at = append(r.at, missingRange{m.Entries[i].Off, m.Entries[i].Len})
		r.Len += m.Entries[i].Len
	}
	if mapped {
		r.Map, r.since = blockMap{}, batchID(m.Held)
	} else {
		r.Data = make([]byte, r.Len)
	}
	r.serve = func(err error) {
		if c.role != Secondary || c.prom != gen {
			return
		}
		x := c.mem.message(MsgBlock)
		x.Gen, x.Copy, x.Off, x.Len = gen, id, r.Off, r.Len
		x.LastGen = Generation(r.batch)
		var bad *blockdev.ChecksumError
		if x.Refused = err != nil || c.emptied(restarts); errors.As(err, &bad) {
			x.Incomplete, x.Off, x.Len = true, bad.Off, 0
		} else if !x.Refused && mapped {
			x.Data, x.Len = r.Map, int64(len(r.Map))
		} else if !x.Refused && (c.coded == nil || !allBlocksZero(r.Data)) {
			x.Data = r.Data
		}
		c.sendTo(from, inc, x)
	}
	r.job = func(*Request) {}
	c.out.Reads = append(c.out.Reads, r)
}

// canServe tells whether this member may answer with its content, and commits what
// the primary has committed.
func (c *Core) canServe(m *Message, most int64) bool {
	if m.Gen != c.prom || c.role != Secondary || c.amnesiac() || c.disk.Incomplete() || m.Commit > c.matched && m.Commit > c.disk.Committed() ||
		!c.asksRows(m) && (m.Len <= 0 || m.Len > most || m.Off%blockSize != 0 || m.Len%blockSize != 0) {
		return false
	}
	return m.Commit <= c.disk.Committed() || c.must("commit", c.disk.Commit(m.Commit))
}

// asksRows tells whether a message asks for rows of a shard, no more than an answer may
// bring. It has no range then, so that a member that knows of no rows refuses.
func (c *Core) asksRows(m *Message) bool {
	left := int64(maxRead)
	for i := range m.Entries {
		e := &m.Entries[i]
		if left -= e.Len; e.Len <= 0 || left < 0 || e.Off%blockSize != 0 || e.Len%blockSize != 0 {
			return false
		}
	}
	return c.coded != nil && m.Kind == MsgRead && !m.Sync && m.Len == 0 && len(m.Entries) > 0
}

// emptied tells whether a copy has begun here since there had been so many.
func (c *Core) emptied(restarts int) bool {
	return c.restarts != restarts && !mutant.On(mutant.ReplicaAnswerEmptied)
}

func (c *Core) refuseRead(kind Kind, from NodeID, m *Message) {
	x := c.mem.message(kind)
	x.Gen, x.Copy, x.Off, x.Len, x.Refused = m.Gen, m.Copy, m.Off, m.Len, true
	c.sendTo(from, m.From, x)
}

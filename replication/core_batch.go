package replication

import (
	"slices"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// batch is what changes all shards at once, at the primary: rows of a pour, or of a
// large write (protocol section 8).
//
//	prepare   every recorded shard stores its part beside what it has, durably
//	decide    an entry of the log; when that is committed, so is the batch
//
// Several may be under way. They form a chain: each is stored behind the one before, and
// decisions are in the log in the same order, so that a prefix of the log decides a
// prefix of the chain. One that is given up takes with it all behind it; nobody is told,
// for what follows is stored in their place. A primary that steps down forgets the
// chain: the log alone tells the next one what was decided.
type batch struct {
	id, prev batchID
	rows     *rows
	after    Seq    // whoever is sent a part was sent the log up to here before
	pour     *pour  // nil: it is
	write    *large // that
	seq      Seq    // of the decision; 0: it is not in the log yet
	// By the run of a node: since when it was sent its part, and whether it has it.
	sent  map[Incarnation]Instant
	holds map[Incarnation]bool
}

// enchain makes a batch the last of the chain.
func (c *Core) enchain(b *batch) {
	c.p.batches++
	b.id, b.prev = newBatchID(c.gen, c.p.batches), c.coded.batch()
	if n := len(c.p.chain); n > 0 {
		b.prev = c.p.chain[n-1].id
	}
	b.sent, b.holds = map[Incarnation]Instant{}, map[Incarnation]bool{}
	_, b.after = c.disk.Last()
	c.p.chain = append(c.p.chain, b)
	c.tryChain()
}

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

// tryChain has batches prepared, and decides those that all have.
func (c *Core) tryChain() {
	if c.giveUpLate(); c.role != Primary || len(c.p.chain) == 0 {
		return
	}
	for _, m := range c.participants() {
		for _, b := range c.p.chain {
			if !b.holds[m.Incarnation] && b.sent[m.Incarnation] == 0 && !c.sendPart(b, m) {
				break // it is sent in order
			}
		}
	}
	for {
		entries := c.decisions()
		if len(entries) == 0 || !c.appendEntries(entries) {
			return
		}
		c.progress()
	}
}

// decisions makes the entries about the batches that are prepared and not decided, in
// order. If the first of these is a write that must not act any more, it is given up.
func (c *Core) decisions() (entries []blockdev.Entry) {
	_, last := c.disk.Last()
	upto := c.coded.upto()
	for i := 0; i < len(c.p.chain); i++ {
		b := c.p.chain[i]
		if b.seq != 0 {
			continue
		}
		if !c.prepared(b) || b.pour != nil && c.p.drain != nil {
			break
		}
		if b.write != nil && c.stale(b.write.req) {
			if len(entries) == 0 {
				c.giveUp(i)
			}
			break
		}
		last++
		b.seq = last
		d := decision{batch: b.id}
		if b.pour != nil {
			upto = max(upto, b.pour.upto)
		} else {
			d.off, d.n = b.write.lock.off, b.write.req.Len
		}
		d.upto = upto
		entries = append(entries, blockdev.Entry{Gen: c.gen, Seq: last, Kind: blockdev.EntryWrite, Off: blockdev.AsideOff, Len: blockSize, Data: d.encode()})
		if b.write != nil {
			c.written(b.write, entries[len(entries)-1:])
		}
	}
	return entries
}

// prepared tells whether every shard that counts has the batch, durably.
func (c *Core) prepared(b *batch) bool {
	lacking := 0
	for _, m := range c.participants() {
		if !b.holds[m.Incarnation] {
			lacking++
		}
	}
	if mutant.On(mutant.ReplicaShardOutsider) {
		return len(b.holds) >= len(c.participants())-1
	}
	return lacking == 0 || mutant.On(mutant.ReplicaUnprepared)
}

// undecidable is the highest seq that may be committed: a decision waits until every
// shard that counts by then has its batch.
func (c *Core) undecidable(q Seq) Seq {
	for _, b := range c.p.chain {
		if b.seq != 0 && q >= b.seq && !c.prepared(b) {
			return b.seq - 1
		}
	}
	return q
}

// partsAt tells whether a replica that joins has its part of every batch whose decision
// is in the log. It may have joined since the decision was appended, and must not count
// without: a later primary commits that with the log, and cannot know.
func (c *Core) partsAt(j *peer) bool {
	for _, b := range c.p.chain {
		if b.seq != 0 && !b.holds[j.inc] && !mutant.On(mutant.ReplicaGrowUnpoured) {
			return false
		}
	}
	return true
}

// sendPart has a member store its part of a batch. It is false if that must wait.
func (c *Core) sendPart(b *batch, m *Member) bool {
	if m.Node == c.self {
		b.sent[m.Incarnation] = c.now
		c.storePart(b.prev, b.id, b.rows.part(m.Shard, c.coded.code.K()), func(ok bool) {
			if c.partStored(b.id, c.inc, ok) {
				c.tryChain()
			}
		})
		return true
	}
	need := c.coded.decision().seq
	q := c.peer(m.Node)
	if q == nil || q.inc != m.Incarnation || !q.up || !q.ready || q.next <= max(need, b.after) {
		return false
	}
	b.sent[m.Incarnation] = c.now
	x := c.mem.message(MsgPrepare)
	x.Gen, x.Commit, x.Copy, x.LastGen = c.gen, need, uint64(b.id), Generation(b.prev)
	x.Entries = b.rows.part(m.Shard, c.coded.code.K())
	c.send(q, x)
	return true
}

// storePart stores a part of a batch in the shard here. It calls done when that is
// durable, with all that was stored before it was synced, or refused.
func (c *Core) storePart(prev, b batchID, entries []blockdev.Entry, done func(ok bool)) {
	ok := false
	c.task(true, func() (err error) {
		ok, err = c.coded.prepare(prev, b, entries)
		return err
	}, func(err error) {
		switch {
		case !c.must("prepare a batch", err):
		case !ok:
			done(false)
		default:
			// The sync comes behind all parts that wait to be stored.
			if c.stored = append(c.stored, done); len(c.stored) == 1 {
				c.task(true, c.coded.syncParts, c.partsSynced)
			}
		}
	})
}

func (c *Core) partsSynced(err error) {
	stored := c.stored
	if c.stored = nil; !c.must("sync a batch", err) {
		return
	}
	for _, done := range stored {
		done(true)
	}
}

// onPrepare stores a part of a batch beside what the shard has.
func (c *Core) onPrepare(from NodeID, m *Message) {
	gen, inc, batch := m.Gen, m.From, m.Copy
	answer := func(ok bool) {
		x := c.mem.message(MsgPrepared)
		x.Gen, x.Copy, x.Refused = gen, batch, !ok
		c.sendTo(from, inc, x)
	}
	if c.coded == nil || gen != c.prom || c.role != Secondary || m.Commit > c.matched && m.Commit > c.disk.Committed() {
		answer(false)
		return
	}
	if m.Commit > c.disk.Committed() && !c.must("commit", c.disk.Commit(m.Commit)) {
		return
	}
	entries := cloneEntries(m.Entries) // the data are the caller's
	invited := c.invited
	c.storePart(batchID(m.LastGen), batchID(batch), entries, func(ok bool) {
		if c.prom == gen && c.role == Secondary {
			// Who was invited to join may have to begin anew, without this part.
			answer(ok && (invited == c.invited || mutant.On(mutant.ReplicaPreparedStale)))
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

// onPrepared counts a shard that has a batch.
func (c *Core) onPrepared(p *peer, m *Message) {
	if c.partStored(batchID(m.Copy), p.inc, !m.Refused) {
		c.tryChain()
		c.progress() // a decision may have waited for it
	}
}

// partStored notes whether a run of a node has stored its part of a batch; false: it has
// not, or the batch was given up.
func (c *Core) partStored(id batchID, inc Incarnation, ok bool) bool {
	i := slices.IndexFunc(c.p.chain, func(b *batch) bool { return b.id == id })
	if i < 0 {
		return false
	}
	if ok {
		c.p.chain[i].holds[inc] = true
		return true
	}
	for _, b := range c.p.chain[i:] {
		delete(b.sent, inc) // again, when it follows the log
	}
	return false
}

// partLost tells that parts may be lost with a connection.
func (c *Core) partLost(p *peer) {
	for _, b := range c.p.chain {
		delete(b.sent, p.inc)
	}
}

// partGone tells that a member begins anew: what it has stored of batches may be gone.
func (c *Core) partGone(p *peer) {
	c.partLost(p)
	for _, b := range c.p.chain {
		delete(b.holds, p.inc)
	}
}

// partLate tells whether a member takes too long to store its part.
func (c *Core) partLate(p *peer) bool {
	return slices.ContainsFunc(c.p.chain, func(b *batch) bool {
		return b.sent[p.inc] != 0 && !b.holds[p.inc] && c.now.after(b.sent[p.inc].add(c.times.Slow))
	})
}

// decidedBy ends the batches whose decisions are committed.
func (c *Core) decidedBy(commit Seq) {
	for len(c.p.chain) > 0 && c.p.chain[0].seq != 0 && c.p.chain[0].seq <= commit {
		b := c.p.chain[0]
		if c.p.chain = c.p.chain[1:]; b.write != nil {
			c.p.larges.succeeded()
			continue
		}
		c.p.pours.succeeded()
		c.p.lost = lostRows{}
		c.rowsMended(b.pour)
		c.endPour(nil)
	}
}

// lacks is a member that has not its part of a batch; empty: all have.
func (c *Core) lacks(b *batch) NodeID {
	for _, m := range c.participants() {
		if !b.holds[m.Incarnation] {
			return m.Node
		}
	}
	return ""
}

package replication

import (
	"fmt"

	"blkd/blockdev"
)

// maybeActivate begins the generation that the quorum gave to this run of the
// node (protocol section 4, ACTIVATE): once, and never again after a restart.
func (c *Core) maybeActivate() {
	r := c.rec
	if r == nil || r.Lineage != c.lineage || r.Primary != c.self || r.PrimaryIncarnation != c.inc || r.Generation <= c.prom {
		return
	}
	if !r.inSet(c.self, c.inc) || c.amnesiac() || c.disk.Incomplete() {
		return
	}
	if !c.now.after(c.grant.until) {
		return // the lease it gave itself; Tick comes back
	}
	c.sealing = nil
	if !c.promise(r.Generation) {
		return
	}
	c.gen = r.Generation
	c.p = primary{base: r, plan: backoff{first: c.times.Retry}}
	c.setRole(Sealing)
	c.refreshPeers()
	for _, p := range c.p.peers {
		if m := r.member(p.node); m.State == UpToDate && !m.Amnesiac {
			c.sendSeal(p)
		}
	}
	c.trySelect()
}

func (c *Core) sendSeal(p *peer) {
	p.sent = c.now
	c.send(p.node, p.inc, &Message{Kind: MsgSeal, Gen: c.gen})
}

func (c *Core) onSealed(p *peer, m *Message) {
	sealed := *m // the caller may use its memory again
	p.sealed = &sealed
	if c.role == Sealing {
		c.trySelect()
		return
	}
	if b := c.p.base.member(p.node); b.State == UpToDate && !b.Amnesiac {
		c.match(p, m)
		c.pump(p)
	}
}

// match finds from where a peer that promised this generation needs the log.
func (c *Core) match(p *peer, m *Message) {
	if p.ready {
		return
	}
	at := m.Commit // committed: a prefix of this log
	if g, ok := c.disk.GenAt(m.LastSeq); ok && g == m.LastGen {
		at = m.LastSeq
	}
	p.ready, p.next, p.held, p.durable = true, at+1, at, min(m.Durable, at)
	p.window, p.bytes = nil, 0
	c.probe(p)
}

// trySelect takes the best log among S(M) seals.
func (c *Core) trySelect() {
	if c.p.best != nil {
		return // being fetched
	}
	set := c.p.base.set()
	gen, seq := c.disk.Last()
	seals := 1
	var best *peer
	commit := c.disk.Committed()
	for _, m := range set {
		p := c.peer(m.Node)
		if p == nil || p.inc != m.Incarnation || p.sealed == nil || m.Amnesiac {
			continue
		}
		seals++
		commit = max(commit, p.sealed.Commit)
		if s := p.sealed; s.LastGen > gen || s.LastGen == gen && s.LastSeq > seq {
			gen, seq, best = s.LastGen, s.LastSeq, p
		}
	}
	if !c.p.base.inSet(c.self, c.inc) || seals < c.p.base.Policy.sealQuorum(len(set)) {
		return
	}
	if m := c.p.base.Mark; commit > seq || m.Seq > seq || m.Generation > gen {
		// I12. It cannot happen while the rules hold; serving would lose data.
		c.note("generation %d: the best log ends at (%d, %d), but entry %d is committed, reported (%d, %d): not served",
			c.gen, gen, seq, commit, m.Generation, m.Seq)
		return
	}
	if best != nil {
		c.p.best = best
		c.fetch()
		return
	}
	c.choose()
}

// fetch asks the run that sealed the best log for what is missing here.
func (c *Core) fetch() {
	p := c.p.best
	p.sent = c.now
	c.send(p.node, p.inc, &Message{Kind: MsgFetch, Gen: c.gen, PrevSeq: c.fetchedUpTo()})
}

// tickSealing asks again for what may have been lost, and gives up on a log
// whose node is gone.
func (c *Core) tickSealing() {
	switch p := c.p.best; {
	case p == nil:
		c.trySelect()
	case c.now.after(p.heard.add(c.times.Drop)) && c.now.after(p.sent.add(c.times.Probe)) && !p.up:
		p.sealed, c.p.best = nil, nil
	case c.now.after(p.sent.add(c.times.Probe)):
		c.fetch()
	}
}

// fetchedUpTo is where the own log is known to be a prefix of the best one: what
// is committed, and what was fetched.
func (c *Core) fetchedUpTo() Seq { return max(c.disk.Committed(), c.matched) }

func (c *Core) onFetched(p *peer, m *Message) {
	if c.role != Sealing || c.p.best != p || m.PrevSeq != c.fetchedUpTo() {
		return
	}
	if m.Refused {
		// The best log's tail does not fit here any more: let its node lead.
		if !c.p.yielding && c.p.plan.ready(c.now) {
			c.p.yielding = true
			c.propose(Proposal{Promote: p.node, PromoteInc: p.inc, Why: "it has the best log, which is too far ahead to be fetched"})
		}
		return
	}
	end := p.sealed.LastSeq
	entries := m.Entries
	for len(entries) > 0 && entries[len(entries)-1].Seq > end {
		entries = entries[:len(entries)-1]
	}
	if len(entries) == 0 && m.PrevSeq < end {
		return
	}
	gen, _ := c.disk.GenAt(m.PrevSeq)
	held, ok := c.holdEntries(gen, m.PrevSeq, entries)
	if c.failed != nil {
		return
	}
	if !ok {
		panic(fmt.Sprintf("replication: entries after %d do not continue what was fetched", m.PrevSeq))
	}
	c.matched = held
	if held < end {
		c.fetch()
		return
	}
	if _, last := c.disk.Last(); last > end {
		if !c.must("truncate", c.disk.Truncate(end)) {
			return
		}
		c.durable, c.syncSeq = min(c.durable, end), min(c.syncSeq, end)
	}
	c.choose()
}

// choose makes the own log the one of this generation and begins it with its
// GENERATION entry; when that is committed, so is everything before it.
func (c *Core) choose() {
	_, last := c.disk.Last()
	c.p.best = nil
	c.p.first, c.p.commit = last+1, c.disk.Committed()
	c.setRole(Chosen)
	if !c.appendEntries([]blockdev.Entry{{Gen: c.gen, Seq: last + 1, Kind: entryMark}}) {
		return
	}
	for _, p := range c.p.peers {
		if p.sealed != nil {
			c.match(p, p.sealed)
			c.pump(p)
		}
	}
	c.progress()
}

// handover is a planned promotion of another member.
type handover struct {
	to       NodeID
	inc      Incarnation
	since    Instant
	released bool // leases are given up; a promotion was asked for
}

// lends tells whether new leases may be asked for.
func (h *handover) lends() bool { return h == nil || !h.released }

// Handover lets another member take over: no new request is begun, what is under
// way ends, the target is brought level, leases are given up, and the quorum is
// asked to promote it. Requests that arrive meanwhile wait. The error says why
// it cannot begin.
func (c *Core) Handover(now Instant, to NodeID) error {
	if !c.enter(now) {
		return c.failed
	}
	if c.role != Primary {
		return fmt.Errorf("%w: this node is %s", ErrMoved, c.role)
	}
	m := c.p.base.member(to)
	p := c.peer(to)
	switch {
	case to == c.self:
		return fmt.Errorf("%s is the primary already", to)
	case m == nil || m.State != UpToDate || m.Amnesiac || p == nil || p.inc != m.Incarnation:
		return fmt.Errorf("%s has no replica that is UpToDate", to)
	case !p.up || !p.ready:
		return fmt.Errorf("%s does not answer", to)
	case c.p.drain != nil:
		return fmt.Errorf("a hand-over to %s is under way", c.p.drain.to)
	}
	c.p.drain = &handover{to: to, inc: m.Incarnation, since: c.now}
	c.tryHandover()
	return nil
}

func (c *Core) tryHandover() {
	h := c.p.drain
	if h == nil || h.released || c.role != Primary {
		return
	}
	p := c.peer(h.to)
	if p == nil || p.inc != h.inc || c.now.after(h.since.add(4*c.times.Drop)) {
		c.note("the hand-over to %s is given up: it does not keep up", h.to)
		c.p.drain = nil
		c.admitParked()
		return
	}
	_, last := c.disk.Last()
	if len(c.p.inflight)+len(c.p.locked)+len(c.p.flushes)+len(c.p.unread) > 0 || p.held < last || c.p.commit < last || c.p.pend != nil {
		return
	}
	h.released = true
	for _, q := range c.p.peers {
		if q.lease.id != 0 {
			c.send(q.node, q.inc, &Message{Kind: MsgRelease, Gen: c.gen, Lease: q.lease.id})
		}
		q.lease.till = 0
	}
	c.propose(Proposal{Promote: h.to, PromoteInc: h.inc, Why: "planned hand-over"})
}

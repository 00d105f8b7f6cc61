package replication

import (
	"fmt"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// maybeActivate begins the generation that the quorum gave to this run of the
// node (protocol section 4, ACTIVATE): once, and never again after a restart.
func (c *Core) maybeActivate() {
	r := c.rec
	again := mutant.On(mutant.ReplicaResume) && r != nil && r.Generation == c.prom
	if r == nil || r.Lineage != c.lineage || r.Primary != c.self || r.PrimaryIncarnation != c.inc && !again || r.Generation <= c.prom && !again {
		return
	}
	if !r.inSet(c.self, c.inc) || c.amnesiac() || c.disk.Incomplete() {
		return
	}
	if !c.now.after(c.grant.until) && !mutant.On(mutant.ReplicaOwnLease) {
		return // the lease it gave itself; Tick comes back
	}
	c.sealing = nil
	if !again && !c.promise(r.Generation) {
		return
	}
	c.gen = r.Generation
	c.p = primary{base: r, plan: backoff{first: c.times.Retry}, joins: backoff{first: c.times.Retry}, leaves: backoff{first: c.times.Retry}}
	c.p.cert = c.newCertificate(r)
	c.setRole(Sealing)
	c.refreshPeers()
	for _, p := range c.p.peers {
		if m := r.member(p.node); m.State == UpToDate && (!m.Amnesiac || mutant.On(mutant.ReplicaAmnesiacSeals)) {
			c.sendSeal(p)
		}
	}
	c.trySelect()
}

func (c *Core) sendSeal(p *peer) {
	p.sent = c.now
	m := c.mem.message(MsgSeal)
	m.Gen = c.gen
	c.send(p, m)
}

func (c *Core) onSealed(p *peer, m *Message) {
	p.seal, p.sealed, p.sealedAt = *m, true, c.now
	p.seal.Entries, p.seal.Data = nil, nil // the caller's
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
	p.starts(at, min(m.Durable, at))
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
		if p == nil || p.inc != m.Incarnation || !p.sealed || m.Amnesiac && !mutant.On(mutant.ReplicaAmnesiacSeals) {
			continue
		}
		seals++
		commit = max(commit, p.seal.Commit)
		if s := &p.seal; mutant.On(mutant.ReplicaLongestLog) && s.LastSeq > seq ||
			!mutant.On(mutant.ReplicaLongestLog) && (s.LastGen > gen || s.LastGen == gen && s.LastSeq > seq) {
			gen, seq, best = s.LastGen, s.LastSeq, p
		}
	}
	if mutant.On(mutant.ReplicaFewSeals) {
		seals++
	}
	if !c.p.base.inSet(c.self, c.inc) || seals < c.p.base.Policy.sealQuorum(len(set)) {
		return
	}
	if m := c.p.base.Mark; commit > seq || m.Seq > seq || m.Seq > 0 && m.Generation > gen {
		// I12. It cannot happen while the rules hold; serving would lose data.
		c.note("generation %d: the best log ends at (%d, %d), but entry %d is committed, reported (%d, %d): not served",
			c.gen, gen, seq, commit, m.Generation, m.Seq)
		return
	}
	c.certifyChoice(best)
	if best != nil && !mutant.On(mutant.ReplicaOwnLog) {
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
	m := c.mem.message(MsgFetch)
	m.Gen, m.PrevSeq = c.gen, c.fetchedUpTo()
	c.send(p, m)
}

// tickSealing asks again for what may have been lost, and gives up on a log
// whose node is gone.
func (c *Core) tickSealing() {
	switch p := c.p.best; {
	case p == nil:
		c.trySelect()
	case !p.up && c.now.after(p.heard.add(c.times.Drop)) || c.now.after(p.heard.add(4*c.times.Drop)):
		// Its seal counts no more: without its log nobody knows what it held.
		p.sealed, c.p.best = false, nil
		if mutant.On(mutant.ReplicaFetchGiveUp) {
			c.choose()
		}
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
		if c.p.yields == 0 && c.p.plan.ready(c.now) {
			c.p.yields = c.propose(Proposal{Promote: p.node, PromoteInc: p.inc, Why: "it has the best log, which is too far ahead to be fetched"})
		}
		return
	}
	end := p.seal.LastSeq
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
// GENERATION entry; when that is committed, so is everything before it. It tells the
// others how large the volume is: a resize that was cut off has left room here.
func (c *Core) choose() {
	_, last := c.disk.Last()
	c.p.best = nil
	c.p.first, c.p.commit = last+1, c.disk.Committed()
	c.p.sessions = c.disk.Sessions(last)
	switch {
	case mutant.On(mutant.ReplicaForgetSessions):
		c.p.sessions = new(blockdev.Sessions)
	case mutant.On(mutant.ReplicaForgetTail):
		c.p.sessions = c.disk.Sessions(c.p.commit)
	}
	c.setRole(Chosen)
	mark := blockdev.Entry{Gen: c.gen, Seq: last + 1, Kind: entryMark, Off: c.disk.Size()}
	if mutant.On(mutant.ReplicaMarkSmall) {
		mark.Off = 0
	}
	if !c.appendEntries([]blockdev.Entry{mark}) {
		return
	}
	for _, p := range c.p.peers {
		if p.sealed {
			c.match(p, &p.seal)
			c.pump(p)
		}
	}
	c.progress()
	if mutant.On(mutant.ReplicaServeEarly) && c.role == Chosen {
		c.serve()
	}
}

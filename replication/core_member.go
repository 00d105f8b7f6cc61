package replication

import (
	"fmt"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// grant is the lease that this member has given: nobody but the primary of gen
// may serve reads before until.
type grant struct {
	gen   Generation
	id    uint64
	until Instant
}

// pendingSeal is a SEAL whose promise waits until the grant has ended.
type pendingSeal struct {
	from NodeID
	inc  Incarnation
	gen  Generation
}

// reject answers a message that must not act, and says what this replica is.
func (c *Core) reject(from NodeID, m *Message, why string) {
	if c.cfg.Events.Refused != nil {
		c.cfg.Events.Refused(from, fmt.Sprintf("%s of generation %d: %s", m.Kind, m.Gen, why))
	}
	gen, seq := c.disk.Last()
	c.sendTo(from, m.From, &Message{Kind: MsgReject, Gen: m.Gen, Promised: c.prom, LastGen: gen, LastSeq: seq,
		Commit: c.disk.Committed(), Durable: c.durable})
}

// amnesiac tells whether this run may have lost entries: the record says so, or it
// is one from before this run.
func (c *Core) amnesiac() bool {
	if c.rec == nil {
		return true
	}
	m := c.rec.member(c.self)
	return m != nil && (m.Incarnation != c.inc || m.Amnesiac)
}

// onAppend holds entries that continue the log (protocol section 3).
func (c *Core) onAppend(from NodeID, m *Message) {
	if m.Gen != c.prom && !mutant.On(mutant.ReplicaOlderGeneration) || c.role != Secondary {
		c.reject(from, m, "another generation is promised")
		return
	}
	if c.coded != nil && m.Gen == c.unfit {
		c.reject(from, m, "a copy of the shard was refused")
		return
	}
	c.primaryOf, c.primaryInc = from, m.From
	held, ok := c.holdEntries(m.PrevGen, m.PrevSeq, m.Entries)
	if c.failed != nil {
		return
	}
	if !ok {
		c.reject(from, m, "it does not continue the log")
		return
	}
	// What the primary has committed, and what is known to match its log.
	commit := min(m.Commit, held)
	if mutant.On(mutant.ReplicaCommitAhead) {
		commit = m.Commit
	}
	if commit > c.disk.Committed() {
		if !c.must("commit", c.disk.Commit(commit)) {
			return
		}
	}
	c.matched = max(c.matched, held)
	c.disk.Keep(min(m.Keep, held))
	if m.Sync {
		c.wantSync()
	}
	answer := c.ack(from, m.From, m.Gen)
	if m.Lease != 0 && (m.Gen >= c.lends || mutant.On(mutant.ReplicaEndlessGrant)) {
		c.grant = grant{m.Gen, m.Lease, c.now.add(c.times.Lease + c.times.Drift)}
		answer.Lease = m.Lease
	}
}

// matches tells whether the log holds the entry (gen, seq). What is committed is
// a prefix of every later primary's log, whether its generations are still
// known or not.
func (c *Core) matches(gen Generation, seq Seq) bool {
	if seq <= c.disk.Committed() {
		return true
	}
	g, ok := c.disk.GenAt(seq)
	return ok && (g == gen || mutant.On(mutant.ReplicaKeepTail))
}

// holdEntries appends the entries that the log lacks, after cutting off what
// conflicts with them. It returns up to where the log matches the sender's.
func (c *Core) holdEntries(prevGen Generation, prevSeq Seq, entries []blockdev.Entry) (held Seq, ok bool) {
	_, last := c.disk.Last()
	if prevSeq > last || !c.matches(prevGen, prevSeq) {
		return 0, false
	}
	held = prevSeq
	for len(entries) > 0 && entries[0].Seq <= last && c.matches(entries[0].Gen, entries[0].Seq) {
		held = entries[0].Seq // a repetition: nothing that follows is cut
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return held, true
	}
	if held < last {
		if held < c.disk.Committed() {
			panic(fmt.Sprintf("replication: entry %d of generation %d conflicts with what is committed up to %d",
				entries[0].Seq, entries[0].Gen, c.disk.Committed()))
		}
		if !c.must("truncate", c.disk.Truncate(held)) {
			return 0, false
		}
		c.durable, c.syncSeq, c.matched = min(c.durable, held), min(c.syncSeq, held), min(c.matched, held)
	}
	if mutant.On(mutant.ReplicaAckUnheld) && len(entries) > 1 {
		c.matched = entries[len(entries)-1].Seq
		entries = entries[:1]
	}
	if !c.must("append", c.disk.Append(entries)) {
		return 0, false
	}
	return entries[len(entries)-1].Seq, true
}

// onSeal promises a generation and says what the log holds.
func (c *Core) onSeal(from NodeID, m *Message) {
	switch {
	case (c.amnesiac() || c.disk.Incomplete()) && !mutant.On(mutant.ReplicaAmnesiacSeals):
		c.reject(from, m, "this replica may lack acknowledged entries")
	case m.Gen == c.prom && c.role == Secondary:
		c.answerSeal(from, m.From) // it asks again
	case m.Gen <= c.prom:
		c.reject(from, m, "a higher generation is promised")
	default:
		// From here on the grant is not renewed, so that the wait ends.
		c.lends = max(c.lends, m.Gen)
		if c.sealing == nil || m.Gen >= c.sealing.gen {
			c.sealing = &pendingSeal{from, m.From, m.Gen}
		}
		c.finishSeal()
	}
}

// finishSeal makes the promise once no lease of an older primary can be alive.
func (c *Core) finishSeal() {
	s := c.sealing
	if s == nil || !c.now.after(c.grant.until) && !mutant.On(mutant.ReplicaNoLeaseWait) {
		return
	}
	c.sealing = nil
	if s.gen <= c.prom {
		return
	}
	c.stepDown(fmt.Sprintf("generation %d is being sealed by %s", s.gen, s.from))
	if c.promise(s.gen) {
		c.answerSeal(s.from, s.inc)
	}
}

// promise raises the gate; it is durable when it returns.
func (c *Core) promise(g Generation) bool {
	if g <= c.prom {
		panic(fmt.Sprintf("replication: promise of generation %d after %d", g, c.prom))
	}
	if !mutant.On(mutant.ReplicaPromiseVolatile) && !c.must("promise", c.gate.Promise(c.lineage, g)) {
		return false
	}
	c.prom = g
	if c.grant.until > 0 {
		c.grantEnded = c.grant.until
	}
	c.grant = grant{}
	c.primaryOf = ""
	c.matched, c.unfit = 0, 0
	return true
}

func (c *Core) answerSeal(to NodeID, inc Incarnation) {
	gen, seq := c.disk.Last()
	c.sendTo(to, inc, &Message{Kind: MsgSealed, Gen: c.prom, LastGen: gen, LastSeq: seq, Durable: c.durable, Commit: c.disk.Committed()})
}

// onFetch sends the part of the log that a new primary has chosen.
func (c *Core) onFetch(from NodeID, m *Message) {
	if m.Gen != c.prom || c.role != Secondary {
		c.reject(from, m, "another generation is promised")
		return
	}
	answer := &Message{Kind: MsgFetched, Gen: m.Gen, PrevSeq: m.PrevSeq}
	entries, err := c.disk.ReadLog(m.PrevSeq, c.lim.SendBytes)
	if err != nil {
		answer.Refused = true
		c.note("%s asks for the log after %d: %v", from, m.PrevSeq, err)
	} else {
		answer.Entries = entries
	}
	c.sendTo(from, m.From, answer)
}

// onRelease ends the lease that the message names.
func (c *Core) onRelease(m *Message) {
	if mutant.On(mutant.ReplicaLateRelease) || m.Gen == c.grant.gen && m.Lease >= c.grant.id && m.Lease != 0 {
		c.grant.until = c.now
		c.finishSeal()
	}
}

// onJoin promises the generation of a primary that wants this node back.
func (c *Core) onJoin(from NodeID, m *Message) {
	if m.Gen < c.prom {
		c.reject(from, m, "a higher generation is promised")
		return
	}
	if c.rec != nil && c.rec.inSet(c.self, c.inc) && !c.amnesiac() && m.Gen > c.prom {
		// A member answers seals, not joins: a stale invitation must not make
		// it promise without saying what it holds.
		c.reject(from, m, "this node is a member")
		return
	}
	if m.Gen > c.prom {
		c.lends = max(c.lends, m.Gen)
		if !c.now.after(c.grant.until) {
			return // it asks again
		}
		c.stepDown("it joins as a member")
		if !c.promise(m.Gen) {
			return
		}
	}
	if c.coded != nil {
		if some, _ := c.coded.unsettled(); some {
			c.wantSync()
			return // it asks again, and is told of which batch the shard is for good
		}
	}
	c.copied, c.unfit = 0, 0 // of an earlier join
	c.invited++
	if !mutant.On(mutant.ReplicaAckStale) {
		// What it holds now may be cut: until the primary has begun anew, a sync that
		// ends must not acknowledge it.
		c.matched = 0
	}
	answer := &Message{Kind: MsgJoined, Gen: m.Gen, Commit: c.disk.Committed(), Durable: c.durable, Incomplete: c.disk.Incomplete()}
	answer.LastGen, answer.LastSeq = c.disk.Last()
	answer.PrevSeq = answer.Commit
	answer.PrevGen, _ = c.disk.GenAt(answer.Commit)
	c.tellBase(answer)
	if c.coded != nil {
		answer.Copy = uint64(c.coded.newest())
		b, _ := c.coded.base()
		answer.Lease = uint64(b)
	}
	c.sendTo(from, m.From, answer)
}

// onReset begins a copy.
func (c *Core) onReset(from NodeID, m *Message) {
	if m.Gen != c.prom || c.role != Secondary || c.rec != nil && c.rec.inSet(c.self, c.inc) && !c.amnesiac() {
		c.unfit = m.Gen // entries follow that take it for copied
		c.reject(from, m, "this node is a member, or promised another generation")
		return
	}
	sessions, err := blockdev.DecodeSessions(m.Data)
	if err != nil {
		c.reject(from, m, err.Error())
		return
	}
	if m.Off > c.disk.Size() && !c.must("resize", c.disk.Resize(m.Off)) {
		return
	}
	if c.coded != nil {
		c.coded.beginWith(batchID(m.Copy))
	}
	if !c.restart(m) {
		c.unfit = m.Gen
		return
	}
	c.disk.Adopt(sessions)
	c.matched, c.durable, c.syncSeq, c.copied = m.PrevSeq, m.PrevSeq, m.PrevSeq, 0
	c.ack(from, m.From, m.Gen)
}

// ack tells a primary what is held; a lease may be put into it.
func (c *Core) ack(to NodeID, inc Incarnation, g Generation) *Message {
	m := c.mem.message(MsgAck)
	m.Gen, m.Held, m.Durable, m.Copy = g, c.matched, min(c.durable, c.matched), c.copied
	if mutant.On(mutant.ReplicaAckUndurable) {
		m.Durable = c.matched
	}
	if c.coded != nil {
		_, m.Len = c.coded.Staging.LogUsed()
	}
	c.sendTo(to, inc, m)
	return m
}

// onCopy stores a piece of committed content under the log; one without a range
// ends the copy. The pieces of a connection arrive in order with the entries, so
// everything that a piece does not contain comes after it.
func (c *Core) onCopy(from NodeID, m *Message) {
	if m.Gen != c.prom || c.role != Secondary || m.Copy > c.copied && !c.disk.Incomplete() {
		c.reject(from, m, "no copy is under way")
		return
	}
	if m.Copy == c.copied+1 || mutant.On(mutant.ReplicaCopyAgain) && m.Copy > c.copied {
		var err error
		if m.Len > 0 {
			err = c.disk.Import(m.Off, m.Len, m.Data)
		} else {
			err = c.disk.Complete()
		}
		if !c.must("copy", err) {
			return
		}
		c.copied = m.Copy
	}
	c.ack(from, m.From, m.Gen)
}

// wantSync starts a sync, or another one after the one under way, which may
// have begun before what is now held was there.
func (c *Core) wantSync() {
	switch _, last := c.disk.Last(); {
	case c.syncing:
		c.syncAgain = c.syncAgain || c.syncSeq < last
	case c.durable < last:
		c.startSync()
	}
}

func (c *Core) startSync() {
	_, last := c.disk.Last()
	c.syncing, c.syncAgain, c.syncSeq = true, false, last
	c.out.Sync = true
}

// Synced reports the end of the sync that the effects asked for: everything that
// was held when it was asked for is durable.
func (c *Core) Synced(now Instant, err error) {
	if !c.enter(now) {
		return
	}
	if err != nil && mutant.On(mutant.ReplicaSyncAgain) {
		c.startSync()
		return
	}
	if !c.must("sync", err) {
		return
	}
	if !c.syncing {
		panic("replication: a sync ended that was not asked for")
	}
	c.syncing = false
	if mutant.On(mutant.ReplicaSyncEarly) {
		_, c.syncSeq = c.disk.Last()
	}
	c.durable = max(c.durable, c.syncSeq) // lowered if the log was cut meanwhile
	if c.coded != nil && !c.must("commit a batch", c.coded.follow()) {
		return
	}
	if c.syncAgain {
		c.startSync()
	}
	if c.role != Secondary {
		c.keepLog()
		c.progress()
		return
	}
	if c.primaryOf != "" {
		c.ack(c.primaryOf, c.primaryInc, c.prom)
	}
}

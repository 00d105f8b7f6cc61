package replication

import (
	"fmt"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// primary is what a core knows while it is more than a member.
type primary struct {
	base  *Record // the committed record: its set counts
	pend  *change // an undecided change: its set counts as well
	peers []*peer // every other recorded replica
	now   counted // base's set
	then  counted // pend's

	first  Seq // the GENERATION entry: nothing before it commits by itself
	commit Seq
	best   *peer // Sealing: whose log is being fetched; nil: own

	inflight queue[flight]      // mutations not committed, by seq
	locked   []*flight          // ranges that are being read for a mutation or a copy
	parked   []*Request         // wait for a role, a range, a commit or an attachment
	spare    []*Request         // memory of the last parked
	busy     filter             // blocks of all of these
	sessions *blockdev.Sessions // of the whole log
	retry    bool               // something that a parked request waits for has happened
	flushes  []*Request         // wait for Request.last to be durable
	syncTo   Seq                // somebody waits for this to be durable
	keep     Seq                // every member of the set holds the log up to here
	lag      lag                // of members that need not be waited for
	work     int64              // what clients have done, in bytes; see share
	worked   Instant            // when they did last; 0: never
	unread   []*Request         // read, but without a lease to prove it
	fence    Seq                // up to here the log may be that of an earlier attachment

	frozen Instant // since when a change of the set holds up commits; 0: none does
	drain  *handover
	join   *join
	plan   backoff // of changes
	joins  backoff
	shape  *Shape // asked for by an operator
	// refusal is why the quorum decided against the last change of the policy.
	refusal   string
	mends     []*mend
	chain     []*batch // of an erasure code: batches under way, in order
	larges    backoff  // of large writes that were given up
	pour      *pour    // the one under way
	poured    Instant  // when the last one had ended, or there was nothing to do
	pours     backoff
	lost      lostRows
	rotten    map[int64]uint32 // blocks of shards that fail their check or differ: by row, in which shards, as bits
	batches   uint32           // of this generation
	fetches   map[uint64]*fetch
	questions map[uint64]question
	reading   []*Request // wait for shards
	reads     uint64     // questions for content
	compare   *Comparison
	rewriting *Comparison // its range is being written again
	evict     *eviction
	leaves    backoff // of departures
	// yields: the quorum was asked to promote the node with the best log.
	yields uint64
	leases uint64 // given names so far
	cert   *Certificate
}

// stepDown ends whatever role there is. Requests under way are not answered:
// their connections are closed, so that clients ask again elsewhere.
func (c *Core) stepDown(why string) {
	if c.role == Secondary {
		return
	}
	c.note("generation %d: steps down: %s", c.gen, why)
	handed := c.p.drain != nil && c.p.drain.proposal != 0 && c.drained() // nothing that was begun is open
	moved := func(r *Request) {
		if r != nil && r.job == nil {
			c.finish(r, ErrMoved)
			if mutant.On(mutant.ReplicaAnswerAll) && r.Op.Mutates() {
				r.Err = nil
			}
		}
	}
	for _, f := range c.p.inflight.all() {
		if f.req != nil && f.req.last == f.last {
			moved(f.req)
		}
	}
	for _, f := range c.p.locked {
		moved(f.req)
	}
	for _, list := range [][]*Request{c.p.parked, c.p.flushes, c.p.unread, c.p.reading} {
		for _, r := range list {
			moved(r)
		}
	}
	for _, m := range c.p.mends {
		for _, r := range m.waiting {
			moved(r)
		}
	}
	c.out.Hangup = c.out.Hangup || c.role == Primary && !handed // before, nobody was served
	c.endEviction(ErrMoved)
	c.endComparison(ErrMoved)
	c.p = primary{}
	c.setRole(Secondary)
}

// recordAsPrimary adopts a newer record of the own generation. While it seals, only
// restarts that were registered can have changed it: their seals count no more.
func (c *Core) recordAsPrimary(r *Record) {
	if r.Attachment > c.p.base.Attachment {
		_, c.p.fence = c.disk.Last()
	}
	c.p.base, c.p.pend, c.p.frozen, c.p.retry = r, nil, 0, true
	c.p.plan.succeeded()
	if c.p.shape != nil && *c.p.shape == r.shape() {
		c.p.shape = nil
	}
	c.refreshPeers()
	c.evicted()
	if c.role == Sealing {
		c.trySelect()
		return
	}
	c.tryChange()
	c.progress()
}

// progress does whatever has become possible after acknowledgements, syncs or
// changes of the record.
func (c *Core) progress() {
	if c.role != Chosen && c.role != Primary {
		return
	}
	if mutant.On(mutant.ReplicaDropSilent) && c.role == Chosen {
		c.p.now.w, c.p.now.least = 1, 1
	}
	c.advance()
	if c.p.frozen != 0 || c.p.join != nil {
		c.tryChange()
		c.advance() // what the change had held up
	}
	if len(c.p.mends) > 0 {
		c.tryMends()
	}
	c.tryCompare()
	c.answerFlushes()
	c.tryHandover()
	c.admitParked()
}

// keepLog lets the log go that every member of the set has, and whoever joins it.
// What a member that counts lacks always stays: whoever is primary next may need that
// member, and may not be able to do without it (min-copies). Whoever lags holds nothing
// up: the quorum lets it go, or, where it may not, nothing is committed without it.
// What a member holds and has not synced, or one that joins lacks, stays as long as it
// does not lag far behind: a copy brings it level, too.
func (c *Core) keepLog() {
	held, durable := c.p.now.everywhere(c.p.commit)
	if c.p.pend != nil {
		h, d := c.p.then.everywhere(c.p.commit)
		held, durable = min(held, h), min(durable, d)
	}
	durable = min(durable, c.durable)
	if c.strict() {
		held = durable // who loses power counts still
	}
	floor := min(c.p.lag.floor(), c.p.commit)
	if mutant.On(mutant.ReplicaCutLagging) {
		held = floor
	}
	keep := max(durable, min(held, floor))
	if j := c.p.join; j != nil && j.joined {
		if p := c.peer(j.node); p != nil && p.ready {
			keep = min(keep, max(p.held, floor))
		}
	}
	if keep > c.p.keep {
		c.p.keep = keep
		c.disk.Keep(keep)
	}
}

// lag remembers about where the log was some bytes ago.
type lag struct {
	seqs  [lagMarks]Seq
	marks int
	bytes int64 // since the last mark
}

const lagMarks = 16

// add counts entries up to last. It is true every half of the limit.
func (l *lag) add(last Seq, bytes, limit int64) (half bool) {
	if l.bytes += bytes; l.bytes < limit/lagMarks {
		return false
	}
	l.seqs[l.marks%lagMarks] = last
	l.marks++
	l.bytes = 0
	return l.marks%(lagMarks/2) == 0
}

// floor is about the limit behind the end of the log; 0: not so much was written.
func (l *lag) floor() Seq {
	if l.marks < lagMarks {
		return 0
	}
	return l.seqs[l.marks%lagMarks]
}

// strict tells whether only what is durable counts as held.
func (c *Core) strict() bool {
	return c.p.base.Durability == DurableWrite || c.p.pend != nil && c.p.pend.Durability == DurableWrite
}

// advance moves the commit point (I3: counted now, not when it was sent).
func (c *Core) advance() {
	if c.p.frozen != 0 && c.role == Primary && !mutant.On(mutant.ReplicaUnfrozen) || c.role != Chosen && c.role != Primary {
		return
	}
	q := c.undecidable(c.quorum(c.strict() && !mutant.On(mutant.ReplicaHeldIsDurable)))
	if q <= c.p.commit || q < c.p.first && !mutant.On(mutant.ReplicaOldEntries) {
		return
	}
	if !c.must("commit", c.disk.Commit(q)) {
		return
	}
	c.p.commit, c.p.retry = q, true
	c.decidedBy(q)
	if c.role == Chosen && q >= c.p.first {
		c.serve()
	}
	for c.p.inflight.len() > 0 && c.p.inflight.all()[0].last <= q {
		f := c.p.inflight.pop()
		c.p.busy.remove(f.off, f.end)
		if f.req.last != f.last {
			continue // a part of it
		}
		if f.req.job != nil {
			f.req.job(f.req)
			continue
		}
		c.committed(f.req)
	}
}

// committed answers a mutation that is committed, when it is durable if it has to be.
func (c *Core) committed(r *Request) {
	if r.FUA && c.quorum(true) < r.last {
		c.p.flushes = append(c.p.flushes, r)
		c.needDurable(r.last)
	} else {
		c.finish(r, nil)
	}
}

// serve begins to serve: the log that this generation began with is committed.
func (c *Core) serve() {
	c.setRole(Primary)
	c.certify()
	for _, p := range c.p.peers {
		c.attend(p) // reads need leases
	}
}

// appendEntries adds the primary's own entries and sends them to every peer
// that keeps up.
func (c *Core) appendEntries(entries []blockdev.Entry) bool {
	prevGen, prevSeq := c.disk.Last()
	if !c.must("append", c.disk.Append(entries)) {
		return false
	}
	if c.strict() {
		c.wantSync()
	}
	bytes := 0
	for i := range entries {
		bytes += len(entries[i].Data) + 64
	}
	last := entries[len(entries)-1].Seq
	if c.p.lag.add(last, int64(bytes), c.lim.LagBytes) {
		c.needDurable(prevSeq) // only what is durable everywhere lets the log go
	}
	for _, p := range c.p.peers {
		if !p.ready || !p.up || p.next != entries[0].Seq || p.bytes+bytes > c.lim.SendBytes && p.bytes > 0 {
			continue // it catches up from the log when it answers
		}
		c.sendEntries(p, prevGen, prevSeq, entries, bytes)
		p.next = last + 1
	}
	return true
}

func (c *Core) sendEntries(p *peer, prevGen Generation, prevSeq Seq, entries []blockdev.Entry, bytes int) {
	if len(entries) > 0 {
		p.window.push(sent{entries[len(entries)-1].Seq, bytes})
		p.bytes += bytes
		if p.stalled == 0 {
			p.stalled = c.now
		}
	}
	m := c.mem.message(MsgAppend)
	m.Gen, m.PrevGen, m.PrevSeq, m.Entries, m.Commit, m.Keep = c.gen, prevGen, prevSeq, entries, c.p.commit, c.p.keep
	m.Sync = c.p.syncTo > p.asked && c.p.syncTo > p.durable || len(entries) > 0 && c.strict()
	if m.Sync {
		p.asked = max(c.p.syncTo, prevSeq+Seq(len(entries)))
	}
	if c.role == Primary && c.p.drain.lends() && (p.lease.at == 0 || c.now.after(p.lease.at.add(c.times.Lease/3))) {
		c.askLease(p, m)
	}
	p.sent = c.now
	c.send(p, m)
}

func (c *Core) askLease(p *peer, m *Message) {
	c.p.leases++
	p.lease.id, p.lease.at = c.p.leases, c.now
	m.Lease = p.lease.id
}

// pump sends a peer a piece of what it lacks, if the window has room for one: what fits
// into less, and then is answered, makes room for no more. Its answers and the ticks ask
// for the next pieces: several at once would hold everybody else up for as long as they
// take to read and encode.
func (c *Core) pump(p *peer) {
	_, last := c.disk.Last()
	full := p.bytes > 0 && p.bytes+int(c.lim.CopyBytes) > c.lim.SendBytes
	if mutant.On(mutant.ReplicaSmallPieces) {
		full = p.bytes >= c.lim.SendBytes
	}
	if !p.up || !p.ready || p.next > last || full {
		return
	}
	prev := p.next - 1
	gen, ok := c.disk.GenAt(prev)
	entries, err := c.disk.ReadLog(prev, min(int(c.lim.CopyBytes), c.lim.SendBytes-p.bytes))
	if err != nil || !ok && prev > 0 && prev > p.held {
		p.behind = true
		c.note("%s needs the log after %d, which is not kept: %v", p.node, prev, err)
		return
	}
	bytes := 0
	for i := range entries {
		bytes += len(entries[i].Data) + 64
	}
	c.sendEntries(p, gen, prev, entries, bytes)
	p.next = entries[len(entries)-1].Seq + 1
}

// probe sends an append without entries: a heartbeat that asks for an answer.
func (c *Core) probe(p *peer) {
	prev := p.next - 1
	gen, _ := c.disk.GenAt(prev)
	if p.stalled == 0 {
		p.stalled = c.now
	}
	c.sendEntries(p, gen, prev, nil, 0)
}

// onAnswer handles what other replicas answer to this one as a primary.
func (c *Core) onAnswer(from NodeID, m *Message) {
	p := c.peer(from)
	if p == nil || p.inc != m.From {
		return
	}
	if m.Kind == MsgReject && m.Promised > c.gen {
		c.stepDown(fmt.Sprintf("%s has promised generation %d", from, m.Promised))
		return
	}
	if c.role == Secondary || m.Gen != c.gen {
		return
	}
	p.heard, p.stalled = c.now, 0
	c.returned(p)
	switch m.Kind {
	case MsgAck:
		c.onAck(p, m)
	case MsgReject:
		c.onReject(p, m)
	case MsgSealed:
		c.onSealed(p, m)
	case MsgFetched:
		c.onFetched(p, m)
	case MsgJoined:
		c.onJoined(p, m)
	case MsgBlock:
		if c.coded != nil {
			c.onShard(p, m)
			return
		}
		c.onBlock(p, m)
	case MsgPrepared:
		c.onPrepared(p, m)
	case MsgDigested:
		c.onDigested(p, m)
	}
}

func (c *Core) onAck(p *peer, m *Message) {
	if !p.ready {
		return
	}
	if _, last := c.disk.Last(); m.Held > last {
		panic(fmt.Sprintf("replication: %s acknowledges entry %d of generation %d, the last is %d", p.node, m.Held, m.Gen, last))
	}
	p.held, p.log = max(p.held, m.Held), m.Len
	if m.Durable > p.durable {
		p.durable = m.Durable
		c.keepLog()
	}
	for p.window.len() > 0 && p.window.all()[0].seq <= p.held {
		p.bytes -= p.window.pop().bytes
	}
	if p.window.len() > 0 {
		p.stalled = c.now
	}
	if m.Lease != 0 && m.Lease == p.lease.id && c.role == Primary {
		p.lease.till = p.lease.at.add(c.times.Lease - c.times.Drift)
		if mutant.On(mutant.ReplicaLeaseLong) {
			p.lease.till = c.now.add(c.times.Lease - c.times.Drift)
		}
		c.answerReads()
	}
	if j := c.p.join; j != nil && j.node == p.node {
		j.empty = true
		j.held = max(j.held, m.Copy)
	}
	c.pump(p)
	c.progress()
	c.copyOn()
}

func (c *Core) onReject(p *peer, m *Message) {
	switch {
	case m.Promised < c.gen:
		p.ready, p.sealed = false, false // it has to be sealed or invited first
	case p.ready && c.p.join != nil && c.p.join.node == p.node && c.p.join.full:
		// It thinks that it counts still and may not be emptied, or has lost its
		// place.
		c.endJoin("it refused a copy")
	case p.ready:
		// Something was lost on the way: go on from what it holds.
		p.next = min(p.next, p.held+1)
		if m.LastSeq < p.held {
			c.note("%s lost entries %d to %d, which it acknowledged", p.node, m.LastSeq+1, p.held)
			p.behind = true
			return
		}
		p.emptyWindow()
	}
}

// tickPrimary renews leases, asks silent peers, and lets plans go on.
func (c *Core) tickPrimary() {
	for _, p := range c.p.peers {
		c.attend(p)
	}
	if c.role == Sealing {
		c.tickSealing()
		return
	}
	_, last := c.disk.Last()
	if c.strict() {
		c.needDurable(last) // also what was held before this durability, or by an earlier run
	}
	for _, p := range c.p.peers {
		if p.ready {
			p.follow(c.now, last, c.p.syncTo)
		}
	}
	c.keepLog()
	c.tickEviction()
	c.tickMends()
	c.tickCompare()
	c.tickPour()
	c.tryChange()
	c.progress()
	c.copyOn()
	c.tickJoin()
}

// attend sends a peer what keeps things going.
func (c *Core) attend(p *peer) {
	if !p.up || c.role == Secondary {
		return
	}
	pause := c.times.Probe
	if c.role == Primary && p.stalled == 0 {
		pause = c.times.Lease / 3 // it owes nothing: with the lease is soon enough
	}
	quiet := c.now.after(p.sent.add(pause))
	m := c.p.base.member(p.node)
	switch {
	case p.ready:
		lend := c.role == Primary && c.p.drain.lends() && m.State == UpToDate && c.now.after(p.lease.at.add(c.times.Lease/3))
		if quiet || lend {
			if quiet {
				p.asked = 0 // its answer may have been lost
			}
			c.probe(p)
		}
		c.pump(p)
	case m.State == UpToDate && !m.Amnesiac:
		if quiet && !p.sealed {
			c.sendSeal(p)
		}
	}
}

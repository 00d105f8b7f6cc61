package replication

import (
	"fmt"
	"slices"

	"blkd/blockdev"
)

// primary is what a core knows while it is more than a member.
type primary struct {
	base  *Record // the committed record: its set counts
	pend  *change // an undecided change: its set counts as well
	peers []*peer // every other recorded replica

	first  Seq // the GENERATION entry: nothing before it commits by itself
	commit Seq
	best   *peer // Sealing: whose log is being fetched; nil: own

	inflight []*flight  // mutations not committed, by seq
	locked   []*flight  // ranges that are being read for a mutation or a copy
	parked   []*Request // wait for a role, a range or a lease
	flushes  []*Request // wait for Request.last to be durable
	syncTo   Seq        // somebody waits for this to be durable
	keep     Seq        // every member of the set holds the log up to here
	unread   []*Request // read, but without a lease to prove it

	frozen Instant // since when a change of the set holds up commits; 0: none does
	drain  *handover
	join   *join
	plan   backoff // of changes
	// yielding: the quorum was asked to promote the node with the best log.
	yielding bool
	leases   uint64 // given names so far
}

// peer is another replica as the primary sees it.
type peer struct {
	node NodeID
	inc  Incarnation

	up      bool // connected
	since   Instant
	heard   Instant // its last answer, or the loss of its connection
	sent    Instant
	stalled Instant // since when it owes an answer; 0: it owes none

	sealed  *Message // its answer to SEAL of this generation
	ready   bool     // it promised this generation and next is known
	next    Seq      // first entry not sent on this connection
	held    Seq
	durable Seq
	asked   Seq  // a sync up to here was asked for
	far     bool // only a full copy brings it level
	behind  bool // what it needs is no longer in the log
	window  []sent
	bytes   int // sent and not answered

	lease struct {
		id   uint64
		at   Instant // asked
		last uint64  // granted
		till Instant // believed
	}
}

// sent is an append on its way.
type sent struct {
	seq   Seq
	bytes int
}

// flight is a mutation between its append and its commit, or a range that must
// not be appended to.
type flight struct {
	off, end    int64
	first, last Seq
	req         *Request
}

func (f *flight) overlaps(off, end int64) bool { return f.off < end && off < f.end }

func (c *Core) peer(n NodeID) *peer {
	for _, p := range c.p.peers {
		if p.node == n {
			return p
		}
	}
	return nil
}

// stepDown ends whatever role there is. Requests under way are not answered:
// their connections are closed, so that clients ask again elsewhere.
func (c *Core) stepDown(why string) {
	if c.role == Secondary {
		return
	}
	c.note("generation %d: steps down: %s", c.gen, why)
	moved := func(r *Request) {
		if r != nil && r.job == nil {
			r.Err = ErrMoved
			c.out.Done = append(c.out.Done, r)
		}
	}
	for _, f := range c.p.inflight {
		if f.req != nil && f.req.last == f.last {
			moved(f.req)
		}
	}
	for _, f := range c.p.locked {
		moved(f.req)
	}
	for _, list := range [][]*Request{c.p.parked, c.p.flushes, c.p.unread} {
		for _, r := range list {
			moved(r)
		}
	}
	c.out.Hangup = true
	c.p = primary{}
	c.setRole(Secondary)
}

// recordAsPrimary adopts a newer record of the own generation.
func (c *Core) recordAsPrimary(r *Record) {
	if r.Number <= c.p.base.Number {
		return
	}
	if c.role == Sealing {
		// The promotion's own record names the set that is sealed. No change of
		// it can be decided before there is a primary to ask for it, except a
		// restart that is registered: then those seals count no more.
		c.note("record %d while sealing", r.Number)
	}
	c.p.base, c.p.pend, c.p.frozen = r, nil, 0
	c.p.plan.succeeded()
	c.refreshPeers()
	if c.role == Sealing {
		c.trySelect()
		return
	}
	c.progress()
}

// refreshPeers makes the peers those of the record. Nothing that an earlier run
// of a node said counts for its successor.
func (c *Core) refreshPeers() {
	var peers []*peer
	for _, m := range c.p.base.Members {
		if m.Node == c.self {
			continue
		}
		p := c.peer(m.Node)
		if p == nil || p.inc != m.Incarnation {
			p = c.newPeer(m)
			if j := c.p.join; j != nil && j.node == m.Node {
				c.endJoin("it restarted")
			}
			if c.p.best != nil && c.p.best.node == m.Node {
				c.p.best = nil
			}
		}
		peers = append(peers, p)
	}
	c.p.peers = peers
	if j := c.p.join; j != nil {
		if m := c.p.base.member(j.node); m == nil || m.State == UpToDate && !m.Amnesiac {
			c.p.join = nil // it is a member now, or gone
		}
	}
}

func (c *Core) newPeer(m Member) *peer {
	p := &peer{node: m.Node, inc: m.Incarnation, since: c.now, heard: c.now}
	if l := c.links[m.Node]; l.up {
		p.up = true
	} else {
		p.heard = l.since
	}
	return p
}

// link is whether messages can be sent to a node, and since when.
type link struct {
	up    bool
	since Instant
}

// Connected tells that messages can be sent to a node.
func (c *Core) Connected(now Instant, n NodeID) {
	if !c.enter(now) {
		return
	}
	c.links[n] = link{true, now}
	if p := c.peer(n); p != nil {
		c.reconnect(p, true)
		c.attend(p)
	}
}

// Disconnected tells that what was sent to a node may be lost.
func (c *Core) Disconnected(now Instant, n NodeID) {
	if !c.enter(now) {
		return
	}
	c.links[n] = link{false, now}
	if p := c.peer(n); p != nil {
		c.reconnect(p, false)
	}
}

func (c *Core) reconnect(p *peer, up bool) {
	p.up = up
	if p.ready { // again from what it is known to hold
		p.next = p.held + 1
	}
	p.window, p.bytes, p.asked = nil, 0, 0
	p.lease.at = 0
	if j := c.p.join; j != nil && j.node == p.node {
		// What was sent may be lost; a copy goes on where it was, unless it had
		// not begun.
		if j.sent = j.held; j.full && !j.empty {
			c.endJoin("the connection broke")
		}
	}
}

// value is what one member counts with; self included.
type value func(n NodeID, inc Incarnation) Seq

func (c *Core) heldBy(n NodeID, inc Incarnation) Seq {
	if n == c.self {
		_, last := c.disk.Last()
		return last
	}
	if p := c.peer(n); p != nil && p.inc == inc && p.ready {
		return p.held
	}
	return 0
}

func (c *Core) durableAt(n NodeID, inc Incarnation) Seq {
	if n == c.self {
		return c.durable
	}
	if p := c.peer(n); p != nil && p.inc == inc && p.ready {
		return p.durable
	}
	return 0
}

// quorumOf is the highest seq that W of a set have, by what.
func quorumOf(set []Member, p Policy, what value) Seq {
	if len(set) == 0 {
		return 0
	}
	var buf [16]Seq
	has := buf[:0]
	for _, m := range set {
		if m.Amnesiac {
			has = append(has, 0)
		} else {
			has = append(has, what(m.Node, m.Incarnation))
		}
	}
	slices.Sort(has)
	return has[len(has)-p.ackQuorum(len(has))]
}

// quorum is the highest seq that counts: W of the recorded set and of the
// undecided one.
func (c *Core) quorum(what value) Seq {
	q := quorumOf(c.p.base.set(), c.p.base.Policy, what)
	if c.p.pend != nil {
		q = min(q, quorumOf(c.p.pend.set(), c.p.base.Policy, what))
	}
	return q
}

// progress does whatever has become possible after acknowledgements, syncs or
// changes of the record.
func (c *Core) progress() {
	if c.role != Chosen && c.role != Primary {
		return
	}
	c.keepLog()
	c.advance()
	c.tryChange()
	c.advance() // what the change had held up
	c.answerFlushes()
	c.tryHandover()
	if c.role == Primary {
		c.admitParked()
	}
}

// keepLog lets the log go that every member of the set has. What one of them
// lacks stays, so that whoever is primary can bring it level.
func (c *Core) keepLog() {
	all := func(r *Record) Seq {
		lowest := c.p.commit
		for _, m := range r.set() {
			lowest = min(lowest, c.durableAt(m.Node, m.Incarnation)) // power loss may take the rest
		}
		return lowest
	}
	keep := all(c.p.base)
	if c.p.pend != nil {
		keep = min(keep, all(&c.p.pend.Record))
	}
	if keep > c.p.keep {
		c.p.keep = keep
		c.disk.Keep(keep)
	}
}

// advance moves the commit point (I3: counted now, not when it was sent).
func (c *Core) advance() {
	if c.p.frozen != 0 && c.role == Primary || c.role != Chosen && c.role != Primary {
		return
	}
	what := c.heldBy
	if c.p.base.Durability == DurableWrite {
		what = c.durableAt
	}
	q := c.quorum(what)
	if q <= c.p.commit || q < c.p.first {
		return
	}
	if !c.must("commit", c.disk.Commit(q)) {
		return
	}
	c.p.commit = q
	if c.role == Chosen {
		c.setRole(Primary)
		for _, p := range c.p.peers {
			c.attend(p) // reads need leases
		}
	}
	n := 0
	for ; n < len(c.p.inflight) && c.p.inflight[n].last <= q; n++ {
		r := c.p.inflight[n].req
		switch {
		case r.last != c.p.inflight[n].last: // a part of it
		case r.FUA && c.quorum(c.durableAt) < r.last:
			c.p.flushes = append(c.p.flushes, r)
			c.needDurable(r.last)
		default:
			c.out.Done = append(c.out.Done, r)
		}
	}
	c.p.inflight = slices.Delete(c.p.inflight, 0, n)
}

// appendEntries adds the primary's own entries and sends them to every peer
// that keeps up.
func (c *Core) appendEntries(entries []blockdev.Entry) bool {
	prevGen, prevSeq := c.disk.Last()
	if !c.must("append", c.disk.Append(entries)) {
		return false
	}
	if c.p.base.Durability == DurableWrite {
		c.wantSync()
	}
	bytes := 0
	for i := range entries {
		bytes += len(entries[i].Data) + 64
	}
	last := entries[len(entries)-1].Seq
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
		p.window = append(p.window, sent{entries[len(entries)-1].Seq, bytes})
		p.bytes += bytes
		if p.stalled == 0 {
			p.stalled = c.now
		}
	}
	m := &Message{Kind: MsgAppend, Gen: c.gen, PrevGen: prevGen, PrevSeq: prevSeq, Entries: entries, Commit: c.p.commit, Keep: c.p.keep}
	m.Sync = c.p.syncTo > p.asked && c.p.syncTo > p.durable || c.p.base.Durability == DurableWrite && len(entries) > 0
	if m.Sync {
		p.asked = max(c.p.syncTo, prevSeq+Seq(len(entries)))
	}
	if c.role == Primary && c.p.drain.lends() && (p.lease.at == 0 || c.now.after(p.lease.at.add(c.times.Lease/3))) {
		c.p.leases++
		p.lease.id, p.lease.at = c.p.leases, c.now
		m.Lease = p.lease.id
	}
	p.sent = c.now
	c.send(p.node, p.inc, m)
}

// pump sends a peer what it lacks, as far as the window allows.
func (c *Core) pump(p *peer) {
	_, last := c.disk.Last()
	for p.up && p.ready && p.next <= last && p.bytes < c.lim.SendBytes {
		prev := p.next - 1
		gen, ok := c.disk.GenAt(prev)
		entries, err := c.disk.ReadLog(prev, c.lim.SendBytes-p.bytes)
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
	}
}

func (c *Core) onAck(p *peer, m *Message) {
	if !p.ready {
		return
	}
	_, last := c.disk.Last()
	if m.Held > last {
		panic(fmt.Sprintf("replication: %s acknowledges entry %d of generation %d, the last is %d", p.node, m.Held, m.Gen, last))
	}
	p.held, p.durable = max(p.held, m.Held), max(p.durable, m.Durable)
	n := 0
	for ; n < len(p.window) && p.window[n].seq <= p.held; n++ {
		p.bytes -= p.window[n].bytes
	}
	p.window = slices.Delete(p.window, 0, n)
	if len(p.window) > 0 {
		p.stalled = c.now
	}
	if m.Lease != 0 && m.Lease == p.lease.id && c.role == Primary && c.p.drain.lends() {
		p.lease.last = m.Lease
		p.lease.till = p.lease.at.add(c.times.Lease - c.times.Drift)
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
		p.ready, p.sealed = false, nil // it has to be sealed or invited first
	case p.ready:
		// Something was lost on the way: go on from what it holds.
		p.next = min(p.next, p.held+1)
		if m.LastSeq < p.held {
			c.note("%s lost entries %d to %d, which it acknowledged", p.node, m.LastSeq+1, p.held)
			p.behind = true
			return
		}
		p.window, p.bytes = nil, 0
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
	c.progress()
	c.copyOn()
	c.tickJoin()
}

// attend sends a peer what keeps things going.
func (c *Core) attend(p *peer) {
	if !p.up || c.role == Secondary {
		return
	}
	quiet := c.now.after(p.sent.add(c.times.Probe))
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
		if quiet && p.sealed == nil {
			c.sendSeal(p)
		}
	}
}

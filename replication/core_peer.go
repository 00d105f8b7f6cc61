package replication

import (
	"slices"

	"blkd/internal/mutant"
)

// peer is another replica as the primary sees it.
type peer struct {
	node NodeID
	inc  Incarnation

	up      bool  // connected
	version uint8 // of the protocol that it speaks then
	since   Instant
	heard   Instant // its last answer, or the loss of its connection
	sent    Instant
	stalled Instant // since when it owes an answer; 0: it owes none

	seal     Message // its answer to SEAL of this generation, if
	sealed   bool    // it has one,
	sealedAt Instant // which came then
	ready    bool    // it promised this generation and next is known
	next     Seq     // first entry not sent on this connection
	held     Seq
	durable  Seq
	asked    Seq  // a sync up to here was asked for
	far      bool // only a full copy brings it level
	behind   bool // what it needs is no longer in the log
	whole    bool // nobody knows what has changed since its shard was here
	window   queue[sent]
	bytes    int   // sent and not answered
	log      int64 // bytes of its log, of an erasure code; 0: not known
	pace     pace
	tries    int     // joins that began
	silent   bool    // the last one ended because nothing was heard, and nothing was since
	barred   Instant // it was moved out for being slow, and is not invited before
	penance  backoff

	lease struct {
		id   uint64
		at   Instant // asked
		till Instant // believed
	}
}

// sent is an append on its way.
type sent struct {
	seq   Seq
	bytes int
}

// pace is how quickly a peer keeps up: since when it has not held, and not synced,
// what it was to hold and sync then.
type pace struct {
	held, durable       Seq
	heldFrom, syncsFrom Instant // 0: it is level
}

// follow updates a peer's pace: last is the end of the log, sync up to where
// somebody waits for a sync.
func (p *peer) follow(now Instant, last, sync Seq) {
	mark := func(at, has, wanted Seq, from Instant) (Seq, Instant) {
		switch {
		case has >= wanted:
			return at, 0
		case from == 0 || has >= at:
			return wanted, now
		}
		return at, from
	}
	p.pace.held, p.pace.heldFrom = mark(p.pace.held, p.held, last, p.pace.heldFrom)
	p.pace.durable, p.pace.syncsFrom = mark(p.pace.durable, p.durable, sync, p.pace.syncsFrom)
}

// slow tells whether a peer takes d or longer to keep up.
func (p *peer) slow(now Instant, d Instant) bool {
	late := func(from Instant) bool { return from != 0 && now.after(from+d) }
	return late(p.pace.heldFrom) || late(p.pace.syncsFrom)
}

func (c *Core) peer(n NodeID) *peer {
	for _, p := range c.p.peers {
		if p.node == n {
			return p
		}
	}
	return nil
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
		if joins := c.p.join != nil && c.p.join.node == m.Node; c.coded != nil && m.State != UpToDate && !joins {
			p.ready = false // batches are decided without it from now on, so it cannot follow
		}
		peers = append(peers, p)
	}
	c.p.peers = peers
	if j := c.p.join; j != nil {
		if m := c.p.base.member(j.node); m == nil || m.State == UpToDate && !m.Amnesiac {
			if m != nil && j.full {
				c.note("%s is level: %d bytes were copied", j.node, j.copied)
			}
			c.p.join = nil // it is a member now, or gone
			c.p.joins.succeeded()
		} else if m.State == Inconsistent && j.joined && !j.full {
			c.endJoin("what it holds was declared worthless")
		}
	}
	c.recount()
}

func (c *Core) newPeer(m Member) *peer {
	p := &peer{node: m.Node, inc: m.Incarnation, since: c.now, heard: c.now, penance: backoff{first: c.times.Slow}}
	switch l, known := c.links[m.Node]; {
	case l.up:
		p.up, p.version = true, l.version
	case known: // one that was never connected is given time to come
		p.heard = l.since
	}
	return p
}

// link is whether messages can be sent to a node, since when, and of which version.
type link struct {
	up      bool
	since   Instant
	version uint8
}

// Connected tells that messages can be sent to a node, of a version of the protocol.
func (c *Core) Connected(now Instant, n NodeID, version uint8) {
	if !c.enter(now) {
		return
	}
	c.links[n] = link{true, now, version}
	if p := c.peer(n); p != nil {
		p.version = version
		c.returned(p)
		c.reconnect(p, true)
		c.attend(p)
	}
}

// returned lets a replica be invited at once that is heard again: the pauses between
// invitations had grown while it was not there.
func (c *Core) returned(p *peer) {
	if p.silent {
		p.silent = false
		c.p.joins.succeeded()
	}
}

// Disconnected tells that what was sent to a node may be lost.
func (c *Core) Disconnected(now Instant, n NodeID) {
	if !c.enter(now) {
		return
	}
	c.links[n] = link{since: now}
	if p := c.peer(n); p != nil {
		c.reconnect(p, false)
	}
}

func (c *Core) reconnect(p *peer, up bool) {
	p.up = up
	if p.ready { // again from what it is known to hold
		p.next = p.held + 1
	}
	p.emptyWindow()
	p.asked = 0
	p.lease.at = 0
	c.partLost(p)
	if j := c.p.join; j != nil && j.node == p.node {
		// What was sent may be lost; a copy goes on where it was, unless it had
		// not begun.
		if !mutant.On(mutant.ReplicaCopyAgain) {
			j.sent = j.held
		}
		if j.full && !j.empty {
			c.endJoin("the connection broke")
		}
	}
}

func (p *peer) emptyWindow() {
	p.window.clear()
	p.bytes = 0
}

// starts makes a peer one that follows this log, which it holds up to at.
func (p *peer) starts(at, durable Seq) {
	p.ready, p.next, p.held, p.durable = true, at+1, at, durable
	p.pace = pace{}
	p.emptyWindow()
}

// counted is a recorded member set, or one that was asked for, ready to be
// counted over.
type counted struct {
	self  bool
	peers []*peer
	n     int // members, with those that count for nothing: amnesiacs, and runs that are over
	w     int // so many hold what is committed,
	least int // and, of what this generation was sent by clients, not fewer than min-copies
}

// recount follows a change of the record, or of what was asked for.
func (c *Core) recount() {
	if !mutant.On(mutant.ReplicaFrozenSet) || c.p.now.n == 0 {
		c.p.now = c.count(c.p.base)
	}
	if c.p.pend != nil {
		c.p.then = c.count(&c.p.pend.Record)
	}
}

func (c *Core) count(r *Record) (s counted) {
	for i := range r.Members {
		m := &r.Members[i]
		if m.State != UpToDate {
			continue
		}
		s.n++
		switch p := c.peer(m.Node); {
		case m.Amnesiac:
		case m.Node == c.self:
			s.self = m.Incarnation == c.inc
		case p != nil && p.inc == m.Incarnation:
			s.peers = append(s.peers, p)
		}
	}
	s.w = r.Policy.ackQuorum(s.n)
	if mutant.On(mutant.ReplicaAckMajority) {
		s.w = s.n/2 + 1
	}
	s.least = max(s.w, r.MinCopies)
	if mutant.On(mutant.ReplicaMinCopies) {
		s.least = s.w
	}
	return s
}

// reached is the highest seq that w members hold, or hold durably.
func (c *Core) reached(s *counted, durable bool, w int) Seq {
	var buf [16]Seq
	has := buf[:0]
	for _, p := range s.peers {
		switch {
		case !p.ready:
		case durable:
			has = append(has, p.durable)
		default:
			has = append(has, p.held)
		}
	}
	if s.self {
		if _, last := c.disk.Last(); durable {
			has = append(has, c.durable)
		} else {
			has = append(has, last)
		}
	}
	if len(has) < w || w == 0 {
		return 0
	}
	slices.Sort(has)
	return has[len(has)-w]
}

// quorum is the highest seq that counts as held, or as held durably: by W of the
// recorded set, and of the one that was asked for. What clients write in this
// generation needs min-copies besides; what its log began with does not, because
// it was chosen from what there is.
func (c *Core) quorum(durable bool) Seq {
	q, least := c.reached(&c.p.now, durable, c.p.now.w), c.reached(&c.p.now, durable, c.p.now.least)
	if c.p.pend != nil {
		then, thenLeast := c.reached(&c.p.then, durable, c.p.then.w), c.reached(&c.p.then, durable, c.p.then.least)
		if mutant.On(mutant.ReplicaDropUndecided) {
			return thenLeast
		}
		if !mutant.On(mutant.ReplicaCountOneSet) {
			q, least = min(q, then), min(least, thenLeast)
		}
	}
	return max(min(q, c.p.first), least)
}

// everywhere is up to where every member holds what is committed, and holds it durably;
// 0 if that is not known of one.
func (s *counted) everywhere(commit Seq) (held, durable Seq) {
	if len(s.peers) < s.n-1 {
		return 0, 0
	}
	held, durable = commit, commit
	for _, p := range s.peers {
		if !p.ready {
			return 0, 0
		}
		held, durable = min(held, p.held), min(durable, p.durable)
	}
	return held, durable
}

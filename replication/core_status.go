package replication

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"blkd/internal/mutant"
)

// Certificate tells why a generation may serve: everything that was acknowledged
// before is in the log that it began with (protocol section 4).
type Certificate struct {
	// Before and After are the numbers of the records promoted from and promoted
	// to; their generations differ by one.
	Before, After uint64
	Generation    Generation // of After
	Members       []Member   // that counted in After
	Needed        int        // S: so many seals meet everybody who may have acknowledged
	Seals         []Seal     // this node's first
	Chosen        NodeID     // whose log was taken
	End           Mark       // where it ended
	Committed     Seq        // the furthest commit that any of them knew of
	First         Seq        // the GENERATION entry; what precedes it is committed with it
	LeaseEnd      Instant    // of the last lease that this node itself had granted; 0: none since it started
	Asked         Instant    // the record was seen here,
	Sealed        Instant    // there were enough seals,
	Serving       Instant    // the GENERATION entry was committed
}

// Seal is what a member said of its log when it promised a generation.
type Seal struct {
	Node        NodeID
	Incarnation Incarnation
	End         Mark
	Durable     Seq
	Commit      Seq
	At          Instant // when the answer came
}

func (c *Core) newCertificate(r *Record) *Certificate {
	return &Certificate{Before: r.Number - 1, After: r.Number, Generation: r.Generation, Members: r.set(), Asked: c.now,
		LeaseEnd: c.grantEnded}
}

// certifyChoice records the seals that suffice, and whose log was chosen of them;
// nil is the own one. Later seals change nothing.
func (c *Core) certifyChoice(best *peer) {
	x := c.p.cert
	own := Seal{Node: c.self, Incarnation: c.inc, Durable: c.durable, Commit: c.disk.Committed(), At: x.Asked}
	own.End.Generation, own.End.Seq = c.disk.Last()
	x.Seals, x.Sealed, x.Chosen, x.End = append(x.Seals[:0], own), c.now, own.Node, own.End
	for _, p := range c.p.now.peers {
		if !p.sealed {
			continue
		}
		x.Seals = append(x.Seals, Seal{p.node, p.inc, Mark{p.seal.LastGen, p.seal.LastSeq}, p.seal.Durable, p.seal.Commit, p.sealedAt})
		if p == best {
			x.Chosen, x.End = p.node, Mark{p.seal.LastGen, p.seal.LastSeq}
		}
	}
	for i := range x.Seals {
		x.Committed = max(x.Committed, x.Seals[i].Commit)
	}
	x.First, x.Needed = x.End.Seq+1, c.p.base.Policy.sealQuorum(c.p.now.n)
}

// certify tells that the generation serves.
func (c *Core) certify() {
	c.p.cert.Serving = c.now
	if c.cfg.Events.Served != nil {
		c.cfg.Events.Served(c.p.cert)
	}
}

// Status is what a core does at one moment.
type Status struct {
	Role       Role
	Generation Generation // of the role; of the promise, for a Secondary
	Number     uint64     // of the newest record known; 0: none
	Commit     Seq
	LastGen    Generation
	Last       Seq
	Durable    Seq
	Inflight   int // mutations not committed
	Waiting    int // requests that wait: for a role, a range, a sync or a lease
	CanRead    bool
	Attachment uint64 // what is admitted now
	Settled    bool   // nothing of an earlier attachment is under way
	Changing   bool   // the quorum was asked for a change
	Pouring    string // of an erasure code, at the primary: what the batch under way waits for; empty: there is none
	Pour       PourStatus
	Handover   NodeID // to whom the volume is handed over; empty: to nobody
	Peers      []PeerStatus
	// Missing are the members that a recovery waits for; Recovering that one is
	// needed. Empty: all have answered, and none has a whole log.
	Recovering bool
	Missing    []NodeID
	Empty      bool
}

// PourStatus is how the primary of an erasure-coded volume gets its log into the shards.
type PourStatus struct {
	Waits    string        // what that waits for; empty: for nothing
	Node     NodeID        // the member that it hangs on; empty: it is none, or not known
	Lost     bool          // there are blocks that too few shards have
	For      time.Duration // since it began to wait
	LogUsed  int64         // bytes,
	LogBytes int64         // of so many. Requests wait when half of them are taken
}

// PeerStatus is another replica as this primary sees it.
type PeerStatus struct {
	Node      NodeID
	Connected bool
	Ready     bool // it follows this log
	Held      Seq
	Durable   Seq
	Sent      int           // bytes on their way
	Behind    bool          // what it lacks is not in the log any more
	Slow      bool          // it takes too long to keep up
	Lease     time.Duration // until its lease ends; 0: there is none
	Joining   bool
	Full      bool  // content is copied: the log does not reach
	Extents   bool  // only of what has changed
	Copied    int64 // bytes sent of that
	Cursor    int64 // where in the volume, or the shard, the copy is, bytes,
	Span      int64 // of so many
}

// Status tells what the core does. It may be called at any time, and waits for
// nothing.
func (c *Core) Status() Status {
	s := Status{Role: c.role, Generation: c.prom, Commit: c.disk.Committed(), Durable: c.durable}
	s.LastGen, s.Last = c.disk.Last()
	if c.rec != nil {
		s.Number = c.rec.Number
	}
	if v := c.rescue; v != nil {
		s.Recovering, s.Missing = true, v.missing(c.rec, c.waived)
		s.Empty = len(s.Missing) == 0 && v.best(c.rec) == nil
	}
	if c.role == Secondary {
		return s
	}
	s.Generation, s.Inflight = c.gen, c.p.inflight.len()
	s.Waiting = len(c.p.parked) + len(c.p.locked) + len(c.p.flushes) + len(c.p.unread) + len(c.p.reading)
	s.CanRead, s.Changing = c.leaseValid(), c.p.pend != nil
	s.Attachment, s.Settled = c.p.base.Attachment, c.p.commit >= c.p.fence || mutant.On(mutant.ReplicaEarlyTakeover)
	s.Pouring = c.pouring()
	if c.coded != nil && c.role == Primary {
		s.Pour = c.pourStatus()
	}
	if h := c.p.drain; h != nil {
		s.Handover = h.to
	}
	for _, p := range c.p.peers {
		s.Peers = append(s.Peers, c.peerStatus(p))
	}
	return s
}

func (c *Core) pourStatus() (s PourStatus) {
	s.LogUsed, s.LogBytes = c.coded.LogUsed()
	need, since := max(c.coded.code.K(), c.p.base.MinCopies), c.now
	switch sound := c.soundShards(""); {
	case c.p.lost.err != nil:
		s.Waits, s.Lost, since = fmt.Sprintf("blocks that too few shards have: %v", c.p.lost.err), true, c.p.lost.since
	case c.p.pour != nil:
		s.Waits, s.Node, since = c.pouring(), c.pourHeld(), c.p.pour.began
	case s.LogUsed > 0 && sound < need:
		s.Waits, since = fmt.Sprintf("%d shards that count, and there are %d", need, sound), max(c.p.poured, c.p.cert.Serving)
	}
	s.For = time.Duration(c.now - since)
	return s
}

// pourHeld is the member that the batch under way hangs on; empty: it is not known.
func (c *Core) pourHeld() NodeID {
	if b := c.p.pour.batch; b != nil {
		return c.lacks(b)
	}
	for _, m := range c.p.base.set() {
		if q := c.peer(m.Node); m.Node != c.self && (q == nil || !q.up || !q.ready) {
			return m.Node
		}
	}
	if asked := slices.Sorted(maps.Keys(c.p.questions)); len(asked) > 0 {
		return c.p.questions[asked[0]].peer.node
	}
	return ""
}

func (c *Core) peerStatus(p *peer) PeerStatus {
	s := PeerStatus{Node: p.node, Connected: p.up, Ready: p.ready, Held: p.held, Durable: p.durable, Sent: p.bytes,
		Behind: p.behind, Slow: p.slow(c.now, Instant(c.times.Slow))}
	if p.lease.till > c.now {
		s.Lease = time.Duration(p.lease.till - c.now)
	}
	if j := c.p.join; j != nil && j.node == p.node {
		s.Joining, s.Full, s.Extents, s.Copied, s.Cursor = true, j.full, j.behind > 0, j.copied, j.cursor
		if s.Span = c.disk.Size(); c.coded != nil {
			s.Span = c.coded.shardSize()
		}
	}
	return s
}

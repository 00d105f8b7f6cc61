package replication

import "blkd/blockdev"

// View lets a simulator, or a status, look into a core for what no message shows. It
// changes nothing, and is good until the core's next call.
type View struct{ c *Core }

// View returns the core's inside.
func (c *Core) View() View { return View{c} }

// Promised is the generation that the core goes by; the replica's gate must say
// the same (I2).
func (v View) Promised() Generation { return v.c.prom }

// Record is the newest record known; nil: none yet.
func (v View) Record() *Record { return v.c.rec }

// Counted is the record that a primary counts over; nil for a Secondary.
func (v View) Counted() *Record { return v.c.p.base }

// Asked is the record that a primary has asked for and that is not decided; nil: none.
func (v View) Asked() *Record {
	if v.c.p.pend == nil {
		return nil
	}
	return &v.c.p.pend.Record
}

// CanRead tells whether a read would be answered at a time of the node's clock.
func (v View) CanRead(now Instant) bool {
	was := v.c.now
	v.c.now = max(was, now)
	ok := v.c.leaseValid()
	v.c.now = was
	return ok
}

// First is the GENERATION entry of a primary; Fence is up to where its log may be
// that of an earlier attachment.
func (v View) First() Seq { return v.c.p.first }

// Fence is up to where a primary's log may be that of an earlier attachment.
func (v View) Fence() Seq { return v.c.p.fence }

// Undone calls f for each mutation that is not committed, with its last entry.
func (v View) Undone(f func(attachment uint64, last Seq)) {
	for _, x := range v.c.p.inflight.all() {
		f(x.req.Attachment, x.last)
	}
}

// Copying describes a join: how many pieces were sent and are held, and whether the
// joiner has promised, needs a copy and has been emptied.
func (v View) Copying() (sent, held uint64, joined, full, empty bool) {
	if j := v.c.p.join; j != nil {
		return j.sent, j.held, j.joined, j.full, j.empty
	}
	return 0, 0, false, false, false
}

// Lost tells why the primary does not wait for a member any longer; empty: it does.
func (v View) Lost(m Member) string { return v.c.lost(m) }

// Fetching tells whether a promoted member takes another's log.
func (v View) Fetching() bool { return v.c.p.best != nil }

// Sealed tells whether a promoted member has a node's seal.
func (v View) Sealed(n NodeID) bool {
	p := v.c.peer(n)
	return p != nil && p.sealed
}

// Released tells whether a hand-over has given the leases up.
func (v View) Released() bool { return v.c.p.drain != nil && v.c.p.drain.proposal != 0 }

// Last is the last entry of a mutation, or the one that a flush makes durable.
func (r *Request) Last() Seq { return r.last }

// Set lists the members that count for acknowledgements and seals, amnesiacs
// included.
func (r *Record) Set() []Member { return r.set() }

// Member finds a node among all recorded replicas; nil if it is none.
func (r *Record) Member(n NodeID) *Member { return r.member(n) }

// AckQuorum is how many of n members must hold an entry, SealQuorum the fewest that
// meet each so many.
func (p Policy) AckQuorum(n int) int { return p.ackQuorum(n) }

// SealQuorum is the fewest of n members that meet every ack quorum.
func (p Policy) SealQuorum(n int) int { return p.sealQuorum(n) }

// Outrun lets a primary take a member for one that needs what its log no longer
// has, which is rare otherwise. Only simulators call it.
func (c *Core) Outrun(n NodeID) {
	if p := c.peer(n); p != nil {
		p.behind = true
	}
}

// Decision tells what an entry of the log decides, if it is a decision: that a batch is
// current, and that the shards have the log up to an entry.
func Decision(e *blockdev.Entry) (batch uint64, upto Seq, ok bool) {
	if e.Kind != blockdev.EntryWrite || e.Off != blockdev.AsideOff {
		return 0, 0, false
	}
	d, err := decodeDecision(e.Seq, e.Data)
	return uint64(d.batch), d.upto, err == nil
}

// Durable is up to where the core knows its own log to be durable.
func (v View) Durable() Seq { return v.c.durable }

// Known is what a promoted member knows of another replica.
type Known struct {
	Node        NodeID
	Incarnation Incarnation
	Held        Seq // 0 as long as it does not follow, like
	Durable     Seq
	Sealed      bool
	Lease       Instant // believed until then
}

// Known tells what a promoted member knows of its i-th peer, from 0; false: there are
// not so many.
func (v View) Known(i int) (k Known, ok bool) {
	if i >= len(v.c.p.peers) {
		return k, false
	}
	p := v.c.p.peers[i]
	k = Known{Node: p.node, Incarnation: p.inc, Sealed: p.sealed, Lease: p.lease.till}
	if p.ready {
		k.Held, k.Durable = p.held, p.durable
	}
	return k, true
}

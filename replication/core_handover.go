package replication

import (
	"fmt"

	"blkd/internal/mutant"
)

// HandoverReason is why a planned hand-over promotes another member.
const HandoverReason = "planned hand-over"

// handover is a planned promotion of another member.
type handover struct {
	to       NodeID
	inc      Incarnation
	since    Instant
	proposal uint64 // leases are given up, and the quorum was asked for this; 0: not yet
}

// lends tells whether new leases may be asked for.
func (h *handover) lends() bool { return h == nil || h.proposal == 0 }

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
	c.progress()
	return nil
}

// tryHandover goes on with a hand-over, or gives it up when it takes too long. It
// may be given up when the quorum has not decided: this generation serves on, with
// new leases, until it learns that it has ended.
func (c *Core) tryHandover() {
	h := c.p.drain
	if h == nil || c.role != Primary {
		return
	}
	p := c.peer(h.to)
	switch {
	case p == nil || p.inc != h.inc || c.now.after(h.since.add(4*c.times.Drop)):
		c.endHandover("it takes too long")
	case h.proposal == 0 && c.drained() && p.held >= c.p.commit:
		c.release()
		h.proposal = c.propose(Proposal{Promote: h.to, PromoteInc: h.inc, Why: HandoverReason})
	}
}

func (c *Core) endHandover(why string) {
	c.note("the hand-over to %s is given up: %s", c.p.drain.to, why)
	c.p.drain, c.p.retry = nil, true
}

// drained tells whether nothing is under way.
func (c *Core) drained() bool {
	_, last := c.disk.Last()
	return c.p.inflight.len()+len(c.p.mends)+len(c.p.locked)+len(c.p.flushes)+len(c.p.unread)+len(c.p.reading) == 0 && c.p.commit >= last && c.p.pend == nil
}

// release gives every lease up, also one whose grant is still on its way here.
func (c *Core) release() {
	for _, q := range c.p.peers {
		if q.lease.id != 0 {
			m := c.mem.message(MsgRelease)
			m.Gen, m.Lease = c.gen, q.lease.id
			c.send(q, m)
		}
		q.lease.till = 0
		if !mutant.On(mutant.ReplicaReleasedLease) {
			q.lease.id, q.lease.at = 0, 0
		}
	}
}

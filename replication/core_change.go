package replication

import (
	"slices"
	"strings"
	"time"
)

// change is a change of the members that the quorum has not decided yet. Both
// sets count until it has.
type change struct {
	Record // as it would be; only Members differ from the base
	id     uint64
}

// backoff spaces the attempts of a plan (L2).
type backoff struct {
	first time.Duration
	wait  time.Duration
	until Instant
}

func (b *backoff) ready(now Instant) bool { return now.after(b.until) }

func (b *backoff) failed(now Instant) {
	b.wait = min(max(2*b.wait, b.first), 32*b.first)
	b.until = now.add(b.wait)
}

func (b *backoff) succeeded() { b.wait, b.until = 0, 0 }

func (c *Core) propose(p Proposal) {
	c.nextProposal++
	p.ID, p.Generation, p.Number = c.nextProposal, c.p.base.Generation, c.p.base.Number
	c.out.Proposals = append(c.out.Proposals, p)
	if p.Members != nil {
		c.p.pend = &change{Record: *c.p.base, id: p.ID}
		c.p.pend.Members = p.Members
	}
}

// Refused reports that the quorum decided against a proposal, for good: it has
// not been and will not be applied. A proposal that is applied is reported by
// the record.
func (c *Core) Refused(now Instant, id uint64, why string) {
	if !c.enter(now) || c.role == Secondary {
		return
	}
	c.note("the quorum refused a change: %s", why)
	c.p.plan.failed(now)
	c.p.yielding = false
	if c.p.pend != nil && c.p.pend.id == id {
		c.p.pend = nil
	}
	if c.p.drain != nil && c.p.drain.released {
		c.p.drain = nil // nobody else was promoted: serve on
	}
	c.progress()
}

// tryChange asks for at most one change of the set: somebody has to leave it, or
// may come (back).
func (c *Core) tryChange() {
	if c.p.pend != nil || c.p.drain != nil || c.role != Chosen && c.role != Primary || !c.p.plan.ready(c.now) {
		return
	}
	members, comer, why := c.wantedMembers()
	if members == nil {
		c.p.frozen = 0
		return
	}
	// Everything that may be committed must be durable at W of the new set, and
	// at whoever comes (section 5). Nothing more is committed until that is so.
	next := *c.p.base
	next.Members = members
	need := c.p.commit
	if c.role == Chosen {
		_, need = c.disk.Last()
	}
	if c.p.frozen == 0 {
		c.p.frozen = c.now
	}
	if quorumOf(next.set(), next.Policy, c.durableAt) < need || comer != nil && comer.durable < need {
		if comer != nil && c.now.after(c.p.frozen.add(c.times.Drop/2)) {
			c.p.frozen = 0
			c.endJoin("its disk is too slow to be level")
			return
		}
		c.needDurable(need)
		return
	}
	c.p.frozen = 0
	c.propose(Proposal{Members: members, Why: why})
}

// wantedMembers is the member list that should be recorded, and who comes in by
// it; nil if the recorded one is right.
func (c *Core) wantedMembers() (members []Member, comer *peer, why string) {
	if members, why := c.withoutLost(); members != nil {
		return members, nil, why
	}
	if j := c.p.join; j != nil && j.complete() {
		_, last := c.disk.Last()
		// Only when everything was sent: commits wait for its answer.
		if p := c.peer(j.node); p != nil && p.up && p.ready && p.next > last {
			members := slices.Clone(c.p.base.Members)
			m := find(members, j.node)
			m.State, m.Amnesiac, m.Incarnation = UpToDate, false, p.inc
			return members, p, string(j.node) + " is level"
		}
	}
	return nil, nil, ""
}

// withoutLost is the recorded list without the members that the others should
// not wait for any longer, as far as min-copies allows; all in one change,
// because with some of them alone no quorum might be left to ask.
func (c *Core) withoutLost() (members []Member, why string) {
	left := len(c.p.base.set())
	var reasons []string
	for i, m := range c.p.base.Members {
		reason := c.lost(m)
		if reason == "" || left-1 < max(c.p.base.MinCopies, 1) {
			continue
		}
		if members == nil {
			members = slices.Clone(c.p.base.Members)
		}
		members[i].State, members[i].Amnesiac = Outdated, false
		reasons = append(reasons, string(m.Node)+" "+reason)
		left--
	}
	return members, strings.Join(reasons, ", ")
}

// lost says why a member holds the others up: it has owed an answer for too
// long, cannot follow any more, or has lost its memory. It is empty if it does
// not.
func (c *Core) lost(m Member) string {
	p := c.peer(m.Node)
	switch {
	case p == nil || m.State != UpToDate:
		return ""
	case m.Amnesiac:
		return "may have lost entries when its machine restarted"
	case p.behind:
		return "is further behind than the log reaches"
	case !p.up && c.now.after(p.heard.add(c.times.Drop)):
		return "is not connected"
	case p.stalled != 0 && c.now.after(p.stalled.add(c.times.Drop)) && c.now.after(p.heard.add(c.times.Drop)):
		return "does not answer"
	case !p.ready && c.now.after(p.since.add(4*c.times.Drop)):
		return "refuses to follow"
	}
	return ""
}

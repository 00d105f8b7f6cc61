package replication

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"blkd/internal/mutant"
)

// change is a change of the members or the policy that the quorum has not decided
// yet. Both records count until it has.
type change struct {
	Record // as it would be
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

// propose asks the quorum for a change of the record, and returns its number.
func (c *Core) propose(p Proposal) uint64 {
	c.nextProposal++
	p.ID, p.Generation, p.Number = c.nextProposal, c.p.base.Generation, c.p.base.Number
	c.out.Proposals = append(c.out.Proposals, p)
	if p.Promote != "" {
		return p.ID
	}
	c.p.pend = &change{Record: *c.p.base, id: p.ID}
	if p.Members != nil {
		c.p.pend.Members = p.Members
	}
	if p.Shape != nil {
		c.p.pend.adopt(p.Shape)
	}
	c.recount()
	return p.ID
}

func (r *Record) adopt(s *Shape) {
	r.Policy, r.MinCopies, r.Durability = s.Policy, s.MinCopies, s.Durability
}

// Refused reports that the quorum decided against a proposal, for good: it has
// not been and will not be applied. A proposal that is applied is reported by
// the record.
func (c *Core) Refused(now Instant, id uint64, why string) {
	if !c.enter(now) {
		return
	}
	c.note("the quorum refused a change: %s", why)
	if v := c.rescue; v != nil && v.proposal == id {
		v.proposal = 0
		v.plan.failed(c.now)
	}
	if c.role == Secondary {
		return
	}
	if c.p.yields == id {
		c.p.yields = 0
		c.p.plan.failed(c.now)
	}
	if c.p.pend != nil && c.p.pend.id == id {
		if c.p.pend.shape() != c.p.base.shape() {
			c.p.shape, c.p.refusal = nil, why // the operator may ask again
		}
		if departs(c.p.base.Members, c.p.pend.Members) {
			c.evictionRefused(why)
		}
		c.p.pend = nil
		c.p.plan.failed(c.now)
	}
	if h := c.p.drain; h != nil && h.proposal == id {
		c.endHandover(why)
	}
	c.progress()
}

// Change asks for another policy. It is recorded when everything committed is
// durable at so many members as the new policy asks for, or at once if only min-copies
// becomes less: that may be asked for before the generation serves, too, for it may not be
// able to without. Until then both count. The error says why it cannot begin.
func (c *Core) Change(now Instant, s Shape) error {
	if !c.enter(now) {
		return c.failed
	}
	if c.role != Primary && (c.role != Chosen || !c.onlyFewer(Proposal{Shape: &s})) {
		return fmt.Errorf("%w: this node is %s", ErrMoved, c.role)
	}
	if s == c.p.base.shape() {
		return nil
	}
	c.p.shape = &s
	c.tryChange()
	c.progress()
	return nil
}

// tryChange asks for at most one change of the record: somebody has to leave the
// set, or may come (back), or an operator wants a replica out or another policy.
func (c *Core) tryChange() {
	if mutant.On(mutant.ReplicaForgetChange) && c.p.pend != nil && c.now.after(c.p.plan.until.add(c.times.Probe)) {
		c.p.pend = nil
		c.p.plan.failed(c.now)
	}
	if c.p.pend != nil || c.p.drain != nil || c.role != Chosen && c.role != Primary || !c.p.plan.ready(c.now) {
		c.p.frozen = 0
		return
	}
	p, comer := c.wanted()
	if p.Members == nil && p.Shape == nil {
		c.p.frozen = 0
		return
	}
	if c.onlyFewer(p) {
		c.p.frozen = 0
		c.propose(p)
		return
	}
	// Everything that may be committed must be durable at W of the new set, or,
	// where somebody comes, at that one: then no fewer than before lack any of it
	// (section 5). Nothing more is committed until that is so; and as soon as the
	// change is asked for, both sets count.
	next := *c.p.base
	if p.Members != nil {
		next.Members = p.Members
	}
	if p.Shape != nil {
		next.adopt(p.Shape)
	}
	need := c.p.commit
	if c.role == Chosen && !mutant.On(mutant.ReplicaShrinkEarly) {
		_, need = c.disk.Last()
	}
	if c.p.frozen == 0 {
		c.p.frozen = c.now
	}
	then := c.count(&next)
	leaves := comer == nil || len(next.Members) < len(c.p.base.Members) // of an erasure code, somebody with the same shard
	if leaves && c.reached(&then, true, then.w) < need && !mutant.On(mutant.ReplicaShrinkLosing) || comer != nil && comer.durable < need && !mutant.On(mutant.ReplicaGrowLacking) {
		if comer != nil && c.now.after(c.p.frozen.add(c.times.Drop/2)) {
			c.p.frozen = 0
			c.endJoin("its disk is too slow to be level")
			return
		}
		if c.holdsUp(p) {
			return
		}
		c.needDurable(need)
		return
	}
	c.p.frozen = 0
	c.barSlow(p.Members)
	c.propose(p)
}

// onlyFewer tells whether all that a change asks for is fewer min-copies. The same
// members count then, and W of them hold what is committed, so nothing has to be waited
// for: most of all not for those that the operator wants to go on without.
func (c *Core) onlyFewer(p Proposal) bool {
	if p.Members != nil || p.Shape == nil || mutant.On(mutant.ReplicaFewerWaits) {
		return false
	}
	was := c.p.base.shape()
	fewer := p.Shape.MinCopies < was.MinCopies
	was.MinCopies = p.Shape.MinCopies
	return fewer && *p.Shape == was
}

// barSlow keeps those who leave because they are slow away for a while, each time
// for longer: whoever comes back at once leaves again soon.
func (c *Core) barSlow(members []Member) {
	for _, m := range members {
		p := c.peer(m.Node)
		if p != nil && m.State == Outdated && c.p.base.member(m.Node).State == UpToDate && p.slow(c.now, Instant(c.times.Slow)) {
			p.penance.failed(c.now)
			p.barred = p.penance.until
		}
	}
}

// nearlyLevel is how many entries a replica that joins may lack of what is
// committed when commits begin to wait for it.
const nearlyLevel = 1000

// wanted is the change that should be recorded, and who comes in by it; empty if
// the record is right.
func (c *Core) wanted() (Proposal, *peer) {
	if members, why := c.withoutLost(); members != nil {
		return Proposal{Members: members, Why: why}, nil
	}
	if members, why := c.departure(); members != nil {
		return Proposal{Members: members, Why: why}, nil
	}
	if j := c.p.join; j != nil && j.complete() {
		// Only when it is nearly level and keeps up: commits wait for its answer.
		near := func(p *peer) bool { return p.held+nearlyLevel >= c.p.commit || mutant.On(mutant.ReplicaGrowLacking) }
		if p := c.peer(j.node); p != nil && p.up && p.ready && near(p) && !p.slow(c.now, Instant(c.times.Drop/4)) && c.reachedBy(j) && c.partsAt(p) {
			members := slices.Clone(c.p.base.Members)
			m := find(members, j.node)
			m.State, m.Amnesiac, m.Incarnation = UpToDate, false, p.inc
			why := string(j.node) + " is level"
			if old := c.outgoing(*m); old != nil {
				members, why = c.without(old.Node, false), why+", and "+string(old.Node)+" was to leave"
				*find(members, j.node) = *m
			}
			return Proposal{Members: members, Why: why}, p
		}
	}
	if s := c.p.shape; s != nil {
		return Proposal{Shape: s, Why: "an operator asked for it"}, nil
	}
	return Proposal{}, nil
}

// withoutLost is the recorded list without the members that the others should
// not wait for any longer, as far as min-copies allows; all in one change,
// because with some of them alone no quorum might be left to ask. It is nil if
// those that stay cannot go on either.
func (c *Core) withoutLost() (members []Member, why string) {
	left := c.p.now.n
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
	if members == nil || !c.canCommit(members) {
		return nil, ""
	}
	return members, strings.Join(reasons, ", ")
}

// canCommit tells whether W of a member list are at work.
func (c *Core) canCommit(members []Member) bool {
	next := *c.p.base
	next.Members = members
	s := c.count(&next)
	able := 0
	if s.self {
		able++
	}
	for _, p := range s.peers {
		if c.lost(*next.member(p.node)) == "" {
			able++
		}
	}
	return able >= s.w
}

// lost says why a member holds the others up: it has owed an answer for too
// long, cannot follow any more, is slow, or has lost its memory. It is empty if it
// does not.
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
	case p.ready && p.slow(c.now, Instant(c.times.Slow)):
		return "does not keep up"
	case c.partLate(p):
		return "does not store its shard"
	}
	return ""
}

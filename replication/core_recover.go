package replication

import (
	"fmt"
	"slices"
	"strings"

	"blkd/internal/mutant"
)

// recovery collects what every member's log holds, because too few members are
// sound to promote one (protocol section 5). The best log becomes that of the
// next generation; its node is the only member at first, and the others join.
//
// Nobody can be promoted while it goes on, and a primary that is at work refuses
// it; so the logs do not change between their answers and the quorum's decision,
// but for entries that nobody can commit. A member that starts again changes the
// record, which begins the recovery anew.
type recovery struct {
	number   uint64 // of the record that it is for
	answers  map[NodeID]Message
	asked    Instant
	refused  Instant
	proposal uint64
	plan     backoff
}

// Waive lets the recovery under way go on without the logs of some members, and
// whatever only they hold is given up. It is an operator's decision, which counts for
// this recovery only; why goes into the record's history. The error says that there is
// no recovery.
func (c *Core) Waive(now Instant, nodes []NodeID, why string) error {
	switch {
	case !c.enter(now):
		return c.failed
	case c.rescue == nil:
		return ErrNoRecovery
	}
	c.waived, c.waivedWhy = slices.Clone(nodes), why
	c.tickRecovery()
	return nil
}

// tickRecovery begins a recovery when one is needed, and goes on with it.
func (c *Core) tickRecovery() {
	r := c.rec
	if r == nil || r.Lineage != c.lineage || !r.inSet(c.self, c.inc) || !r.recoverable() || c.role == Chosen || c.role == Primary {
		c.rescue, c.waived = nil, nil
		return
	}
	c.stepDown("the volume has to be recovered") // the seals it waits for cannot come
	begins := c.rescue == nil || c.rescue.number != r.Number
	if begins {
		c.rescue = &recovery{number: r.Number, answers: map[NodeID]Message{}, plan: backoff{first: c.times.Retry}}
	}
	if begins || c.now.after(c.rescue.asked.add(c.times.Probe)) {
		c.rescue.asked = c.now
		c.collect()
	}
	c.tryRecover()
}

// collect asks every member for what its log holds, and answers for this one.
func (c *Core) collect() {
	for _, m := range c.rec.set() {
		switch {
		case m.Node == c.self:
			c.rescue.answers[c.self] = *c.collected(c.rec.Generation)
			c.wantSync()
		case m.Incarnation != 0:
			x := c.mem.message(MsgCollect)
			x.Gen, x.Sync = c.rec.Generation, true
			c.sendTo(m.Node, m.Incarnation, x)
		}
	}
}

// collected is what this replica's log holds.
func (c *Core) collected(g Generation) *Message {
	m := c.mem.message(MsgCollected)
	m.Gen, m.Commit, m.Durable, m.Incomplete = g, c.disk.Committed(), c.durable, c.disk.Incomplete()
	m.LastGen, m.LastSeq = c.disk.Last()
	return m
}

// onCollect answers a recovery. A primary that has its log is not in need of one;
// one that still seals gives up, for its seals will never suffice.
func (c *Core) onCollect(from NodeID, m *Message) {
	if c.role == Sealing && m.Gen >= c.gen || c.role != Secondary && m.Gen > c.gen {
		c.stepDown(fmt.Sprintf("generation %d has to be recovered", m.Gen))
	}
	answer := c.collected(m.Gen)
	if c.role != Secondary {
		answer.Refused = true
	} else if m.Sync {
		c.wantSync()
	}
	c.sendTo(from, m.From, answer)
}

func (c *Core) onCollected(from NodeID, m *Message) {
	v := c.rescue
	if v == nil || c.rec.Generation != m.Gen || !c.rec.inSet(from, m.From) {
		return
	}
	if m.Refused {
		v.refused = c.now
		delete(v.answers, from)
		return
	}
	answer := *m
	answer.Entries, answer.Data = nil, nil
	v.answers[from] = answer
	c.tryRecover()
}

// missing lists the members whose logs are not known yet and not given up.
func (v *recovery) missing(r *Record, waived []NodeID) (nodes []NodeID) {
	for _, m := range r.set() {
		if _, ok := v.answers[m.Node]; !ok && !slices.Contains(waived, m.Node) {
			nodes = append(nodes, m.Node)
		}
	}
	return nodes
}

// best is the member with the best log: the one that was written longest by the
// newest primary.
func (v *recovery) best(r *Record) (best *Member) {
	for _, m := range r.set() {
		a, ok := v.answers[m.Node]
		if !ok || a.Incomplete {
			continue
		}
		if best != nil {
			b := v.answers[best.Node]
			if a.LastGen < b.LastGen || a.LastGen == b.LastGen && a.LastSeq <= b.LastSeq {
				continue
			}
		}
		best = &m
	}
	return best
}

// tryRecover asks the quorum to end the recovery when every log is known and the
// best one is durable.
func (c *Core) tryRecover() {
	v := c.rescue
	if v == nil || v.proposal != 0 || !v.plan.ready(c.now) || len(v.missing(c.rec, c.waived)) > 0 && !mutant.On(mutant.ReplicaRecoverSome) {
		return
	}
	best := v.best(c.rec)
	if mutant.On(mutant.ReplicaRecoverOwn) {
		best = c.rec.member(c.self)
	}
	if best == nil {
		c.note("no member of the volume has a complete log")
		v.plan.failed(c.now)
		return
	}
	if a := v.answers[best.Node]; a.Durable < a.LastSeq && !mutant.On(mutant.ReplicaRecoverVolatile) {
		return // what was flushed elsewhere must not depend on its memory
	}
	var waived []NodeID
	members := slices.Clone(c.rec.Members)
	for i := range members {
		m := &members[i]
		if m.State == UpToDate && m.Node != best.Node {
			m.State = Outdated
			if _, known := v.answers[m.Node]; !known {
				waived = append(waived, m.Node)
			}
		}
		m.Amnesiac = false
	}
	c.nextProposal++
	v.proposal = c.nextProposal
	why := "too few members are sound; " + string(best.Node) + " has the best log"
	if len(waived) > 0 {
		why += "; given up: " + strings.Join(names(waived), ", ") + ", " + c.waivedWhy
	}
	c.out.Proposals = append(c.out.Proposals, Proposal{ID: v.proposal, Generation: c.rec.Generation, Number: c.rec.Number,
		Members: members, Promote: best.Node, PromoteInc: best.Incarnation, Recover: true, Waived: waived, Why: why})
}

func names(nodes []NodeID) []string {
	out := make([]string, len(nodes))
	for i, n := range nodes {
		out[i] = string(n)
	}
	return out
}

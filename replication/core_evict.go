package replication

import (
	"errors"
	"fmt"
	"slices"
)

// Eviction is an operator's wish that a replica counts no more. It becomes a change
// of the record as soon as everything committed is durable at W of the others; until
// that is decided, both sets count.
type Eviction struct {
	Node NodeID
	// Keep: it stays recorded, as Inconsistent, so that all of it is copied anew.
	// Else it leaves the record.
	Keep bool
	Why  string // for the history
	// Done is told, once, that it is recorded, or why not: ErrMoved if this node is
	// primary no more. It must not wait, and must not call the core.
	Done func(error)
}

// Evict begins an eviction. The error says why it cannot begin; Done is not called
// then.
func (c *Core) Evict(now Instant, e Eviction) error {
	if !c.enter(now) {
		return c.failed
	}
	if c.role != Primary {
		return fmt.Errorf("%w: this node is %s", ErrMoved, c.role)
	}
	if c.p.evict != nil {
		return fmt.Errorf("the replica of %s is just being taken out", c.p.evict.Node)
	}
	if err := c.mayEvict(e.Node); err != nil {
		return err
	}
	if c.coded != nil && !e.Keep {
		return errors.New("it is erasure-coded, and needs each of its shards")
	}
	c.p.evict = &eviction{Eviction: e, since: c.now}
	c.evicted()
	c.tryChange()
	c.progress()
	return nil
}

type eviction struct {
	Eviction
	since    Instant
	refusals int
}

// evictRefusals is how often the quorum may refuse an eviction: the record may have
// changed meanwhile, but not again and again.
const evictRefusals = 3

// mayEvict says why the others cannot do without a replica.
func (c *Core) mayEvict(n NodeID) error {
	m := c.p.base.member(n)
	switch {
	case m == nil:
		return fmt.Errorf("%s has no replica", n)
	case n == c.self:
		return errors.New("it is the primary")
	case c.coded != nil && c.soundShards(n) < c.coded.code.K():
		return errors.New("too few other shards count to rebuild its own")
	case m.State != UpToDate:
		return nil
	case c.p.now.n-1 < max(c.p.base.MinCopies, 1):
		return fmt.Errorf("%d replicas count, and min-copies is %d", c.p.now.n, c.p.base.MinCopies)
	case !c.canCommit(c.without(n, false)):
		return errors.New("the others that answer would be too few to go on")
	}
	return nil
}

// without is the recorded list without a replica, or with one that is to be copied
// anew.
func (c *Core) without(n NodeID, keep bool) []Member {
	members := slices.Clone(c.p.base.Members)
	if keep {
		m := find(members, n)
		m.State, m.Amnesiac = Inconsistent, false
		return members
	}
	return slices.DeleteFunc(members, func(m Member) bool { return m.Node == n })
}

// departure is the change that takes one replica out: that of an eviction, or of a
// replica that is recorded as leaving when all the others are level. Nil: none.
func (c *Core) departure() (members []Member, why string) {
	if c.role != Primary || !c.p.leaves.ready(c.now) {
		return nil, ""
	}
	if e := c.p.evict; e != nil {
		err := c.mayEvict(e.Node)
		if err == nil {
			return c.without(e.Node, e.Keep), e.Why
		}
		c.endEviction(err)
	}
	if c.coded != nil || !c.restIsLevel() {
		return nil, "" // of an erasure code, who leaves goes when another one comes: see outgoing
	}
	for _, m := range c.p.base.Members {
		if m.Leaving && c.mayEvict(m.Node) == nil {
			return c.without(m.Node, false), string(m.Node) + " was to leave, and all others are level"
		}
	}
	return nil, ""
}

// outgoing is the member that goes when another one comes to count: of an erasure code,
// one that leaves and has the same shard. So a shard never counts twice, and there is no
// moment without it. Nil: nobody goes.
func (c *Core) outgoing(m Member) *Member {
	if c.coded == nil {
		return nil
	}
	i := slices.IndexFunc(c.p.base.Members, func(x Member) bool { return x.Leaving && x.Shard == m.Shard && x.Node != m.Node && !m.Leaving })
	if i < 0 {
		return nil
	}
	return &c.p.base.Members[i]
}

// holdsPlace tells whether a member cannot be replaced now by the one that comes for it:
// it is the primary, or so few count that others have to come back first.
func (c *Core) holdsPlace(old *Member) bool {
	return old != nil && (old.Node == c.self || old.State == UpToDate && c.p.now.n < c.p.base.MinCopies)
}

// restIsLevel tells whether every replica that does not leave counts, and follows.
func (c *Core) restIsLevel() bool {
	for _, m := range c.p.base.Members {
		if m.Leaving {
			continue
		}
		if m.State != UpToDate || m.Amnesiac || c.lost(m) != "" {
			return false
		}
		if p := c.peer(m.Node); p != nil && !p.ready {
			return false
		}
	}
	return true
}

// evicted ends an eviction that is recorded.
func (c *Core) evicted() {
	c.p.leaves.succeeded()
	if e := c.p.evict; e != nil {
		if m := c.p.base.member(e.Node); m == nil || e.Keep && m.State == Inconsistent {
			c.endEviction(nil)
		}
	}
}

// endEviction reports the end of an eviction, if there is one.
func (c *Core) endEviction(err error) {
	if e := c.p.evict; e != nil {
		c.p.evict = nil
		e.Done(err)
	}
}

// evictionRefused counts a refusal by the quorum.
func (c *Core) evictionRefused(why string) {
	if e := c.p.evict; e != nil {
		if e.refusals++; e.refusals == evictRefusals {
			c.endEviction(errors.New(why))
		}
	}
}

// tickEviction gives up one that takes too long and that the quorum was not asked
// for. Commits do not wait for it for so long: see holdsUp.
func (c *Core) tickEviction() {
	if e := c.p.evict; e != nil && c.p.pend == nil && c.now.after(e.since.add(16*c.times.Drop)) {
		c.endEviction(errors.New("it takes too long to make everything durable at the others"))
	}
}

// holdsUp tells whether a departure has held up commits for long: they go on, and it
// is tried again later.
func (c *Core) holdsUp(p Proposal) bool {
	if !departs(c.p.base.Members, p.Members) || !c.now.after(c.p.frozen.add(c.times.Drop/2)) {
		return false
	}
	c.p.frozen = 0
	c.p.leaves.failed(c.now)
	return true
}

// departs tells whether a list is one of departure: a replica is gone from it, or
// was declared worthless.
func departs(before, after []Member) bool {
	return after != nil && slices.ContainsFunc(before, func(m Member) bool {
		x := find(after, m.Node)
		return x == nil || x.State == Inconsistent && m.State != Inconsistent
	})
}

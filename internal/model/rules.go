package model

import "math/bits"

// Rules are what the protocol allows, one method for each step: it tells why the step
// may not be taken, or nothing if it may. What a method looks at is all in its
// argument. So a rule is written once: the exploration asks it in every state of a small
// cluster, and Replay asks it for each step of a cluster that runs, however large.
type Rules struct{ Bug Bug }

// Role is what a node does; the numbers are those of package replication.
type Role uint8

// The roles.
const (
	Secondary Role = iota // a member, or not even that
	Sealing               // promoted: collects promises
	Chosen                // has the log of its generation
	Serving
)

// Nodes are nodes by their bits.
type Nodes uint32

// Bit is one node.
func Bit(i int) Nodes { return 1 << i }

// Has tells whether node i is one of them.
func (n Nodes) Has(i int) bool { return n>>i&1 != 0 }

func (n Nodes) count() int { return bits.OnesCount32(uint32(n)) }

// Set is who counts, as a record says.
type Set struct {
	Members   Nodes
	Amnesiacs Nodes // of the members: those that may have lost entries
	Majority  bool  // the policy; else all
}

// sound are the members that count for something.
func (s Set) sound() Nodes { return s.Members &^ s.Amnesiacs }

// Needs is W: how many members hold what is committed.
func (s Set) Needs() int {
	if s.Majority {
		return s.Members.count()/2 + 1
	}
	return s.Members.count()
}

// Seals is S: the fewest members that meet every W of them.
func (s Set) Seals() int { return s.Members.count() - s.Needs() + 1 }

// alike tells whether two sets count alike: most of two are all of them, so that the
// quorum may take one policy for the other.
func (s Set) alike(o Set) bool {
	if s.Members.count() <= 2 {
		s.Majority = o.Majority
	}
	return s == o
}

func (s Set) enough(holders Nodes) bool { return (holders & s.sound()).count() >= s.Needs() }

// seals is how many seals suffice.
func (r Rules) seals(s Set) int {
	switch r.Bug {
	case SealsOfSound:
		s.Members = s.sound()
	case FewSeals:
		return s.Seals() - 1
	}
	return s.Seals()
}

// Promise is a node that promises a generation.
type Promise struct {
	Had, New uint64 // generations
	Asked    bool   // this run of it was: by the record that makes it primary, by SEAL, or by JOIN
	Forgot   bool   // it is recorded as an amnesiac
	Lent     bool   // a lease that it gave may be believed in
}

func (r Rules) promise(p Promise) string {
	switch {
	case !p.Asked:
		return "nobody has asked this run of it to"
	case p.New <= p.Had:
		return "it had promised that, or more"
	}
	return ""
}

// Activate: the node that the quorum has named begins its generation.
func (r Rules) Activate(p Promise) string {
	if p.Lent && r.Bug != OwnGrant {
		return "a lease that it gave is alive"
	}
	return r.promise(p)
}

// Seal: a member promises a generation to who was promoted, and tells its log.
func (r Rules) Seal(p Promise) string {
	switch {
	case p.Forgot && r.Bug != AmnesiacSeals:
		return "it may have lost entries"
	case p.Lent && r.Bug != SealOverGrant:
		return "a lease that it gave is alive"
	}
	return r.promise(p)
}

// Join: who counts for nothing promises a generation to its primary, to be brought level.
func (r Rules) Join(p Promise) string { return r.promise(p) }

// Choose: a promoted node takes a log that these seals do not beat, one of them its own.
func (r Rules) Choose(s Set, seals Nodes) string {
	if (seals & s.Members).count() < r.seals(s) {
		return "too few have sealed that have no better one"
	}
	return ""
}

// Taking is a log that follows that of a generation.
type Taking struct {
	Promised, Gen uint64
	Same          uint64 // so many entries were the primary's before,
	New           uint64 // so many entries it has now,
	Follows       uint64 // and so many of them are the primary's
}

// Take: a member makes its log that of the primary up to some entry.
func (r Rules) Take(t Taking) string {
	switch {
	case t.Gen != t.Promised && !(r.Bug == OlderGeneration && t.Promised > t.Gen):
		return "another generation is promised"
	case t.New < t.Same && r.Bug != Truncate:
		return "that cuts off what the primary has, too"
	case t.Follows < t.New && r.Bug != AnyPrevious:
		return "the primary's log is another one"
	}
	return ""
}

// Cut: a member cuts off what its primary's log does not have.
func (r Rules) Cut(t Taking) string { return r.Take(t) }

// Commit is what a primary counts when it commits its log up to an entry.
type Commit struct {
	Gen, Entry uint64 // generations: its own, and that of the entry
	Set, Asked Set    // no members were asked for: no change is undecided
	Holders    Nodes  // of which it knows that they hold that; durably, where that counts alone
	Joins      Nodes  // who joins, at most one
}

// Commit: a primary commits entries.
func (r Rules) Commit(c Commit) string {
	switch {
	case c.Entry != c.Gen && r.Bug != OldEntries:
		return "the last one is of an older generation"
	case !c.Set.enough(c.Holders) && !(r.Bug == NewSetOnly && c.Asked.Members != 0):
		return "too few of the set hold them"
	case c.Asked.Members != 0 && !c.Asked.enough(c.Holders) && r.Bug != OldSetOnly:
		return "too few of the set that it has asked for hold them"
	case !c.Set.Majority && c.Joins&^c.Holders != 0 && r.Bug != OldSetOnly:
		return "who joins does not hold them"
	}
	return ""
}

// Change is another set that a primary asks for.
type Change struct {
	Role     Role
	Pending  bool // another change is undecided
	From, To Set
	Holders  Nodes // of which it knows that they have what may be committed, durably
}

// Change: a primary asks the quorum for another set.
func (r Rules) Change(c Change) string {
	comers := c.To.sound() &^ c.From.sound()
	leaves := c.From.Members&^c.To.Members != 0
	policy := c.From.Majority != c.To.Majority
	switch {
	case c.Pending:
		return "another change is undecided"
	case c.Role < Chosen && r.Bug != ShrinkUnsealed:
		return "its log is not chosen"
	case comers&^c.Holders != 0 && r.Bug != GrowLacking:
		return "who comes may lack what may be committed"
	case c.Role < Chosen, leaves && r.Bug == ShrinkLosing, policy && r.Bug == PolicyUnchecked:
	case (leaves || policy) && !c.To.enough(c.Holders):
		return "too few of the new set have what may be committed"
	}
	return ""
}

// Reading is a node that is to answer a read.
type Reading struct {
	Role       Role
	Set, Asked Set   // as in Commit
	Lent       Nodes // who has lent it the right, itself left out
}

// Read: a primary answers a read.
func (r Rules) Read(x Reading) string {
	switch {
	case x.Role != Serving && !(r.Bug == ServeEarly && x.Role == Chosen):
		return "it does not serve"
	case !r.lent(x.Set, x.Lent):
		return "too few of the set have lent it the right"
	case x.Asked.Members != 0 && !r.lent(x.Asked, x.Lent) && r.Bug != LeaseOneSet:
		return "too few of the set that it has asked for have lent it the right"
	}
	return ""
}

func (r Rules) lent(s Set, by Nodes) bool {
	need := s.Needs() - 1
	if r.Bug == FewLeases {
		need--
	}
	return (by & s.Members).count() >= need
}

// Flush: a primary answers a flush of what these have durably.
func (r Rules) Flush(role Role, set, asked Set, holders Nodes) string {
	switch {
	case role != Serving:
		return "it does not serve"
	case !set.enough(holders):
		return "too few of the set have that durably"
	case asked.Members != 0 && !asked.enough(holders):
		return "too few of the set that it has asked for have that durably"
	}
	return ""
}

// Begin: a primary appends what a client writes.
func (r Rules) Begin(role Role) string {
	if role != Serving {
		return "it does not serve"
	}
	return ""
}

// Empty: a primary lets node i forget its log, to copy everything to it. Of what both
// have, the primary has synced so many entries, of so many.
func (r Rules) Empty(set Set, i int, synced, same uint64) string {
	switch {
	case set.sound().Has(i):
		return "it counts"
	case synced < same:
		return "what may have been flushed there is not durable here"
	}
	return ""
}

// Promote: the quorum makes node i primary of the next generation.
func (r Rules) Promote(s Set, i int) string {
	switch {
	case s.Amnesiacs.Has(i):
		return "it may have lost entries"
	case !s.Members.Has(i) && r.Bug != PromoteAny:
		return "it is no member"
	}
	return ""
}

// Recover: the quorum ends a recovery with a log; best: no other member's is better.
func (r Rules) Recover(s Set, best, durable bool) string {
	switch {
	case s.sound().count() >= s.Seals():
		return "so many are sound that one can be promoted"
	case !best && r.Bug != RecoverAny:
		return "another log is better"
	case !durable:
		return "the log is not durable"
	}
	return ""
}

package model

// Bug is a planted bug.
type Bug uint8

// The planted bugs; see Bugs.
const (
	None Bug = iota
	ShrinkLosing
	OldEntries
	FewSeals
	SealOverGrant
	LongestLog
	AmnesiacSeals
	NoGenerationEntry
	SetOfSending
	NewSetOnly
	OldSetOnly
	FewLeases
	GrowLacking
	PromoteAny
	OlderGeneration
	Truncate
	ShrinkUnsealed
	ForgetChange
	ForgetGrant
	OwnLog
	Resume
	AnyPrevious
	ServeEarly
	SealsOfSound
	VolatilePromise
	OwnGrant
	JoinerUncounted
	ServeAlone
	PromotionOfAnyRun
	ShrinkKnown
	LeaseOneSet
	CommitHeld
	MoveVolatile
	GrowEarly
	PolicyUnchecked
	NamelessRelease
	RecoverAny
	numBugs
)

// Planted is a bug with a scope in which it shows.
type Planted struct {
	Bug   Bug
	Text  string
	Scope Scope
}

// Bugs lists the planted bugs, in their order.
func Bugs() []Planted { return bugs }

var bugs = []Planted{
	{ShrinkLosing, "members leave although those that stay lack committed entries", small(3, 5)},
	{OldEntries, "entries of older generations are committed by counting", Scope{Nodes: 3, Writes: 1, Generations: 4, Records: 5, Crashes: 1, Majority: true}},
	{FewSeals, "one seal too few suffices", small(2, 3)},
	{SealOverGrant, "a member seals while a lease that it gave is alive", leased(2, 3)},
	{LongestLog, "the longest log is chosen, whatever its generation", Scope{Nodes: 3, Writes: 2, Generations: 4, Records: 5, Crashes: 1, Majority: true}},
	{AmnesiacSeals, "an amnesiac counts in a seal", Scope{Nodes: 3, Writes: 1, Generations: 3, Records: 5, Durability: Flush, Powers: 1, Majority: true}},
	{NoGenerationEntry, "a generation begins without an entry of its own", small(3, 4)},
	{SetOfSending, "commits are counted over the set when a write was sent", small(3, 5)},
	{NewSetOnly, "an undecided change counts under the new set alone", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 3, Crashes: 1}},
	{OldSetOnly, "an undecided change counts under the old set alone", small(3, 4)},
	{FewLeases, "one lease too few suffices", leased(2, 3)},
	{GrowLacking, "who joins may lack committed entries", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 5, Crashes: 1, Joins: true}},
	{PromoteAny, "a node that is no member is promoted", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 5, Crashes: 1}},
	{OlderGeneration, "a member takes entries of an older generation than it promised", small(3, 4)},
	{Truncate, "an append that is repeated cuts off what follows it", small2(2, 3)},
	{ShrinkUnsealed, "members leave before the log is chosen", small(3, 4)},
	{ForgetChange, "a change that is not decided is forgotten", small(3, 5)},
	{ForgetGrant, "a restarted member forgets the lease that it gave", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 4, Crashes: 1, Leases: true}},
	{OwnLog, "a promoted member takes its own log, though another is better", small(2, 3)},
	{Resume, "a restarted primary resumes its generation", small2(3, 4)},
	{AnyPrevious, "an append is taken whatever comes before it", small2(3, 4)},
	{ServeEarly, "a generation serves before its first entry is committed", small2(3, 4)},
	{SealsOfSound, "the seals that suffice are counted over the members that are no amnesiacs", Scope{Nodes: 3, Writes: 1, Generations: 3, Records: 6, Durability: Flush, Powers: 2, Majority: true}},
	{VolatilePromise, "a promise does not survive a restart", small(3, 4)},
	{OwnGrant, "a promoted member does not wait out the lease that it gave", leased(2, 3)},
	{JoinerUncounted, "who has joined does not count until its primary asks again", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 5, Crashes: 1, Joins: true}},
	{ServeAlone, "a generation begins to serve without the members that are silent", Scope{Nodes: 3, Writes: 1, Generations: 3, Records: 4, Crashes: 1}},
	{PromotionOfAnyRun, "a promotion is one of a node, not of its run: an amnesiac serves", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 4, Durability: Flush, Powers: 1}},
	{ShrinkKnown, "members leave before the chosen log is committed, as if only the commit point counted", Scope{Nodes: 3, Writes: 1, Generations: 3, Records: 5, Majority: true, Visible: true}},
	{LeaseOneSet, "leases count under the recorded set alone while a change is undecided", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 5, Majority: true, Leases: true, Visible: true}},
	{CommitHeld, "durability write commits what is only held", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 3, Durability: Write, Powers: 1, Visible: true}},
	{MoveVolatile, "members move although what is committed is not durable", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 5, Durability: Flush, Powers: 2, Majority: true, Visible: true}},
	{GrowEarly, "somebody joins before the chosen log is committed", Scope{Nodes: 2, Writes: 1, Generations: 3, Records: 6, Joins: true, Visible: true}},
	{PolicyUnchecked, "the policy changes although what is committed is not held as the new one says", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 4, Majority: true, Policy: true, Visible: true}},
	{NamelessRelease, "a release ends a newer lease than the one that was given up", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 5, Majority: true, Leases: true, Handover: true, Visible: true}},
	{RecoverAny, "a recovery takes any log", Scope{Nodes: 3, Writes: 1, Generations: 2, Records: 5, Durability: Flush, Powers: 2, Majority: true}},
}

func small(generations, records int) Scope {
	return Scope{Nodes: 3, Writes: 1, Generations: generations, Records: records, Crashes: 1, Majority: true}
}

func small2(generations, records int) Scope {
	s := small(generations, records)
	s.Writes = 2
	return s
}

func leased(generations, records int) Scope {
	s := small(generations, records)
	s.Leases = true
	return s
}

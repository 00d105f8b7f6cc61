package replication

import (
	"time"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// Generation is the number of a primary's reign over a volume.
type Generation = blockdev.Generation

// Seq is an entry's place in a volume's log.
type Seq = blockdev.Seq

// NodeID is a node's name, unique in its cluster.
type NodeID string

// Incarnation is one run of a node: random, registered with the quorum before
// the run does anything else. Zero is no run.
type Incarnation uint64

// Instant is a time on a node's own monotonic clock, which goes on while the
// machine sleeps (CLOCK_BOOTTIME). Instants of different nodes have nothing in
// common.
type Instant time.Duration

// after tells whether t is at or past u.
func (t Instant) after(u Instant) bool { return t >= u }

func (t Instant) add(d time.Duration) Instant { return t + Instant(d) }

// Policy is how many of a volume's members must hold a write.
type Policy uint8

const (
	AckAll      Policy = 1 // every member
	AckMajority Policy = 2 // more than half of them
)

// Durability is what an acknowledged write survives.
type Durability uint8

const (
	DurableFlush Durability = 1 // power loss after the next flush, like a disk's
	DurableWrite Durability = 2 // power loss at once
)

// MemberState is a replica's standing in the record.
type MemberState uint8

const (
	UpToDate     MemberState = 1 // counts
	Syncing      MemberState = 2 // receives writes and copies, does not count
	Outdated     MemberState = 3 // left the set, with older consistent content
	Inconsistent MemberState = 4 // broken off while it was copied to
)

// Member is one replica of a volume.
type Member struct {
	Node        NodeID
	Incarnation Incarnation
	State       MemberState
	Shard       int // of an erasure code: the number of its shard; else 0
	// Amnesiac: its machine may have lost acknowledged entries. It is a member,
	// but counts for nothing until it has caught up and a change says so.
	Amnesiac bool
	// Leaving: it shall be taken out of the record when all the others are level.
	Leaving bool
}

// Record is what the quorum has decided about a volume. Every change is a
// compare-and-set on (Generation, Number).
type Record struct {
	Lineage            uint64
	Generation         Generation
	Number             uint64
	Primary            NodeID
	PrimaryIncarnation Incarnation
	Members            []Member
	Policy             Policy
	MinCopies          int
	Durability         Durability
	Attachment         uint64 // of the session whose requests act
	Fenced             uint64 // below: of clients that have lost the volume; at most Attachment
	Mark               Mark
}

// Mark is a committed frontier that was reported to the quorum.
type Mark struct {
	Generation Generation
	Seq        Seq
}

// Shape is what a record says of acknowledgements.
type Shape struct {
	Policy     Policy
	MinCopies  int
	Durability Durability
}

func (r *Record) shape() Shape { return Shape{r.Policy, r.MinCopies, r.Durability} }

// newerThan orders records: numbers rise with every change, also into a new
// lineage.
func (r *Record) newerThan(o *Record) bool { return o == nil || r.Number > o.Number }

// set is the member set M: who counts for W and S, amnesiacs included.
func (r *Record) set() []Member {
	m := make([]Member, 0, len(r.Members))
	for _, x := range r.Members {
		if x.State == UpToDate {
			m = append(m, x)
		}
	}
	return m
}

// member finds a node among all recorded replicas; nil if it is none.
func (r *Record) member(n NodeID) *Member { return find(r.Members, n) }

func find(members []Member, n NodeID) *Member {
	for i := range members {
		if members[i].Node == n {
			return &members[i]
		}
	}
	return nil
}

// recoverable tells whether too few members are sound to promote one.
func (r *Record) recoverable() bool {
	n, sound := 0, 0
	for i := range r.Members {
		if m := &r.Members[i]; m.State == UpToDate {
			n++
			if !m.Amnesiac {
				sound++
			}
		}
	}
	return n > 0 && sound < r.Policy.sealQuorum(n)
}

// Lost tells whether the empty replica that a node has just made stands for one that
// held something: the node had promised a generation for it, or the quorum goes by
// what the node acknowledged in an earlier run. Its disk has to be Reset to (0, 0)
// then, so that nobody takes an empty log for the beginning of the volume.
func (r *Record) Lost(node NodeID, promised Generation) bool {
	m := r.member(node)
	return promised > 0 || m != nil && m.Amnesiac && !mutant.On(mutant.ReplicaEmptyLog)
}

// inSet tells whether a run of a node is in M.
func (r *Record) inSet(n NodeID, inc Incarnation) bool {
	m := r.member(n)
	return m != nil && m.State == UpToDate && m.Incarnation == inc
}

// ackQuorum is W: how many of n members must hold an entry.
func (p Policy) ackQuorum(n int) int {
	if p == AckMajority {
		return n/2 + 1
	}
	return n
}

// sealQuorum is S: the fewest members that meet every ack quorum.
func (p Policy) sealQuorum(n int) int { return n - p.ackQuorum(n) + 1 }

// entryMark is the kind of a GENERATION entry.
const entryMark = blockdev.EntryKind(3)

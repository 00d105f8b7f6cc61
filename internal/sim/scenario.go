package sim

import (
	"fmt"
	"io"
	"strings"
	"time"

	"blkd/blockdev"
	"blkd/internal/erasure"
	"blkd/replication"
)

// scenario is a course of events that a seed would rarely find. Nothing fails in it,
// and nobody is promoted, but as it says.
type scenario struct {
	name   string
	nodes  int
	shape  replication.Shape
	limits replication.Limits
	retain int // entries of its log that each disk keeps; 0: all
	code   *erasure.Code
	play   func(s *sim, n []*node)
}

var (
	all      = replication.Shape{Policy: replication.AckAll, MinCopies: 1, Durability: replication.DurableFlush}
	majority = replication.Shape{Policy: replication.AckMajority, MinCopies: 2, Durability: replication.DurableFlush}
	lone     = replication.Shape{Policy: replication.AckMajority, MinCopies: 1, Durability: replication.DurableFlush}
	pair     = replication.Shape{Policy: replication.AckAll, MinCopies: 2, Durability: replication.DurableFlush}
	four     = replication.Shape{Policy: replication.AckMajority, MinCopies: 4, Durability: replication.DurableFlush}
	unbound  = replication.Limits{}
	mirror   *erasure.Code
	short    = replication.Limits{CopyBytes: blockSize, EntryBytes: blockSize, LagBytes: 1 << 13}
	yielding = replication.Limits{CopyBytes: blockSize, SendBytes: 16 * blockSize, EntryBytes: blockSize, Copies: 2, CopyRate: 25 * blockSize}
	stripes  = replication.Limits{LargeBytes: 2 * blockSize} // of 2+1
	pieces   = replication.Limits{CopyBytes: blockSize, SendBytes: 16 * blockSize, EntryBytes: blockSize, Copies: 2}
)

var scenarios = []scenario{
	{"a promoted member waits out the lease it gave", 3, majority, unbound, 0, mirror, ownLease},
	{"a sealing member waits out the lease it gave", 3, majority, unbound, 0, mirror, memberLease},
	{"a restarted member waits out the lease it gave", 3, majority, unbound, 0, mirror, forgottenLease},
	{"a lease counts from when it was asked for", 3, majority, unbound, 0, mirror, lateGrant},
	{"one lease of four is none", 5, majority, unbound, 0, mirror, oneLease},
	{"leases count under both sets", 3, lone, unbound, 0, mirror, leaseOfBothSets},
	{"a release ends only the lease it names", 3, majority, unbound, 0, mirror, lateRelease},
	{"a released lease is not granted any more", 3, majority, unbound, 0, mirror, releasedLease},
	{"the grants to a deposed primary end", 2, all, unbound, 0, mirror, endlessGrant},
	{"a deposed primary answers no read", 3, majority, unbound, 0, mirror, staleRead},
	{"a paused primary answers no read", 3, majority, unbound, 0, mirror, pausedRead},
	{"what was promised does not act for an older generation", 3, majority, unbound, 0, mirror, olderGeneration},
	{"a newer log beats a longer one", 3, majority, unbound, 0, mirror, longestLog},
	{"a log that cannot be fetched is not done without", 3, majority, unbound, 0, mirror, lostLog},
	{"old entries are not committed by counting", 3, majority, replication.Limits{SendBytes: 1}, 0, mirror, oldEntries},
	{"members leave only when the chosen log is safe", 5, majority, unbound, 0, mirror, earlyShrink},
	{"who comes lacks nothing", 2, all, unbound, 0, mirror, earlyGrow},
	{"a broken copy is no content", 2, all, replication.Limits{CopyBytes: blockSize, Copies: 1}, 1, mirror, brokenCopy},
	{"what a recovery lost does not come back", 2, all, unbound, 0, mirror, lostCommit},
	{"what a recovery lost is copied over", 2, all, unbound, 1, mirror, lostChange},
	{"a replica joins under load", 2, all, unbound, 0, mirror, busyJoin},
	{"what a member that counts lacks stays in the log", 3, majority, short, 1, mirror, laggingMember},
	{"a promoted member copies to one that it needs", 2, pair, short, 1, mirror, chosenCopies},
	{"copies and writes", 2, all, pieces, 1, mirror, copyUnderLoad},
	{"a client that lost the volume changes nothing in part", 2, all, unbound, 0, mirror, fencedModify},
	{"a slow member does not hold writes and leaves", 3, majority, unbound, 0, mirror, slowMember},
	{"a member that stood still joins when it is heard again", 3, majority, unbound, 0, mirror, stillMember},
	{"a member that was cut off joins when it is connected again", 3, majority, unbound, 0, mirror, lostMember},
	{"a hand-over is given up while the quorum is silent", 2, all, unbound, 0, mirror, silentHandover},
	{"a forced branch is followed, others are emptied", 2, all, unbound, 0, mirror, newLineage},
	{"a recovery waits for all, or for an operator", 3, majority, unbound, 0, mirror, waivedRecovery},
	{"below min-copies writes wait, and are answered later", 2, pair, unbound, 0, mirror, suspended},
	{"min-copies are lowered while copies are missing", 2, pair, unbound, 0, mirror, fewerCopies},
	{"a volume whose replicas are all empty is not recovered", 2, all, unbound, 0, mirror, emptyRecovery},
	{"a recovery waits for a sync", 3, majority, unbound, 0, mirror, volatileRecovery},
	{"one copy alone recovers from power loss", 1, all, unbound, 0, mirror, loneRecovery},
	{"what rots is read from another member", 2, all, unbound, 0, mirror, mendAll},
	{"what rots where nobody else has it is an error at once", 1, all, unbound, 0, mirror, mendAlone},
	{"what differs or rots is found, and written again", 3, all, unbound, 0, mirror, compareAll},

	// Classes of bugs of the field.
	{"a member misses generations", 3, majority, unbound, 0, mirror, missedGeneration},
	{"a third member heals what the primary could not", 3, majority, unbound, 0, mirror, healedByThird},
	{"the end of a copy is lost", 2, all, pieces, 1, mirror, lostEnd},
	{"a clean stop of all is no loss", 3, majority, unbound, 0, mirror, cleanStop},
	{"an outdated member is no source", 3, majority, unbound, 0, mirror, outdatedSource},
	{"a doomed plan is not tried all the time", 2, all, unbound, 0, mirror, doomedPlan},
	{"a volume grows while its primary is replaced", 3, majority, unbound, 0, mirror, resizeAndPromote},
	{"the tie-breaker comes and goes during a copy", 2, all, pieces, 1, mirror, tieBreaker},
	{"a survivor promotes before the other is reconciled", 2, all, unbound, 0, mirror, newTail},
	{"trims during a copy", 2, all, pieces, 1, mirror, trimWhileCopied},
	{"slow members do not take each other for dead", 2, all, unbound, 0, mirror, slowBoth},
	{"the node that cannot be heard goes, and no other", 3, majority, unbound, 0, mirror, rightNode},
	{"a recovery is broken off", 3, majority, unbound, 0, mirror, brokenRecovery},
	{"a copy yields to clients", 2, all, yielding, 1, mirror, copyYields},
	{"a disk is full, and fails, during a copy", 2, all, pieces, 1, mirror, fullWhileCopied},
	{"all nodes are switched off", 3, all, unbound, 0, mirror, allOff},

	// Erasure codes.
	{"what rots in a shard, or differs, is rebuilt from the others", 6, four, unbound, 0, code(4, 2), mendShards},
	{"what rots in more shards than a code can do without is an error", 3, pair, unbound, 0, code(2, 1), mendTooMany},
	{"who joins while a decision is not committed has its part", 3, pair, unbound, 0, code(2, 1), growWhilePoured},
	{"a node is replaced, and then the primary's", 3, pair, unbound, 0, code(2, 1), replaceShards},
	{"a node takes another shard than the one that it had", 4, pair, unbound, 0, code(2, 1), anotherShard},
	{"a part of a batch is not synced when its process ends", 3, pair, unbound, 0, code(2, 1), unsyncedPart},
	{"a large write supersedes what every log has", 3, pair, stripes, 0, code(2, 1), supersededLog},
	{"large writes are given up when a shard does not prepare them", 3, majority, stripes, 0, code(2, 1), givenUp},
	{"large writes and pours of the same rows", 3, majority, stripes, 0, code(2, 1), pourBesideLarge},
}

func (c *command) scenarios(name string) (failed bool, err error) {
	ran := 0
	for i := range scenarios {
		x := &scenarios[i]
		if !strings.Contains(x.name, name) {
			continue
		}
		ran++
		out := c.out
		if name == "" {
			out = nil
		}
		r := x.run(c.first, out)
		if r.Violation != nil {
			failed = true
			fmt.Fprintf(c.out, "%s: %v\n", x.name, r.Violation)
		} else {
			fmt.Fprintf(c.out, "%s: hash %016x, %v simulated\n", x.name, r.Hash, r.Simulated.Round(time.Millisecond))
		}
	}
	if ran == 0 {
		return false, fmt.Errorf("there is no scenario %q; see: blksim scenario", name)
	}
	return failed, nil
}

// run plays a scenario, with what is random of it drawn from a seed, and lets
// everything become level.
func (c *scenario) run(seed uint64, out io.Writer) Result {
	replicas := c.nodes
	if c.code != nil {
		replicas = c.code.K() + c.code.M()
	}
	s := newSim(seed, setup{shape: c.shape, replicas: replicas, spares: c.nodes - replicas, external: true, scale: 1, tempo: 1, limits: c.limits, code: c.code}, out)
	s.bare, s.quiet, s.idle = true, true, true
	v := s.guarded(func() {
		s.build()
		for _, n := range s.nodes {
			if n.disk.retain = c.retain; c.retain == 0 {
				n.disk.retain = 1 << 30
			}
		}
		s.until("n1 serves", s.serves(s.nodes[0]))
		c.play(s, s.nodes)
		if !s.gone {
			s.settle()
		}
	})
	return s.result(v)
}

// until lets time pass until something is so.
func (s *sim) until(what string, ok func() bool) { s.within(20*time.Second, what, ok) }

func (s *sim) within(limit time.Duration, what string, ok func() bool) {
	for end := s.now + instant(limit); !ok(); {
		if s.now > end {
			s.violate("scenario", "it never happens that %s: %s", what, s.describe())
		}
		s.step()
	}
}

// role is what a node does for the volume.
func (s *sim) role(n *node) replication.Role {
	if n.core == nil {
		return replication.Secondary
	}
	role, _ := n.core.Role()
	return role
}

// serves tells whether a node answers reads.
func (s *sim) serves(n *node) func() bool {
	return func() bool { return n.core != nil && n.core.View().CanRead(s.clock(n)) }
}

// standing tells what is recorded of a node's replica.
func (s *sim) standing(name replication.NodeID) replication.MemberState {
	if m := s.rec.Member(name); m != nil {
		return m.State
	}
	return 0
}

func (s *sim) hasLeft(name replication.NodeID) func() bool {
	return func() bool { return s.standing(name) == replication.Outdated }
}

func (s *sim) isMember(name replication.NodeID) func() bool {
	return func() bool { return s.standing(name) == replication.UpToDate }
}

// split cuts the ways between two nodes, both of them; heal opens them.
func (s *sim) split(a, b *node) { s.cut(a, b, true); s.cut(b, a, true) }
func (s *sim) heal(a, b *node)  { s.cut(a, b, false); s.cut(b, a, false) }

const always = instant(1 << 62)

// alone cuts a node off from all others, but not from its clients.
func (s *sim) alone(n *node) {
	for _, x := range s.nodes {
		s.split(n, x)
	}
	n.deaf = always
}

// hears lets a deaf node hear the quorum again.
func (s *sim) hears(n *node) {
	n.deaf = 0
	s.deliver(n)
}

// submit sends a request of a block.
func (s *sim) submit(n *node, kind blockdev.Op, block int64) *replication.Request {
	_, gen := n.core.Role()
	r := &replication.Request{Op: kind, Off: block * blockSize, Len: blockSize, Data: make([]byte, blockSize), Attachment: s.rec.Attachment}
	o := &op{block: block, gen: gen, attachment: r.Attachment}
	switch kind {
	case blockdev.OpRead:
		s.beginRead(n, o)
	case blockdev.OpWrite:
		s.begin(n, o, block, r.Data)
	case blockdev.OpFlush:
		r.Off, r.Len, r.Data = 0, 0, nil
	}
	return s.ask(n, r, o)
}

func (s *sim) ask(n *node, r *replication.Request, o *op) *replication.Request {
	n.reqs[r] = o
	n.core.Submit(s.clock(n), []*replication.Request{r})
	s.effects(n)
	return r
}

// write sends a write of zeros.
func (s *sim) write(n *node, off, length int64) {
	r := &replication.Request{Op: blockdev.OpWrite, Off: off, Len: length, Data: make([]byte, length), Attachment: s.rec.Attachment}
	s.ask(n, r, &op{attachment: r.Attachment})
}

func (s *sim) pending(n *node, r *replication.Request) bool { return n.reqs[r] != nil }

// do sends a request and waits for its answer.
func (s *sim) do(n *node, kind blockdev.Op, block int64) {
	r := s.submit(n, kind, block)
	s.until("a request is answered", func() bool { return !s.pending(n, r) })
}

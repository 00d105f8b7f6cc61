package replication

import (
	"testing"
	"time"

	"blkd/blockdev"
)

// scenario is a course of events that a seed would rarely find.
type scenario struct {
	name  string
	nodes int
	shape Shape
	play  func(s *sim, n []*simNode)
}

var (
	all      = Shape{AckAll, 1, DurableFlush}
	majority = Shape{AckMajority, 2, DurableFlush}
)

var scenarios = []scenario{
	{"a promoted member waits out the lease it gave", 3, majority, ownLease},
	{"a sealing member waits out the lease it gave", 3, majority, memberLease},
	{"a restarted member waits out the lease it gave", 3, majority, forgottenLease},
	{"a lease counts from when it was asked for", 3, majority, lateGrant},
	{"one lease of four is none", 5, majority, oneLease},
	{"leases count under both sets", 3, Shape{AckMajority, 1, DurableFlush}, leaseOfBothSets},
	{"a release ends only the lease it names", 3, majority, lateRelease},
	{"a released lease is not granted any more", 3, majority, releasedLease},
	{"the grants to a deposed primary end", 2, all, endlessGrant},
	{"a deposed primary answers no read", 3, majority, staleRead},
	{"a paused primary answers no read", 3, majority, pausedRead},
	{"what was promised does not act for an older generation", 3, majority, olderGeneration},
	{"a newer log beats a longer one", 3, majority, longestLog},
	{"a log that cannot be fetched is not done without", 3, majority, lostLog},
	{"old entries are not committed by counting", 3, majority, oldEntries},
	{"members leave only when the chosen log is safe", 5, majority, earlyShrink},
	{"who comes lacks nothing", 2, all, earlyGrow},
	{"a broken copy is no content", 2, all, brokenCopy},
	{"what a recovery lost does not come back", 2, all, lostCommit},
	{"what a recovery lost is copied over", 2, all, lostChange},
	{"a replica joins under load", 2, all, busyJoin},
	{"copies and writes", 2, all, copyUnderLoad},
	{"a client that lost the volume changes nothing in part", 2, all, fencedModify},
	{"a slow member does not hold writes and leaves", 3, majority, slowMember},
	{"a member that stood still joins when it is heard again", 3, majority, stillMember},
	{"a member that was cut off joins when it is connected again", 3, majority, lostMember},
	{"a hand-over is given up while the quorum is silent", 2, all, silentHandover},
	{"a forced branch is followed, others are emptied", 2, all, newLineage},
	{"a recovery waits for all, or for an operator", 3, majority, waivedRecovery},
	{"below min-copies writes wait, and are answered later", 2, Shape{AckAll, 2, DurableFlush}, suspended},
	{"a recovery waits for a sync", 3, majority, volatileRecovery},
	{"one copy alone recovers from power loss", 1, all, loneRecovery},
}

func TestScenarios(t *testing.T) {
	for _, c := range scenarios {
		t.Run(c.name, func(t *testing.T) { c.run(t, 1) })
	}
}

func (c *scenario) run(t failer, seed uint64) {
	s := newSim(t, seed, simConfig{c.nodes, c.shape})
	s.quiet, s.idle = true, true
	s.scale = 1
	s.limit = Limits{}
	for _, n := range s.nodes {
		n.skew, n.rate, n.disk.retain = 0, 0, 1<<30
		n.core = nil
		n.disk.memState = newMemReplica().memState
		s.boot(n, true)
	}
	for _, w := range s.wires {
		*w = wire{}
	}
	s.todo = nil
	for i, a := range s.nodes {
		s.deliverRecord(a)
		for _, b := range s.nodes[:i] {
			s.connect(a, b)
		}
	}
	s.until("n1 serves", func() bool { return s.nodes[0].core.leaseValid() })
	c.play(s, s.nodes)
	s.settle()
}

// limited starts all nodes anew with other limits, before anything was written.
func (s *sim) limited(l Limits, retain int) {
	s.limit = l
	for _, n := range s.nodes {
		n.disk.retain = retain
		n.core.lim = l.withDefaults()
	}
}

func (s *sim) run(d time.Duration) {
	for end := s.now.add(d); s.now < end; {
		s.step()
	}
}

func (s *sim) until(what string, ok func() bool) {
	s.t.Helper()
	for end := s.now.add(20 * time.Second); !ok(); {
		if s.now > end {
			s.fatalf("it never happens that %s: %s", what, s.describe())
		}
		s.step()
	}
}

func (s *sim) serves(n *simNode) func() bool {
	return func() bool { return n.core != nil && n.core.leaseValid() }
}

// split cuts the ways between two nodes, both of them; heal opens them.
func (s *sim) split(a, b *simNode) { s.cut(a, b, true); s.cut(b, a, true) }
func (s *sim) heal(a, b *simNode)  { s.cut(a, b, false); s.cut(b, a, false) }

// alone cuts a node off from all others, but not from its clients.
func (s *sim) alone(n *simNode) {
	for _, x := range s.nodes {
		s.split(n, x)
	}
	n.deaf = 1 << 62
}

// submit sends a request that the oracle follows.
func (s *sim) submit(n *simNode, kind blockdev.Op, block int64) *Request {
	r := &Request{Op: kind, Off: block * blockSize, Len: blockSize, Data: make([]byte, blockSize), Attachment: s.rec.Attachment}
	o := &op{block: block, gen: n.core.gen, attachment: r.Attachment}
	switch kind {
	case blockdev.OpRead:
		o.read = s.seen.Read(n.id, block)
	case blockdev.OpWrite:
		s.begin(n, o, block, r.Data)
	case blockdev.OpFlush:
		r.Off, r.Len, r.Data = 0, 0, nil
	}
	n.reqs[r] = o
	n.core.Submit(s.clock(n), []*Request{r})
	s.effects(n)
	return r
}

// write sends a write of zeros that the oracle does not follow.
func (s *sim) write(n *simNode, off, length int64) {
	r := &Request{Op: blockdev.OpWrite, Off: off, Len: length, Data: make([]byte, length), Attachment: s.rec.Attachment}
	n.reqs[r] = &op{attachment: r.Attachment}
	n.core.Submit(s.clock(n), []*Request{r})
	s.effects(n)
}

func (s *sim) pending(n *simNode, r *Request) bool { return n.reqs[r] != nil }

// do sends a request and waits for its answer.
func (s *sim) do(n *simNode, op blockdev.Op, block int64) {
	s.t.Helper()
	r := s.submit(n, op, block)
	s.until("a request is answered", func() bool { return !s.pending(n, r) })
}

func ownLease(s *sim, n []*simNode) {
	n[0].deaf = 1 << 62
	s.split(n[0], n[2]) // its grant ends; that of n2 is renewed
	s.run(time.Second)
	s.alone(n[0])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
}

func memberLease(s *sim, n []*simNode) {
	n[0].deaf = 1 << 62
	s.split(n[0], n[1])
	s.run(time.Second)
	s.alone(n[0])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
}

func forgottenLease(s *sim, n []*simNode) {
	n[0].deaf = 1 << 62
	s.split(n[0], n[1])
	s.run(time.Second)
	s.alone(n[0])
	s.crash(n[2], false)
	s.restart(n[2])
	s.connect(n[1], n[2])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
}

func lateGrant(s *sim, n []*simNode) {
	n[0].deaf = 1 << 62
	s.split(n[0], n[1])
	s.run(time.Second)
	s.cut(n[2], n[0], true)
	s.run(250 * time.Millisecond)
	s.alone(n[0])
	s.cut(n[2], n[0], false) // the answers come late
	s.run(20 * time.Millisecond)
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.run(time.Second)
}

func oneLease(s *sim, n []*simNode) {
	for _, x := range n[2:] {
		s.split(n[0], x)
		s.split(n[1], x)
	}
	n[0].deaf = 1 << 62
	s.run(time.Second)
	s.promote(n[2])
	s.until("n3 serves", s.serves(n[2]))
	s.run(time.Second)
}

func leaseOfBothSets(s *sim, n []*simNode) {
	n[0].core.peer("n3").behind = true // it has to leave, and lends still
	s.until("n3 has left", func() bool { return s.rec.member("n3").State == Outdated })
	s.alone(n[0])
	s.heal(n[0], n[2])
	n[2].deaf = 1 << 62
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.run(time.Second)
}

func lateRelease(s *sim, n []*simNode) {
	s.cut(n[0], n[2], true)
	s.handover(n[1])
	s.until("n2 serves", s.serves(n[1]))
	n[1].deaf = 1 << 62
	s.split(n[0], n[1])
	s.run(time.Second) // n2 has the lease of n3 alone
	s.alone(n[1])
	s.cut(n[0], n[2], false)
	s.run(5 * time.Millisecond)
	s.promote(n[0])
	s.until("n1 serves", s.serves(n[0]))
}

func releasedLease(s *sim, n []*simNode) {
	s.cut(n[2], n[0], true)
	s.run(200 * time.Millisecond)
	s.handover(n[1])
	s.until("leases are released", func() bool { h := n[0].core.p.drain; return h != nil && h.proposal != 0 })
	s.run(2 * time.Millisecond)
	s.alone(n[0])
	s.cut(n[2], n[0], false)
	s.until("n2 serves", s.serves(n[1]))
	s.run(time.Second)
}

func endlessGrant(s *sim, n []*simNode) {
	n[0].deaf = 1 << 62
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
}

func staleRead(s *sim, n []*simNode) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.alone(n[0])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.do(n[1], blockdev.OpWrite, 1)
	s.submit(n[0], blockdev.OpRead, 1)
	s.run(time.Second)
}

func pausedRead(s *sim, n []*simNode) {
	s.do(n[0], blockdev.OpWrite, 1)
	for range 10 { // some are done at once
		s.submit(n[0], blockdev.OpRead, 1)
	}
	n[0].paused = s.now.add(3 * time.Second)
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.do(n[1], blockdev.OpWrite, 1)
	s.run(4 * time.Second)
}

func olderGeneration(s *sim, n []*simNode) {
	s.split(n[0], n[1])
	s.cut(n[0], n[2], true)
	s.submit(n[0], blockdev.OpWrite, 1)
	n[0].deaf = 1 << 62
	s.promote(n[1])
	s.until("n3 has promised", func() bool { return n[2].core.prom == 2 })
	s.split(n[1], n[2])
	s.cut(n[0], n[2], false)
	s.run(50 * time.Millisecond)
	s.heal(n[1], n[2])
	s.run(time.Second)
}

func longestLog(s *sim, n []*simNode) {
	s.do(n[0], blockdev.OpWrite, 0)
	s.alone(n[0])
	for range 10 {
		s.submit(n[0], blockdev.OpWrite, 1)
	}
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.do(n[1], blockdev.OpWrite, 1)
	s.alone(n[1])
	n[0].deaf = 0
	s.heal(n[0], n[2])
	s.deliverRecord(n[0])
	s.promote(n[0])
	s.until("n1 serves", s.serves(n[0]))
}

func lostLog(s *sim, n []*simNode) {
	s.split(n[0], n[1])
	s.do(n[0], blockdev.OpWrite, 1)
	s.alone(n[0])
	s.promote(n[1])
	s.until("n2 fetches the log of n3", func() bool { return n[1].core.p.best != nil })
	s.split(n[1], n[2])
	s.reset(n[1], n[2])
	s.run(2 * time.Second)
	s.heal(n[1], n[2])
	s.connect(n[1], n[2])
	s.until("n2 serves", s.serves(n[1]))
}

func oldEntries(s *sim, n []*simNode) {
	s.limited(Limits{SendBytes: 1}, 1<<30)
	s.run(time.Second)
	s.alone(n[0])
	s.submit(n[0], blockdev.OpWrite, 1) // held by n1 alone
	s.promote(n[1])
	s.until("n2 has chosen", func() bool {
		if n[1].core.role == Sealing && n[1].core.peer("n3").sealed {
			s.cut(n[1], n[2], true)
		}
		if n[2].core.prom == 2 {
			s.cut(n[1], n[2], true)
		}
		return n[1].core.role == Chosen
	})
	s.crash(n[1], false)
	n[0].deaf = 0
	s.heal(n[0], n[2])
	s.promote(n[0])
	at := len(s.committed)
	s.until("n3 holds the entry", func() bool {
		if _, last := n[2].disk.Last(); int(last) > at {
			s.cut(n[0], n[2], true)
			return true
		}
		return false
	})
	s.run(100 * time.Millisecond)
	s.alone(n[0])
	s.restart(n[1])
	s.heal(n[1], n[2])
	s.connect(n[1], n[2])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
}

func earlyShrink(s *sim, n []*simNode) {
	s.split(n[0], n[3])
	s.split(n[0], n[4])
	s.do(n[0], blockdev.OpWrite, 1)
	s.alone(n[0])
	s.alone(n[1])
	s.promote(n[3])
	s.until("n4 has chosen", func() bool {
		if n[3].core.role == Sealing && n[3].core.peer("n5").sealed {
			s.cut(n[3], n[4], true) // it gets nothing of it
		}
		return n[3].core.role == Chosen
	})
	for _, x := range []NodeID{"n1", "n2", "n3"} {
		n[3].core.peer(x).behind = true
	}
	s.run(100 * time.Millisecond)
}

func earlyGrow(s *sim, n []*simNode) {
	s.crash(n[1], false)
	s.until("n2 has left", func() bool { return s.rec.member("n2").State == Outdated })
	for range 5 {
		s.do(n[0], blockdev.OpWrite, 1)
	}
	s.restart(n[1])
	s.connect(n[0], n[1])
	s.until("n2 joins", func() bool { j := n[0].core.p.join; return j != nil && j.joined })
	s.wires[[2]int{0, 1}].queue = nil
	s.cut(n[0], n[1], true)
	s.run(300 * time.Millisecond)
	s.reset(n[0], n[1])
}

func brokenCopy(s *sim, n []*simNode) {
	s.limited(Limits{CopyBytes: blockSize, Copies: 1}, 1)
	s.crash(n[1], false)
	for b := range int64(8) {
		s.submit(n[0], blockdev.OpWrite, b)
	}
	s.until("n2 has left", func() bool { return s.rec.member("n2").State == Outdated })
	s.run(100 * time.Millisecond)
	for b := range int64(8) {
		s.do(n[0], blockdev.OpWrite, b)
		s.do(n[0], blockdev.OpFlush, 0)
	}
	s.restart(n[1])
	s.connect(n[0], n[1])
	s.until("a part is copied", func() bool { return n[1].disk.imports == 2 })
	s.crash(n[1], false)
	n[0].disk.retain = 1 << 30 // what comes now can be had from the log
	s.restart(n[1])
	s.connect(n[0], n[1])
	s.until("n2 is a member", func() bool { return s.rec.member("n2").State == UpToDate })
}

func lostCommit(s *sim, n []*simNode) { loseCommit(s, n, 1) }

// lostChange is the same where the log does not reach the replica any more, and
// nothing is written again where the recovery lost something.
func lostChange(s *sim, n []*simNode) {
	s.limited(Limits{}, 1)
	loseCommit(s, n, 30)
}

// loseCommit lets a recovery of n1 alone lose writes to a block that n2 has.
func loseCommit(s *sim, n []*simNode, block int64) {
	s.crash(n[1], false)
	s.until("n2 has left", func() bool { return s.rec.member("n2").State == Outdated })
	s.do(n[0], blockdev.OpWrite, 1)
	s.do(n[0], blockdev.OpFlush, 0)
	s.restart(n[1])
	s.connect(n[0], n[1])
	s.until("n1 knows of the restart", func() bool { return n[0].core.rec == s.rec })
	n[0].deaf = 1 << 62
	s.until("n2 is about to come", func() bool { return n[0].core.p.pend != nil })
	for range 5 {
		s.do(n[0], blockdev.OpWrite, block)
	}
	s.run(200 * time.Millisecond) // n2 knows that they are committed
	s.crash(n[0], true)
	n[0].disk.memState = n[0].disk.synced.clone()
	n[0].deaf = 0
	s.restart(n[0])
	s.split(n[0], n[1])
	s.until("n1 recovers", func() bool { return s.recoveries == 1 && n[0].core.role == Primary })
	for range 10 {
		s.do(n[0], blockdev.OpWrite, 1)
		s.do(n[0], blockdev.OpFlush, 0)
	}
	s.heal(n[0], n[1])
}

func busyJoin(s *sim, n []*simNode) {
	s.crash(n[1], false)
	s.until("n2 has left", func() bool { return s.rec.member("n2").State == Outdated })
	s.syncMs = 30
	s.restart(n[1])
	s.connect(n[0], n[1])
	s.until("n2 is a member", func() bool {
		if len(n[0].reqs) < 40 { // there is always something that is not durable
			s.write(n[0], 50*blockSize, blockSize)
		}
		return s.rec.member("n2").State == UpToDate
	})
	s.syncMs = 4
}

func copyUnderLoad(s *sim, n []*simNode) {
	s.limited(Limits{CopyBytes: blockSize, SendBytes: 16 * blockSize, EntryBytes: blockSize, Copies: 2}, 1)
	for b := range int64(20) { // these are not written again
		s.do(n[0], blockdev.OpWrite, 20+b)
	}
	s.idle, s.readMs = false, 3
	for range 4 {
		s.crash(n[1], false)
		s.until("n2 has left", func() bool { return s.rec.member("n2").State == Outdated })
		s.run(20 * time.Millisecond)
		s.restart(n[1])
		s.connect(n[0], n[1])
		breaks := 0
		s.until("n2 is a member", func() bool {
			s.client()
			if s.rnd.IntN(4) == 0 && len(n[0].reqs) < 12 { // of the last pieces, now and then
				s.submit(n[0], blockdev.OpWrite, 56+s.rnd.Int64N(8))
			}
			if j := n[0].core.p.join; j != nil && j.full && j.empty && j.sent > j.held && breaks < 4 && s.rnd.IntN(4) == 0 {
				breaks++
				s.reset(n[0], n[1])
				s.connect(n[0], n[1])
			}
			return s.rec.member("n2").State == UpToDate
		})
	}
	s.readMs = 1
}

func fencedModify(s *sim, n []*simNode) {
	s.readMs = 100
	for range 3 { // of a part of a block, which has to be read for that
		s.write(n[0], 1024, 512)
	}
	s.takeover()
	s.run(time.Second)
	s.readMs = 1
}

func slowMember(s *sim, n []*simNode) {
	n[2].slow = 1 << 62
	begun, answered := s.now, s.answered
	s.idle = false
	s.until("n3 has left", func() bool { return s.rec.member("n3").State == Outdated })
	if did, took := s.answered-answered, time.Duration(s.now-begun); did < int(took/(20*time.Millisecond)) {
		s.fatalf("%d requests in %v beside a slow member", did, took)
	}
	left := s.rec.Number
	s.run(10 * time.Second)
	if s.rec.Number > left+6 {
		s.fatalf("a slow member came and went %d times in 10 s", (s.rec.Number-left)/2)
	}
	n[2].slow = 0
	s.idle = true
}

// absent has a member go away for so long that it was invited in vain many times, and
// checks that it is not made to wait when it is back.
func absent(s *sim, back func()) {
	s.idle = false
	s.until("n3 has left", func() bool { return s.rec.member("n3").State == Outdated })
	s.run(12 * time.Second) // it is to be invited again seconds later
	back()
	since := s.now
	s.until("n3 is a member", func() bool { return s.rec.member("n3").State == UpToDate })
	if took := time.Duration(s.now - since); took > time.Second {
		s.fatalf("n3 is a member %v after it came back", took)
	}
	s.idle = true
}

func stillMember(s *sim, n []*simNode) {
	n[2].paused = 1 << 62
	absent(s, func() { n[2].paused = s.now })
}

func lostMember(s *sim, n []*simNode) {
	s.split(n[2], n[0]) // the connection is not known to be broken until it is reset
	s.split(n[2], n[1])
	absent(s, func() {
		s.heal(n[2], n[0])
		s.heal(n[2], n[1])
		s.reset(n[2], n[0])
		s.connect(n[2], n[0])
	})
}

func silentHandover(s *sim, n []*simNode) {
	n[0].deaf = s.now.add(20 * time.Second)
	s.handover(n[1])
	r := s.submit(n[0], blockdev.OpWrite, 1)
	s.run(5 * time.Second)
	if s.pending(n[0], r) {
		s.fatalf("a write waits for a hand-over that the quorum does not decide")
	}
	s.do(n[0], blockdev.OpRead, 1)
}

func newLineage(s *sim, n []*simNode) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.split(n[0], n[1])
	s.until("n2 has left", func() bool { return s.rec.member("n2").State == Outdated })
	s.do(n[0], blockdev.OpWrite, 1) // n2 lacks it
	s.crash(n[0], false)
	r := *s.rec
	r.Members = []Member{s.rec.Members[0], s.rec.Members[1]}
	r.Members[0].State, r.Members[1].State = Outdated, UpToDate
	r.Lineage++
	r.Number++
	r.Generation++
	r.Attachment++
	r.Primary, r.PrimaryIncarnation = "n2", n[1].inc
	// What only n1 has is given up, and a new history begins.
	_, last := n[1].disk.Last()
	s.committed = s.committed[:last]
	s.recount(map[int64]uint64{1: tagOf(s.committed[last-1].Data)})
	s.publish(&r)
	s.until("n2 serves", s.serves(n[1]))
	s.do(n[1], blockdev.OpRead, 1)
	s.do(n[1], blockdev.OpWrite, 1)
}

func waivedRecovery(s *sim, n []*simNode) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.do(n[0], blockdev.OpFlush, 0)
	s.blackout(nil, nil)
	s.restart(n[0])
	s.restart(n[1])
	s.connect(n[0], n[1])
	s.run(3 * time.Second)
	if s.recoveries != 0 {
		s.fatalf("the volume was recovered without the log of n3")
	}
	if x := n[0].core.Status(); !x.Recovering || len(x.Missing) != 1 || x.Missing[0] != "n3" {
		s.fatalf("the status does not tell that the log of n3 is missing: %+v", x)
	}
	n[0].core.Waive(s.clock(n[0]), []NodeID{"n3"})
	s.effects(n[0])
	s.until("it is recovered", func() bool { return s.recoveries == 1 })
}

func volatileRecovery(s *sim, n []*simNode) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.run(200 * time.Millisecond)
	s.syncMs = 500
	s.crash(n[0], true)
	s.crash(n[1], true)
	s.restart(n[0])
	s.restart(n[1])
	for i, a := range n {
		for _, b := range n[:i] {
			s.connect(a, b)
		}
	}
	s.until("it is recovered", func() bool { return s.recoveries == 1 })
	s.syncMs = 4
}

func suspended(s *sim, n []*simNode) {
	s.crash(n[1], false)
	r := s.submit(n[0], blockdev.OpWrite, 1)
	s.run(5 * time.Second)
	if !s.pending(n[0], r) {
		s.fatalf("a write was answered with one copy, min-copies is 2")
	}
	s.restart(n[1])
	s.connect(n[0], n[1])
	s.until("it is answered", func() bool { return !s.pending(n[0], r) })
}

func loneRecovery(s *sim, n []*simNode) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.do(n[0], blockdev.OpFlush, 0)
	s.crash(n[0], true)
	s.restart(n[0])
	s.until("n1 serves", s.serves(n[0]))
	s.do(n[0], blockdev.OpRead, 1)
}

package sim

import (
	"time"

	"blkd/blockdev"
	"blkd/replication"
)

// The scenarios of this file are classes of bugs that replicated block devices have
// had in the field.

// governs lets failover and connections go their own way from here on.
func (s *sim) governs() {
	s.bare = false
	for i, a := range s.nodes {
		for _, b := range s.nodes[:i] {
			s.dial(a, b)
		}
	}
}

// lose kills a node, and waits until a node it has left the members.
func (s *sim) lose(n *node) {
	s.crash(n, false)
	s.until(string(n.name)+" has left", s.hasLeft(n.name))
}

// missedGeneration: generations come and go that a member does not hear of.
func missedGeneration(s *sim, n []*node) {
	s.alone(n[2])
	for _, to := range []*node{n[1], n[0], n[1]} {
		s.promote(to)
		s.until("it serves", s.serves(to))
		s.do(to, blockdev.OpWrite, 1)
	}
	s.crash(n[0], false)
	s.hears(n[2])
	s.heal(n[1], n[2])
	s.until("n2 serves with n3", func() bool { return s.serves(n[1])() && s.isMember("n3")() })
	s.do(n[1], blockdev.OpWrite, 1)
	s.do(n[1], blockdev.OpRead, 1)
}

// healedByThird: what a member lacks it gets from one that is not its primary any more.
func healedByThird(s *sim, n []*node) {
	s.split(n[0], n[2])
	for b := range int64(4) {
		s.do(n[0], blockdev.OpWrite, b)
	}
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.until("n3 has it all", func() bool { return n[2].disk.last() == n[1].disk.last() })
	s.crash(n[1], false)
	s.heal(n[0], n[2])
	s.connect(n[0], n[2])
	s.promote(n[2])
	s.until("n3 serves", s.serves(n[2]))
	for b := range int64(4) {
		s.do(n[2], blockdev.OpRead, b)
	}
}

// lostEnd: a connection breaks after each piece of a copy in turn, the last too.
func lostEnd(s *sim, n []*node) {
	for b := range int64(8) {
		s.do(n[0], blockdev.OpWrite, 20+b)
	}
	s.lose(n[1])
	for b := range int64(8) { // more than the log keeps
		s.do(n[0], blockdev.OpWrite, 20+b)
		s.do(n[0], blockdev.OpFlush, 0)
	}
	s.start(n[1])
	s.connect(n[0], n[1])
	broken := uint64(0)
	s.until("n2 is a member", func() bool {
		if sent, held, _, _, _ := n[0].core.View().Copying(); sent > held && sent > broken {
			broken = sent
			s.reset(n[0], n[1])
			s.connect(n[0], n[1])
		}
		return s.isMember("n2")()
	})
	if broken < 4 {
		s.violate("scenario", "the connection broke up to piece %d only", broken)
	}
}

// cleanStop: all are stopped in order and switched off; nothing has to be recovered.
func cleanStop(s *sim, n []*node) {
	s.do(n[0], blockdev.OpWrite, 1)
	for _, x := range []*node{n[1], n[0], n[2]} {
		s.stop(x)
		x.boot++
	}
	for _, x := range n[:3] {
		s.start(x)
	}
	s.governs()
	s.until("somebody serves", func() bool { return len(s.primaries()) > 0 && s.serves(s.primaries()[0])() })
	if s.Recoveries > 0 {
		s.violate("scenario", "the volume was recovered after a clean stop")
	}
	s.do(s.primaries()[0], blockdev.OpRead, 1)
}

// outdatedSource: the first that comes back has left the members, and lacks writes.
func outdatedSource(s *sim, n []*node) {
	s.lose(n[2])
	s.do(n[0], blockdev.OpWrite, 1)
	s.crash(n[0], false)
	s.crash(n[1], false)
	s.start(n[2])
	s.governs()
	s.promote(n[2])
	s.run(5 * time.Second)
	if s.rec.Primary == "n3" || s.standing("n3") == replication.UpToDate {
		s.violate("scenario", "n3 lacks writes, and is what all are to be like: %+v", *s.rec)
	}
	s.start(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.do(n[1], blockdev.OpRead, 1)
}

// doomedPlan: what cannot succeed is not tried all the time.
func doomedPlan(s *sim, n []*node) {
	s.lose(n[1])
	s.start(n[1])
	n[1].paused = s.now + instant(time.Hour)
	s.connect(n[0], n[1])
	sent := s.joins
	s.run(30 * time.Second)
	if tried := s.joins - sent; tried > 250 || tried < 5 {
		s.violate("L2", "a node that does not answer was invited %d times in 30 s", tried)
	}
	n[1].paused = 0
}

// resizeAndPromote: the volume becomes larger while its primary is replaced.
func resizeAndPromote(s *sim, n []*node) {
	for i := range 6 {
		from, to := n[i%2], n[1-i%2]
		s.grow()
		s.run(time.Duration(i) * 200 * time.Microsecond)
		s.promote(to)
		s.until("it serves", s.serves(to))
		s.do(to, blockdev.OpWrite, to.disk.size/blockSize-1)
		s.until("the other follows", func() bool { return from.disk.last() == to.disk.last() })
	}
}

// tieBreaker: the quorum comes and goes while a member is copied.
func tieBreaker(s *sim, n []*node) {
	for b := range int64(8) {
		s.do(n[0], blockdev.OpWrite, 20+b)
	}
	s.lose(n[1])
	for b := range int64(8) {
		s.do(n[0], blockdev.OpWrite, 20+b)
		s.do(n[0], blockdev.OpFlush, 0)
	}
	s.start(n[1])
	s.governs()
	s.connect(n[0], n[1])
	s.until("n2 is a member", func() bool {
		if s.draws.IntN(10) == 0 {
			x := n[s.draws.IntN(2)]
			s.hears(x)
			x.deaf = s.now + instant(s.delay(20))
		}
		return s.isMember("n2")()
	})
}

// newTail: who was primary comes back with writes that nobody was told of.
func newTail(s *sim, n []*node) {
	s.alone(n[0])
	for range 5 {
		s.submit(n[0], blockdev.OpWrite, 1)
	}
	s.run(50 * time.Millisecond)
	s.crash(n[0], false)
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.do(n[1], blockdev.OpWrite, 1)
	s.heal(n[0], n[1])
	n[0].deaf = 0
	s.start(n[0])
	s.connect(n[0], n[1])
	s.until("n1 is a member", func() bool { return s.isMember("n1")() && n[0].disk.last() == n[1].disk.last() })
	s.do(n[1], blockdev.OpRead, 1)
}

// trimWhileCopied: what is trimmed during a copy is not there afterwards.
func trimWhileCopied(s *sim, n []*node) {
	for b := range int64(trimBlocks) {
		s.write(n[0], (hotBlocks+b)*blockSize, blockSize)
		s.do(n[0], blockdev.OpWrite, 30+b)
	}
	s.lose(n[1])
	for b := range int64(trimBlocks) {
		s.do(n[0], blockdev.OpWrite, 30+b)
	}
	s.start(n[1])
	s.connect(n[0], n[1])
	s.idle = false
	s.until("n2 is a member", func() bool {
		if s.draws.IntN(4) == 0 && len(n[0].reqs) < 20 {
			block := hotBlocks + s.draws.Int64N(trimBlocks)
			r := &replication.Request{Op: blockdev.OpTrim, Off: block * blockSize, Len: blockSize, Attachment: s.rec.Attachment}
			s.ask(n[0], r, &op{block: block, attachment: r.Attachment})
		}
		return s.isMember("n2")()
	})
}

// copyYields: a copy takes longer while clients are at work, so that they keep most of
// what is there, but it goes on.
func copyYields(s *sim, n []*node) {
	alone, beside := s.copyTime(n, false), s.copyTime(n, true)
	if 2*beside < 3*alone || beside > 3*time.Second {
		s.violate("scenario", "a copy takes %v, and %v while clients are at work", alone, beside)
	}
}

// copyTime is how long a copy of all blocks from n1 to n2 takes.
func (s *sim) copyTime(n []*node, reading bool) time.Duration {
	write := func() {
		for b := range int64(hotBlocks + trimBlocks) {
			s.do(n[0], blockdev.OpWrite, 30+b)
		}
		s.do(n[0], blockdev.OpFlush, 0)
		s.run(200 * time.Millisecond)
	}
	write()
	s.lose(n[1])
	write()
	s.do(n[0], blockdev.OpWrite, 30) // lets the log before go
	s.run(200 * time.Millisecond)
	s.start(n[1])
	s.connect(n[0], n[1])
	var began, ended, asked instant
	pieces := uint64(0)
	s.until("n2 is a member", func() bool {
		if reading && s.now-asked > instant(50*time.Millisecond) {
			s.submit(n[0], blockdev.OpRead, 1)
			asked = s.now
		}
		_, held, _, full, empty := n[0].core.View().Copying()
		switch {
		case full && empty && began == 0:
			began = s.now
		case held > pieces:
			pieces, ended = held, s.now
		}
		return s.isMember("n2")()
	})
	if pieces < hotBlocks {
		s.violate("scenario", "only %d pieces were copied", pieces)
	}
	return time.Duration(ended - began)
}

// slowBoth: both members are slow, and each must not take the other for dead.
func slowBoth(s *sim, n []*node) {
	s.governs()
	n[0].slow, n[1].slow = s.now+instant(5*time.Second), s.now+instant(5*time.Second)
	s.idle = false
	s.run(6 * time.Second)
	if s.rec.Generation > 3 {
		s.violate("scenario", "slow members have made %d generations", s.rec.Generation)
	}
}

// rightNode: of a network that is cut one way, the node that cannot be heard goes.
func rightNode(s *sim, n []*node) {
	s.governs()
	s.run(time.Second)
	for _, x := range n[1:] {
		s.cut(n[0], x, true)
	}
	s.idle = false
	s.until("another one serves", func() bool {
		for _, x := range n[1:3] {
			if s.serves(x)() {
				return true
			}
		}
		return false
	})
	s.until("n1 has left", s.hasLeft("n1"))
	s.run(3 * time.Second)
	if !s.isMember("n2")() || !s.isMember("n3")() || !s.hasLeft("n1")() {
		s.violate("scenario", "n1 cannot be heard; the members are %v", s.rec.Members)
	}
}

// brokenRecovery: a member dies again while all logs are compared.
func brokenRecovery(s *sim, n []*node) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.do(n[0], blockdev.OpFlush, 0)
	s.blackout()
	s.governs()
	s.start(n[0])
	s.start(n[1])
	s.run(500 * time.Millisecond)
	s.crash(n[1], true)
	s.run(500 * time.Millisecond)
	s.start(n[2])
	s.run(time.Second)
	if s.Recoveries > 0 {
		s.violate("S8", "the volume was recovered without the log of n2")
	}
	s.start(n[1])
	s.until("it is recovered", func() bool { return s.Recoveries == 1 })
}

// fullWhileCopied: the disk of a member that is copied is full, and then fails.
func fullWhileCopied(s *sim, n []*node) {
	for b := range int64(16) {
		s.do(n[0], blockdev.OpWrite, 20+b)
	}
	s.lose(n[1])
	for b := range int64(16) {
		s.do(n[0], blockdev.OpWrite, 20+b)
		s.do(n[0], blockdev.OpFlush, 0)
	}
	s.governs()
	s.start(n[1])
	s.until("a part is copied", func() bool { return n[1].disk.imports >= 3 })
	n[1].paused = s.now + instant(5*time.Second)
	s.do(n[0], blockdev.OpWrite, 1)
	s.run(6 * time.Second)
	n[1].disk.broken = true
	s.until("its disk fails, or it has everything", func() bool { return !n[1].up || s.isMember("n2")() })
	n[1].disk.broken = false
	s.start(n[1])
	s.until("n2 is a member", s.isMember("n2"))
}

// allOff: all lose power at once, and come back in another order.
func allOff(s *sim, n []*node) {
	for b := range int64(4) {
		s.do(n[0], blockdev.OpWrite, b)
	}
	s.do(n[0], blockdev.OpFlush, 0)
	for b := range int64(4) {
		s.submit(n[0], blockdev.OpWrite, b)
	}
	s.run(time.Millisecond)
	s.blackout()
	s.governs()
	for i := range n[:3] {
		s.start(n[2-i])
		s.run(300 * time.Millisecond)
	}
	s.until("somebody serves", func() bool { return len(s.primaries()) > 0 && s.serves(s.primaries()[0])() })
	p := s.primaries()[0]
	for b := range int64(4) {
		s.do(p, blockdev.OpRead, b)
	}
	if s.rec.Attachment == 1 {
		s.violate("S8", "clients from before the loss of power are admitted still")
	}
}

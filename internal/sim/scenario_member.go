package sim

import (
	"time"

	"blkd/blockdev"
	"blkd/replication"
)

func olderGeneration(s *sim, n []*node) {
	s.split(n[0], n[1])
	s.cut(n[0], n[2], true)
	s.submit(n[0], blockdev.OpWrite, 1)
	n[0].deaf = always
	s.promote(n[1])
	s.until("n3 has promised", func() bool { return n[2].core.View().Promised() == 2 })
	s.split(n[1], n[2])
	s.cut(n[0], n[2], false)
	s.run(50 * time.Millisecond)
	s.heal(n[1], n[2])
	s.run(time.Second)
}

func longestLog(s *sim, n []*node) {
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
	s.deliver(n[0])
	s.promote(n[0])
	s.until("n1 serves", s.serves(n[0]))
}

func lostLog(s *sim, n []*node) {
	s.split(n[0], n[1])
	s.do(n[0], blockdev.OpWrite, 1)
	s.alone(n[0])
	s.promote(n[1])
	s.until("n2 fetches the log of n3", n[1].core.View().Fetching)
	s.split(n[1], n[2])
	s.reset(n[1], n[2])
	s.run(2 * time.Second)
	s.heal(n[1], n[2])
	s.connect(n[1], n[2])
	s.until("n2 serves", s.serves(n[1]))
}

func oldEntries(s *sim, n []*node) {
	s.run(time.Second)
	s.alone(n[0])
	s.submit(n[0], blockdev.OpWrite, 1) // held by n1 alone
	s.promote(n[1])
	s.until("n2 has chosen", func() bool {
		if s.role(n[1]) == replication.Sealing && n[1].core.View().Sealed("n3") {
			s.cut(n[1], n[2], true)
		}
		if n[2].core.View().Promised() == 2 {
			s.cut(n[1], n[2], true)
		}
		return s.role(n[1]) == replication.Chosen
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
	s.start(n[1])
	s.heal(n[1], n[2])
	s.connect(n[1], n[2])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
}

func earlyShrink(s *sim, n []*node) {
	s.split(n[0], n[3])
	s.split(n[0], n[4])
	s.do(n[0], blockdev.OpWrite, 1)
	s.alone(n[0])
	s.alone(n[1])
	s.promote(n[3])
	s.until("n4 has chosen", func() bool {
		if s.role(n[3]) == replication.Sealing && n[3].core.View().Sealed("n5") {
			s.cut(n[3], n[4], true) // it gets nothing of it
		}
		return s.role(n[3]) == replication.Chosen
	})
	for _, x := range []replication.NodeID{"n1", "n2", "n3"} {
		n[3].core.Outrun(x)
	}
	s.run(100 * time.Millisecond)
}

func earlyGrow(s *sim, n []*node) {
	s.crash(n[1], false)
	s.until("n2 has left", s.hasLeft("n2"))
	for range 5 {
		s.do(n[0], blockdev.OpWrite, 1)
	}
	s.start(n[1])
	s.connect(n[0], n[1])
	s.until("n2 joins", func() bool { _, _, joined, _, _ := n[0].core.View().Copying(); return joined })
	s.wires[0][1].queue, s.wires[0][1].due = nil, nil
	s.cut(n[0], n[1], true)
	s.run(300 * time.Millisecond)
	s.reset(n[0], n[1])
}

func brokenCopy(s *sim, n []*node) {
	s.crash(n[1], false)
	for b := range int64(8) {
		s.submit(n[0], blockdev.OpWrite, b)
	}
	s.until("n2 has left", s.hasLeft("n2"))
	s.run(100 * time.Millisecond)
	for b := range int64(8) {
		s.do(n[0], blockdev.OpWrite, b)
		s.do(n[0], blockdev.OpFlush, 0)
	}
	s.start(n[1])
	s.connect(n[0], n[1])
	s.until("a part is copied", func() bool { return n[1].disk.imports == 2 })
	s.crash(n[1], false)
	n[0].disk.retain = 1 << 30 // what comes now can be had from the log
	s.start(n[1])
	s.connect(n[0], n[1])
	s.until("n2 is a member", s.isMember("n2"))
}

func lostCommit(s *sim, n []*node) { loseCommit(s, n, 1) }

// lostChange is the same where the log does not reach the replica any more, and
// nothing is written again where the recovery lost something.
func lostChange(s *sim, n []*node) {
	loseCommit(s, n, 30)
}

// loseCommit lets a recovery of n1 alone lose writes to a block that n2 has.
func loseCommit(s *sim, n []*node, block int64) {
	s.crash(n[1], false)
	s.until("n2 has left", s.hasLeft("n2"))
	s.do(n[0], blockdev.OpWrite, 1)
	s.do(n[0], blockdev.OpFlush, 0)
	s.start(n[1])
	s.connect(n[0], n[1])
	restart := s.rec
	s.until("n1 knows of the restart", func() bool { return n[0].core.View().Record().Number >= restart.Number })
	n[0].deaf = always
	s.until("n2 is about to come", func() bool { return n[0].core.View().Asked() != nil })
	for range 5 {
		s.do(n[0], blockdev.OpWrite, block)
	}
	s.run(200 * time.Millisecond) // n2 knows that they are committed
	s.crash(n[0], true)
	n[0].disk.content = n[0].disk.synced
	n[0].deaf = 0
	s.start(n[0])
	s.split(n[0], n[1])
	s.until("n1 recovers", func() bool { return s.Recoveries == 1 && s.role(n[0]) == replication.Primary })
	for range 10 {
		s.do(n[0], blockdev.OpWrite, 1)
		s.do(n[0], blockdev.OpFlush, 0)
	}
	s.heal(n[0], n[1])
}

func busyJoin(s *sim, n []*node) {
	s.crash(n[1], false)
	s.until("n2 has left", s.hasLeft("n2"))
	s.syncMs = 30
	s.start(n[1])
	s.connect(n[0], n[1])
	s.within(3*time.Second, "n2 is a member", func() bool { // a hundred thousand writes a second, which the logs keep
		if len(n[0].reqs) < 40 { // there is always something that is not durable
			s.write(n[0], 50*blockSize, blockSize)
		}
		return s.isMember("n2")()
	})
	s.syncMs = 4
}

func copyUnderLoad(s *sim, n []*node) {
	for b := range int64(20) { // these are not written again
		s.do(n[0], blockdev.OpWrite, 20+b)
	}
	s.idle, s.readMs = false, 3
	for range 4 {
		s.crash(n[1], false)
		s.until("n2 has left", s.hasLeft("n2"))
		s.run(20 * time.Millisecond)
		s.start(n[1])
		s.connect(n[0], n[1])
		breaks := 0
		s.until("n2 is a member", func() bool {
			s.client()
			if s.draws.IntN(4) == 0 && len(n[0].reqs) < 12 { // of the last pieces, now and then
				s.submit(n[0], blockdev.OpWrite, 56+s.draws.Int64N(8))
			}
			sent, held, _, full, empty := n[0].core.View().Copying()
			if full && empty && sent > held && breaks < 4 && s.draws.IntN(4) == 0 {
				breaks++
				s.reset(n[0], n[1])
				s.connect(n[0], n[1])
			}
			return s.isMember("n2")()
		})
	}
	s.readMs = 1
}

// laggingMember: a member lags by more than the log is kept for others, and is needed
// before the quorum lets it go.
func laggingMember(s *sim, n []*node) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.run(time.Second)
	s.split(n[0], n[2])
	n[0].deaf = always // so that it cannot ask for a set without n3
	for b := range int64(30) {
		s.do(n[0], blockdev.OpWrite, b)
		s.do(n[0], blockdev.OpFlush, 0)
	}
	s.crash(n[0], false)
	s.promote(n[1])
	s.until("n2 serves with n3", s.serves(n[1]))
	s.do(n[1], blockdev.OpRead, 1)
}

// chosenCopies: a member lost power, and what it lacks is not in the log any more, when
// the primary starts again: it can commit nothing before it has copied.
func chosenCopies(s *sim, n []*node) {
	for b := range int64(8) {
		s.do(n[0], blockdev.OpWrite, b)
	}
	s.do(n[0], blockdev.OpFlush, 0)
	s.syncMs = 1e6
	for b := range int64(30) {
		s.do(n[0], blockdev.OpWrite, b)
		s.run(10 * time.Millisecond)
	}
	s.syncMs = 4
	s.crashWith(n[1], true, func(int) int { return 0 })
	if _, err := n[0].disk.ReadLog(n[1].disk.last(), 1); err == nil {
		s.violate("scenario", "the log of n1 still has what n2 lacks: from %d on", n[0].disk.baseSeq)
	}
	s.crash(n[0], false)
	s.start(n[0])
	s.promote(n[0])
	s.until("n1 has chosen", func() bool { return s.role(n[0]) == replication.Chosen })
	s.start(n[1])
	s.connect(n[0], n[1])
	s.until("n1 serves", s.serves(n[0]))
	s.do(n[0], blockdev.OpRead, 1)
}

package sim

import (
	"time"

	"blkd/blockdev"
)

func ownLease(s *sim, n []*node) {
	n[0].deaf = always
	s.split(n[0], n[2]) // its grant ends; that of n2 is renewed
	s.run(time.Second)
	s.alone(n[0])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
}

func memberLease(s *sim, n []*node) {
	n[0].deaf = always
	s.split(n[0], n[1])
	s.run(time.Second)
	s.alone(n[0])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
}

func forgottenLease(s *sim, n []*node) {
	n[0].deaf = always
	s.split(n[0], n[1])
	s.run(time.Second)
	s.alone(n[0])
	s.crash(n[2], false)
	s.start(n[2])
	s.connect(n[1], n[2])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
}

func lateGrant(s *sim, n []*node) {
	n[0].deaf = always
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

func oneLease(s *sim, n []*node) {
	for _, x := range n[2:] {
		s.split(n[0], x)
		s.split(n[1], x)
	}
	n[0].deaf = always
	s.run(time.Second)
	s.promote(n[2])
	s.until("n3 serves", s.serves(n[2]))
	s.run(time.Second)
}

func leaseOfBothSets(s *sim, n []*node) {
	n[0].core.Outrun("n3") // it has to leave, and lends still
	s.until("n3 has left", s.hasLeft("n3"))
	s.alone(n[0])
	s.heal(n[0], n[2])
	n[2].deaf = always
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.run(time.Second)
}

func lateRelease(s *sim, n []*node) {
	s.cut(n[0], n[2], true)
	s.handover(n[1])
	s.until("n2 serves", s.serves(n[1]))
	n[1].deaf = always
	s.split(n[0], n[1])
	s.run(time.Second) // n2 has the lease of n3 alone
	s.alone(n[1])
	s.cut(n[0], n[2], false)
	s.run(5 * time.Millisecond)
	s.promote(n[0])
	s.until("n1 serves", s.serves(n[0]))
}

func releasedLease(s *sim, n []*node) {
	s.cut(n[2], n[0], true)
	s.run(200 * time.Millisecond)
	s.handover(n[1])
	s.until("leases are released", n[0].core.View().Released)
	s.run(2 * time.Millisecond)
	s.alone(n[0])
	s.cut(n[2], n[0], false)
	s.until("n2 serves", s.serves(n[1]))
	s.run(time.Second)
}

func endlessGrant(s *sim, n []*node) {
	n[0].deaf = always
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
}

func staleRead(s *sim, n []*node) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.alone(n[0])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.do(n[1], blockdev.OpWrite, 1)
	s.submit(n[0], blockdev.OpRead, 1)
	s.run(time.Second)
}

func pausedRead(s *sim, n []*node) {
	s.do(n[0], blockdev.OpWrite, 1)
	for range 10 { // some are done at once
		s.submit(n[0], blockdev.OpRead, 1)
	}
	n[0].paused = s.now + instant(3*time.Second)
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.do(n[1], blockdev.OpWrite, 1)
	s.run(4 * time.Second)
}

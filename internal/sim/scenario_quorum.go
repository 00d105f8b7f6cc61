package sim

import (
	"errors"
	"time"

	"blkd/blockdev"
	"blkd/metadata/metapb"
	"blkd/replication"
)

func fencedModify(s *sim, n []*node) {
	s.readMs = 100
	for range 3 { // of a part of a block, which has to be read for that
		s.write(n[0], 1024, 512)
	}
	s.takeover()
	s.run(time.Second)
	s.readMs = 1
}

func slowMember(s *sim, n []*node) {
	n[2].slow = always
	begun, answered := s.now, s.Answered
	s.idle = false
	s.until("n3 has left", s.hasLeft("n3"))
	if did, took := s.Answered-answered, time.Duration(s.now-begun); did < int(took/(20*time.Millisecond)) {
		s.violate("scenario", "%d requests in %v beside a slow member", did, took)
	}
	left := s.rec.Number
	s.run(10 * time.Second)
	if s.rec.Number > left+6 {
		s.violate("scenario", "a slow member came and went %d times in 10 s", (s.rec.Number-left)/2)
	}
	n[2].slow = 0
	s.idle = true
}

// absent has a member go away for so long that it was invited in vain many times, and
// checks that it is not made to wait when it is back.
func absent(s *sim, back func()) {
	s.idle = false
	s.until("n3 has left", s.hasLeft("n3"))
	s.run(12 * time.Second) // it is to be invited again seconds later
	back()
	since := s.now
	s.until("n3 is a member", s.isMember("n3"))
	if took := time.Duration(s.now - since); took > time.Second {
		s.violate("scenario", "n3 is a member %v after it came back", took)
	}
	s.idle = true
}

func stillMember(s *sim, n []*node) {
	n[2].paused = s.now + instant(time.Hour)
	absent(s, func() { n[2].paused = 0 })
}

func lostMember(s *sim, n []*node) {
	s.split(n[2], n[0]) // the connection is not known to be broken until it is reset
	s.split(n[2], n[1])
	absent(s, func() {
		s.heal(n[2], n[0])
		s.heal(n[2], n[1])
		s.reset(n[2], n[0])
		s.connect(n[2], n[0])
	})
}

func silentHandover(s *sim, n []*node) {
	n[0].deaf = s.now + instant(20*time.Second)
	s.handover(n[1])
	r := s.submit(n[0], blockdev.OpWrite, 1)
	s.run(5 * time.Second)
	if s.pending(n[0], r) {
		s.violate("scenario", "a write waits for a hand-over that the quorum does not decide")
	}
	s.do(n[0], blockdev.OpRead, 1)
}

func newLineage(s *sim, n []*node) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.split(n[0], n[1])
	s.until("n2 has left", s.hasLeft("n2"))
	s.do(n[0], blockdev.OpWrite, 1) // n2 lacks it
	s.crash(n[0], false)
	// What only n1 has is given up, and a new history begins.
	s.committed = s.committed[:n[1].disk.last()]
	s.restart(nil)
	v := s.state.Volume(volumeName)
	s.operator("promote n2 by force", &metapb.Command{Op: &metapb.Command_Promote{Promote: &metapb.Promote{Volume: volumeName, Force: true,
		Generation: v.Generation, Number: v.Number, To: "n2", Incarnation: uint64(n[1].inc)}}})
	s.until("n2 serves", s.serves(n[1]))
	s.do(n[1], blockdev.OpRead, 1)
	s.do(n[1], blockdev.OpWrite, 1)
}

func waivedRecovery(s *sim, n []*node) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.do(n[0], blockdev.OpFlush, 0)
	s.blackout()
	s.start(n[0])
	s.start(n[1])
	s.connect(n[0], n[1])
	s.run(3 * time.Second)
	if s.Recoveries != 0 {
		s.violate("scenario", "the volume was recovered without the log of n3")
	}
	if x := n[0].core.Status(); !x.Recovering || len(x.Missing) != 1 || x.Missing[0] != "n3" {
		s.violate("scenario", "the status does not tell that the log of n3 is missing: %+v", x)
	}
	if err := n[0].core.Waive(s.clock(n[0]), []replication.NodeID{"n3"}, "an operator said so"); err != nil {
		s.violate("scenario", "n3 is not given up: %v", err)
	}
	s.effects(n[0])
	s.until("it is recovered", func() bool { return s.Recoveries == 1 })
	s.run(time.Second)
	if err := n[0].core.Waive(s.clock(n[0]), []replication.NodeID{"n3"}, "once more"); !errors.Is(err, replication.ErrNoRecovery) {
		s.violate("scenario", "n3 is given up for a recovery that may come: %v", err)
	}
}

func emptyRecovery(s *sim, n []*node) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.do(n[0], blockdev.OpFlush, 0)
	s.crash(n[0], true)
	s.crash(n[1], true)
	for _, n := range n[:2] {
		s.replace(n)
	}
	s.until("both have replicas", func() bool { return n[0].core != nil && n[1].core != nil })
	s.connect(n[0], n[1])
	s.until("it is known that no log is whole", func() bool { return n[0].core.Status().Empty || s.Recoveries > 0 })
	s.run(3 * time.Second)
	if s.Recoveries != 0 {
		s.violate("scenario", "the volume was recovered from an empty log")
	}
	s.gone = true
}

// replace starts a node that is down with an empty disk.
func (s *sim) replace(n *node) {
	name := string(n.name)
	if !s.operator("replace "+name, &metapb.Command{Op: &metapb.Command_ReplaceNode{ReplaceNode: &metapb.ReplaceNode{Name: name}}}) {
		s.violate("scenario", "%s cannot be replaced", name)
	}
	s.emptied(n)
	s.start(n)
}

func volatileRecovery(s *sim, n []*node) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.run(200 * time.Millisecond)
	s.syncMs = 500
	s.crash(n[0], true)
	s.crash(n[1], true)
	s.start(n[0])
	s.start(n[1])
	for i, a := range n {
		for _, b := range n[:i] {
			s.connect(a, b)
		}
	}
	s.until("it is recovered", func() bool { return s.Recoveries == 1 })
	s.syncMs = 4
}

func suspended(s *sim, n []*node) {
	s.crash(n[1], false)
	r := s.submit(n[0], blockdev.OpWrite, 1)
	s.run(5 * time.Second)
	if !s.pending(n[0], r) {
		s.violate("scenario", "a write was answered with one copy, min-copies is 2")
	}
	s.start(n[1])
	s.connect(n[0], n[1])
	s.until("it is answered", func() bool { return !s.pending(n[0], r) })
}

// fewerCopies: an operator lets a volume go on without a member that does not come back:
// while it serves, and when it cannot begin to.
func fewerCopies(s *sim, n []*node) {
	shape := func(copies int) {
		x := pair
		x.MinCopies = copies
		if err := n[0].core.Change(s.clock(n[0]), x); err != nil {
			s.violate("scenario", "min-copies cannot become %d: %v", copies, err)
		}
		s.effects(n[0])
		s.until("it is recorded", func() bool { return s.rec.MinCopies == copies })
	}
	s.crash(n[1], false)
	r := s.submit(n[0], blockdev.OpWrite, 1)
	s.run(time.Second)
	shape(1)
	s.until("a write is answered", func() bool { return !s.pending(n[0], r) })
	s.start(n[1])
	s.connect(n[0], n[1])
	s.until("n2 is a member", s.isMember("n2"))
	shape(2)
	for _, x := range n[:2] {
		s.crash(x, false)
	}
	s.start(n[0])
	s.promote(n[0])
	s.until("n1 has chosen", func() bool { return s.role(n[0]) == replication.Chosen })
	s.run(5 * time.Second)
	if s.role(n[0]) != replication.Chosen {
		s.violate("S3", "n1 serves without n2, min-copies is 2")
	}
	shape(1)
	s.until("n1 serves", s.serves(n[0]))
}

func loneRecovery(s *sim, n []*node) {
	s.do(n[0], blockdev.OpWrite, 1)
	s.do(n[0], blockdev.OpFlush, 0)
	s.crash(n[0], true)
	s.start(n[0])
	s.until("n1 serves", s.serves(n[0]))
	s.do(n[0], blockdev.OpRead, 1)
}

func mendAll(s *sim, n []*node) {
	s.idle = false
	for range 100 {
		s.run(10 * time.Millisecond)
		s.rot(n[0], s.draws)
	}
	if s.Mended < 10 || s.Unmended > 0 {
		s.violate("scenario", "%d blocks were mended, %d were not", s.Mended, s.Unmended)
	}
}

func mendAlone(s *sim, n []*node) {
	s.idle = false
	s.until("a read of a rotten block is answered with an error", func() bool {
		s.rot(n[0], s.draws)
		return s.Unmended > 0
	})
}

// findings lets n1 compare the first blocks with the others'.
func (s *sim) findings(x replication.Comparison) map[replication.NodeID]replication.Compared {
	found := map[replication.NodeID]replication.Compared{}
	done := false
	x.Len = 4 * blockSize
	x.Done = func(results []replication.Compared, err error) {
		if done = true; err != nil {
			s.violate("scenario", "a comparison ends with %v", err)
		}
		for _, r := range results {
			found[r.Node] = r
		}
	}
	s.run(500 * time.Millisecond) // the others follow
	n := s.nodes[0]
	if err := n.core.Compare(s.clock(n), &x); err != nil {
		s.violate("scenario", "no comparison begins: %v", err)
	}
	s.effects(n)
	s.until("a comparison ends", func() bool { return done })
	return found
}

func compareAll(s *sim, n []*node) {
	check := func(x replication.Comparison, second, third replication.Compared) {
		second.Node, third.Node = "n2", "n3"
		if got := s.findings(x); len(got) != 2 || got["n2"] != second || got["n3"] != third {
			s.violate("scenario", "%+v finds %+v", x, got)
		}
	}
	same, differs, rotten := replication.Compared{}, replication.Compared{Differs: true}, replication.Compared{Unreadable: true}
	check(replication.Comparison{}, same, same)
	n[1].disk.image[2] = 4711
	n[2].disk.rot[3] = true
	check(replication.Comparison{}, differs, same)
	check(replication.Comparison{Read: true}, differs, rotten)
	check(replication.Comparison{Rewrite: true}, differs, rotten)
	check(replication.Comparison{Read: true}, same, same)
	n[0].disk.rot[1] = true // it is read from another
	check(replication.Comparison{Read: true}, same, same)
	if s.Mended != 1 {
		s.violate("scenario", "%d blocks were mended", s.Mended)
	}
}

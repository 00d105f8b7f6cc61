package sim

import (
	"slices"
	"time"

	"blkd/blockdev"
	"blkd/internal/erasure"
	"blkd/replication"
)

// code is that of a scenario.
func code(k, m int) *erasure.Code {
	c, err := erasure.New(k, m)
	if err != nil {
		panic(err)
	}
	return c
}

// rotShard lets a row of a node's shard fail its check. Of one row, only one shard
// does.
func (s *sim) rotShard(n *node, row int64) {
	for _, x := range s.nodes {
		if x.shard.rot[row] {
			return
		}
	}
	n.shard.rot[row] = true
}

// fillShards writes every block, and lets the log be poured.
func (s *sim) fillShards() {
	for b := range int64(volumeBlocks) {
		s.do(s.nodes[0], blockdev.OpWrite, b)
	}
	s.until("the log is poured", func() bool {
		used, _ := s.nodes[0].disk.LogUsed()
		return used <= 1 // the decision
	})
}

// mendShards: rows rot one after the other and two at once, and a shard is not what it
// was, which only the others can tell.
func mendShards(s *sim, n []*node) {
	s.fillShards()
	wrong := func(found map[replication.NodeID]replication.Compared) (differ, bad int) {
		for _, r := range found {
			if r.Differs {
				differ++
			}
			if r.Unreadable {
				bad++
			}
		}
		return differ, bad
	}
	check := func(x replication.Comparison, differ, bad int) {
		if d, b := wrong(s.findings(x)); d != differ || b != bad {
			s.violate("scenario", "%+v finds that %d differ and %d are bad", x, d, b)
		}
	}
	check(replication.Comparison{}, 0, 0)
	for _, x := range n[:6] {
		x.shard.rot[2] = x.id < 2
		x.shard.rot[3] = x.id == 2 || x.id == 5
	}
	for b := range int64(volumeBlocks) {
		s.do(n[0], blockdev.OpRead, b)
	}
	s.until("what was read is mended", func() bool { return s.Mended >= 3 })
	check(replication.Comparison{}, 0, 1) // parity is not read by clients
	check(replication.Comparison{Rewrite: true}, 0, 1)
	check(replication.Comparison{}, 0, 0)
	for _, x := range n[:6] {
		s.damaged = true
		x.shard.settle()
		x.shard.base[2] = 0
		check(replication.Comparison{}, 1, 0)
		check(replication.Comparison{Rewrite: true}, 1, 0)
		s.damaged = false // I14 is checked again
		check(replication.Comparison{}, 0, 0)
	}
}

// mendTooMany: a read of what is lost ends at once, other blocks are not lost, and what
// is written over it is good again.
func mendTooMany(s *sim, n []*node) {
	s.fillShards()
	n[0].shard.rot[1], n[1].shard.rot[1] = true, true
	s.do(n[0], blockdev.OpRead, 4)
	if s.Unmended > 0 {
		s.violate("scenario", "a block is lost that was not bad")
	}
	for b := range int64(2) {
		s.do(n[0], blockdev.OpRead, 2+b)
	}
	if s.Unmended != 2 {
		s.violate("scenario", "%d blocks were lost, of 2", s.Unmended)
	}
	for b := range int64(2) {
		s.do(n[0], blockdev.OpWrite, 2+b)
	}
	s.run(5 * time.Second)
	for b := range int64(volumeBlocks) {
		s.do(n[0], blockdev.OpRead, b)
	}
	if s.Unmended != 2 {
		s.violate("scenario", "what was written over lost blocks is lost")
	}
}

// unsyncedPart: a process ends between append and sync of its part of a batch, which is
// decided without it, and is back.
func unsyncedPart(s *sim, n []*node) {
	s.fillShards()
	x := n[1]
	for b := int64(0); x.shard.synced == len(x.shard.log); b = (b + 1) % volumeBlocks {
		s.do(n[0], blockdev.OpWrite, b)
		if len(x.tasks) > 0 {
			x.shard.torn, x.shard.left = true, 1<<30
			_ = x.tasks[0].Run()
			x.shard.torn = false
		}
	}
	x.tasks = nil // tear leaves it as it is
	s.crash(x, false)
	s.until("n2 has left", s.hasLeft("n2"))
	s.until("the batch is decided", func() bool { return n[0].core.Status().Pouring == "" })
	s.start(x)
	s.connect(n[0], x)
	s.connect(n[2], x)
	s.until("n2 is back", s.isMember("n2"))
	s.fillShards()
}

// growWhilePoured: the decision on a batch is in the logs of two members when a third
// comes back, and one of the two ends before that is committed.
func growWhilePoured(s *sim, n []*node) {
	s.fillShards()
	s.crash(n[2], false)
	s.until("n3 has left", s.hasLeft("n3"))
	s.start(n[2])
	b := int64(0)
	s.until("a decision is to be committed", func() bool {
		if n[0].core.Status().Pouring == "the commit of its decision" {
			return true
		}
		if len(n[0].reqs) < 8 {
			s.submit(n[0], blockdev.OpWrite, b)
		}
		b = (b + 1) % volumeBlocks
		return false
	})
	s.cut(n[1], n[0], true)
	s.connect(n[0], n[2])
	// Its part of the batch is long in coming to its shard.
	var held []*replication.Task
	long := s.now + instant(300*time.Millisecond)
	s.until("n3 is a member", func() bool {
		if held = append(held, n[2].tasks...); s.now < long {
			n[2].tasks = nil
			return s.isMember("n3")()
		}
		for n[2].tasks = nil; len(held) > 0; held = held[1:] {
			s.runTask(n[2], n[2].core, held[0])
		}
		return s.isMember("n3")()
	})
	s.crash(n[0], false)
	s.connect(n[1], n[2])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	s.cut(n[1], n[0], false)
	s.start(n[0])
	s.connect(n[0], n[1])
	s.connect(n[0], n[2])
}

// replaceShards: a machine dies in the midst of a batch and comes back with an empty disk,
// under the same name, and then the primary's; what was written is read from their shards.
func replaceShards(s *sim, n []*node) {
	s.fillShards()
	gone := func(x, left *node) {
		for b := int64(0); !s.pouring(); b = (b + 1) % volumeBlocks {
			s.do(left, blockdev.OpWrite, b)
		}
		s.crash(x, true)
	}
	back := func(x *node) {
		s.replace(x)
		s.until(string(x.name)+" has a replica", func() bool { return x.core != nil })
		for _, y := range n {
			if y != x && y.core != nil {
				s.connect(x, y)
			}
		}
		s.until(string(x.name)+" is a member", s.isMember(x.name))
	}
	gone(n[1], n[0])
	s.until("n2 has left", s.hasLeft("n2"))
	back(n[1])
	gone(n[0], n[0])
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	back(n[0])
	s.crash(n[2], true)
	for b := range int64(volumeBlocks) {
		s.do(n[1], blockdev.OpRead, b)
	}
}

// anotherShard: a node whose shard has moved away takes another one at once: it has the
// newest batch, of the shard that it had.
func anotherShard(s *sim, n []*node) {
	s.fillShards()
	move := func(from, to *node) {
		s.moveShard(from, to)
		s.until(string(to.name)+" has a replica", func() bool { return to.core != nil })
		for _, x := range n {
			if x != to && x.core != nil {
				s.connect(x, to)
			}
		}
		s.until(string(to.name)+" has taken its place", func() bool { return s.isMember(to.name)() && s.rec.Member(from.name) == nil })
	}
	move(n[1], n[3])
	move(n[2], n[1])
}

// writeStripes sends a write of whole stripes.
func (s *sim) writeStripes(n *node, block, blocks int64) *replication.Request {
	_, gen := n.core.Role()
	r := &replication.Request{Op: blockdev.OpWrite, Off: block * blockSize, Len: blocks * blockSize, Data: make([]byte, blocks*blockSize), Attachment: s.rec.Attachment}
	o := &op{block: block, gen: gen, attachment: r.Attachment}
	for i := range blocks {
		s.begin(n, o, block+i, r.Data[i*blockSize:])
	}
	return s.ask(n, r, o)
}

// supersededLog: small writes, a large one over them, and small ones over a part of that.
// Then whoever is promoted shows what is newest, although its log has it all; also after
// a restart.
func supersededLog(s *sim, n []*node) {
	for b := range int64(4) {
		s.do(n[0], blockdev.OpWrite, b)
	}
	r := s.writeStripes(n[0], 0, 4)
	s.until("a large write is answered", func() bool { return !s.pending(n[0], r) })
	s.do(n[0], blockdev.OpWrite, 1)
	readAll := func(n *node) {
		for b := range int64(6) {
			s.do(n, blockdev.OpRead, b)
		}
	}
	readAll(n[0])
	s.checkHistory()
	if s.Large != 1 {
		s.violate("scenario", "a large write went into the log")
	}
	s.promote(n[1])
	s.until("n2 serves", s.serves(n[1]))
	readAll(n[1])
	s.crash(n[1], false)
	s.start(n[1])
	s.connect(n[0], n[1])
	s.connect(n[1], n[2])
	s.promote(n[1])
	s.until("n2 serves again", s.serves(n[1]))
	readAll(n[1])
}

// givenUp: a shard does not prepare large writes. They go into the log soon, and the next
// ones too; what it prepares later is not decided any more. When all is well again large
// writes do not pass through the log.
func givenUp(s *sim, n []*node) {
	s.do(n[0], blockdev.OpWrite, 0)
	s.cut(n[2], n[0], true) // its answers do not come
	begun := s.now
	var all []*replication.Request
	for b := range int64(3) {
		all = append(all, s.writeStripes(n[0], 2*b, 2))
	}
	s.until("all are answered", func() bool {
		return !slices.ContainsFunc(all, func(r *replication.Request) bool { return s.pending(n[0], r) })
	})
	if took := s.now - begun; took > instant(500*time.Millisecond) || s.Large > 0 {
		s.violate("scenario", "large writes take %v without a shard, %d are batches", time.Duration(took), s.Large)
	}
	for b := range int64(6) {
		s.do(n[0], blockdev.OpWrite, b) // over what was given up
	}
	s.cut(n[2], n[0], false)
	s.until("n3 is level", s.isMember("n3"))
	s.run(5 * time.Second)
	for b := range int64(6) {
		s.do(n[0], blockdev.OpRead, b)
	}
	r := s.writeStripes(n[0], 2, 4)
	s.until("a large write is answered", func() bool { return !s.pending(n[0], r) })
	if s.Large != 1 {
		s.violate("scenario", "a large write went into the log")
	}
}

// pourBesideLarge: a pour and large writes of the same rows are under way at the same
// time, again and again.
func pourBesideLarge(s *sim, n []*node) {
	for b := range int64(400) {
		if len(n[0].reqs) > 8 {
			s.run(2 * time.Millisecond)
		}
		if b%3 == 0 {
			s.writeStripes(n[0], b%7/2*2, 2)
		}
		s.submit(n[0], blockdev.OpWrite, b*5%volumeBlocks)
		s.submit(n[0], blockdev.OpRead, b%8)
		s.run(500 * time.Microsecond)
	}
	if s.Large == 0 {
		s.violate("scenario", "no large write was a batch")
	}
}

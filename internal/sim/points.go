package sim

import (
	"fmt"
	"io"
	"time"

	"blkd/blockdev"
	"blkd/replication"
)

// crashPoint is where a run of a short workload is cut: at an operation of a node's
// disk, before it or after everything that its step has to send was sent.
type crashPoint struct {
	load    *load
	node    int
	op      int  // of the node's disk, from 1
	after   bool // else before
	keep    int  // entries that were not synced and survive; killed: only the process dies
	promote int  // who is promoted then
}

// killed is no loss of power.
const killed = -1

// String names the point.
func (p crashPoint) String() string {
	when, what := "before", fmt.Sprintf("power loss that %d unsynced entries survive", p.keep)
	if p.after {
		when = "after"
	}
	if p.keep == killed {
		what = "kill"
	}
	return fmt.Sprintf("%s: %s of n%d %s operation %d of its disk, then n%d is promoted", p.load.name, what, p.node+1, when, p.op, p.promote+1)
}

// load is a workload that is so short that it can be cut everywhere.
type load struct {
	name   string
	nodes  int
	shape  replication.Shape
	retain int
	play   func(s *sim, n []*node)
}

var loads = []load{
	{"writes to two", 2, all, 0, fewWrites},
	{"writes to three", 3, majority, 0, fewWrites},
	{"a promotion", 3, majority, 0, onePromotion},
	{"a member that comes back", 2, all, 1, oneReturn},
}

func fewWrites(s *sim, n []*node) {
	for _, kind := range []blockdev.Op{blockdev.OpWrite, blockdev.OpWrite, blockdev.OpFlush, blockdev.OpWrite} {
		s.put(n[0], kind, 1)
	}
}

func onePromotion(s *sim, n []*node) {
	s.put(n[0], blockdev.OpWrite, 1)
	s.promote(n[1])
	s.wait(s.serves(n[1]))
	s.put(n[1], blockdev.OpWrite, 1)
}

func oneReturn(s *sim, n []*node) {
	s.put(n[0], blockdev.OpWrite, 30)
	s.crash(n[1], false)
	s.wait(s.hasLeft("n2"))
	for b := range int64(3) {
		s.put(n[0], blockdev.OpWrite, 30+b)
		s.put(n[0], blockdev.OpFlush, 0)
	}
	s.start(n[1])
	s.connect(n[0], n[1])
	s.wait(s.isMember("n2"))
}

// put sends a request, if the node lives, and waits for the answer for a while.
func (s *sim) put(n *node, kind blockdev.Op, block int64) {
	if n.core == nil {
		return
	}
	r := s.submit(n, kind, block)
	s.wait(func() bool { return !s.pending(n, r) })
}

// wait lets time pass until something is so, but no more than two seconds, and no
// more once a node was cut off.
func (s *sim) wait(ok func() bool) {
	for end := s.now + instant(2*time.Second); !ok() && s.now < end && !s.cutOff; {
		s.step()
	}
}

// run plays the workload up to the point, and lets what is left of the cluster become
// level. At an operation 0 nothing is cut, and it ends with the workload: ops is how
// many operations each disk has done.
func (p crashPoint) run(out io.Writer) (r Result, ops []int) {
	l := p.load
	s := newSim(1, setup{shape: l.shape, replicas: l.nodes, external: true, scale: 1, tempo: 1, limits: pieces}, out)
	s.bare, s.quiet, s.idle = true, true, true
	v := s.guarded(func() {
		s.build()
		n := s.nodes
		for _, x := range n {
			if l.retain > 0 {
				x.disk.retain = l.retain
			}
		}
		n[p.node].disk.strike = &strike{op: p.op, after: p.after}
		s.struck = func(x *node) {
			x.disk.strike, s.cutOff = nil, true
			s.crashWith(x, p.keep != killed, func(most int) int { return min(p.keep, most) })
		}
		s.wait(s.serves(n[0]))
		l.play(s, n)
		for _, x := range n[:l.nodes] {
			ops = append(ops, x.disk.ops)
		}
		if p.op > 0 {
			s.outlive(n[p.node], n[p.promote])
		}
	})
	return s.result(v), ops
}

// outlive lets the cluster go on after a node was cut off: another one is promoted, if
// it may be.
func (s *sim) outlive(cut, to *node) {
	s.run(20 * time.Millisecond) // what is under way arrives
	s.governs()
	if to == cut {
		s.start(to)
	}
	s.promote(to)
	s.run(500 * time.Millisecond)
	s.settle()
}

// eachPoint calls f for every point of a workload: of each node, each operation of its
// disk, each way to be cut off there with up to keep entries that survive, and each
// node that may be promoted then. It stops when f is false.
func (l *load) eachPoint(keep int, f func(crashPoint) bool) {
	_, ops := crashPoint{load: l}.run(nil)
	for node, last := range ops {
		for op := 1; op <= last; op++ {
			for way := range 2 * (keep + 2) {
				for to := range l.nodes {
					if !f(crashPoint{load: l, node: node, op: op, after: way%2 == 1, keep: way/2 - 1, promote: to}) {
						return
					}
				}
			}
		}
	}
}

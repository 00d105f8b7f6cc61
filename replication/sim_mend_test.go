package replication

import (
	"testing"
	"time"
)

// rot makes a block of a node fail its check. Of one block, only one node's does.
func (s *sim) rot(n *simNode) {
	b := s.rnd.Int64N(8)
	for _, x := range s.nodes {
		if x.disk.rot[b] {
			return
		}
	}
	s.logf("block %d of %s rots", b, n.name)
	n.disk.rot[b] = true
}

// mendedBy checks that a block that is reported as mended can be read.
func (s *sim) mendedBy(n *simNode, off int64, from NodeID) {
	s.mended++
	if n.name == from {
		s.fatalf("%s has mended a block with its own", n.name)
	}
	if n.disk.rot[off/blockSize] {
		s.fatalf("%s has mended block %d, which fails its check still", n.name, off/blockSize)
	}
}

// TestMend: every block of the primary rots, and no client notices.
func TestMend(t *testing.T) {
	for seed := range uint64(20) {
		s := newSim(t, seed, simConfig{2 + int(seed%2), all})
		s.quiet = true
		for range 2000 {
			s.step()
			for _, n := range s.nodes {
				if n.core.role == Primary && s.rnd.IntN(20) == 0 {
					s.rot(n)
				}
			}
		}
		if s.mended < 10 || s.unmended > 0 {
			t.Errorf("seed %d: %d blocks were mended, %d were not", seed, s.mended, s.unmended)
		}
		s.settle()
	}
}

// TestMendWithoutOthers: a block that nobody else has is an error, at once, and the
// volume goes on.
func TestMendWithoutOthers(t *testing.T) {
	s := newSim(t, 1, simConfig{1, all})
	s.quiet = true
	for range 1000 {
		s.step()
	}
	for deadline := s.now.add(10 * time.Second); s.unmended == 0; {
		s.rot(s.nodes[0])
		if s.step(); s.now > deadline {
			t.Fatalf("reads of rotten blocks wait: %s", s.describe())
		}
	}
	s.settle()
}

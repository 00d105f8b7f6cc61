package replication

import "testing"

// compare lets a primary compare a range with the others, which must have the same.
func (s *sim) compare() {
	for _, n := range s.nodes {
		if !s.awake(n) || n.core.role != Primary {
			continue
		}
		x := &Comparison{Off: s.rnd.Int64N(8) * blockSize, Len: (1 + s.rnd.Int64N(4)) * blockSize,
			Read: s.rnd.IntN(2) == 0, Rewrite: s.rnd.IntN(4) == 0}
		x.Done = func(results []Compared, err error) { s.compared(n, x, results, err) }
		_ = n.core.Compare(s.clock(n), x) // another may be under way
		s.effects(n)
	}
}

func (s *sim) compared(n *simNode, x *Comparison, results []Compared, err error) {
	s.logf("%s has compared %d bytes at %d: %+v, %v", n.name, x.Len, x.Off, results, err)
	for _, r := range results {
		switch {
		case r.Differs:
			s.fatalf("%s and %s differ in the %d bytes at %d", n.name, r.Node, x.Len, x.Off)
		case r.Unreadable && !x.Read:
			s.fatalf("%s could not read what it was not to read", r.Node)
		case !r.Silent:
			s.comparisons++
		}
	}
}

// TestCompare: what differs, or has rotted, at a member is found, and written again.
func TestCompare(t *testing.T) {
	s := newSim(t, 2, simConfig{3, all})
	s.quiet, s.idle = true, true
	n := s.nodes
	run := func(x *Comparison) (found map[NodeID]Compared) {
		t.Helper()
		done := false
		x.Len = 4 * blockSize
		x.Done = func(results []Compared, err error) {
			if done = true; err != nil {
				t.Error(err)
			}
			found = map[NodeID]Compared{}
			for _, r := range results {
				found[r.Node] = r
			}
		}
		for range 500 {
			s.step() // until it serves, and the others follow
		}
		if err := n[0].core.Compare(s.clock(n[0]), x); err != nil {
			t.Fatal(err)
		}
		s.effects(n[0])
		for range 3000 {
			if s.step(); done {
				return found
			}
		}
		t.Fatalf("the comparison has no end: %s", s.describe())
		return nil
	}
	same := map[NodeID]Compared{"n2": {Node: "n2"}, "n3": {Node: "n3"}}
	check := func(x Comparison, want map[NodeID]Compared) {
		t.Helper()
		if got := run(&x); len(got) != 2 || got["n2"] != want["n2"] || got["n3"] != want["n3"] {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	check(Comparison{}, same)
	n[1].disk.image[2] = 4711
	n[2].disk.rot[3] = true
	check(Comparison{}, map[NodeID]Compared{"n2": {Node: "n2", Differs: true}, "n3": {Node: "n3"}})
	bad := map[NodeID]Compared{"n2": {Node: "n2", Differs: true}, "n3": {Node: "n3", Unreadable: true}}
	check(Comparison{Read: true}, bad)
	check(Comparison{Rewrite: true}, bad)
	for range 2000 {
		s.step() // the others commit
	}
	check(Comparison{Read: true}, same)
	// What has rotted at the primary is read from another.
	n[0].disk.rot[1] = true
	check(Comparison{Read: true}, same)
	if s.mended != 1 {
		t.Errorf("%d blocks were mended", s.mended)
	}
}

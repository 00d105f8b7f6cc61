package model

import "encoding/binary"

// table is a set of keys of states, open-addressed, with the key of the state that
// each was reached from.
type table struct {
	key, par []uint64
	n        int
	mask     uint64
}

func newTable(bits int) *table {
	return &table{key: make([]uint64, 1<<bits), par: make([]uint64, 1<<bits), mask: 1<<bits - 1}
}

func (t *table) add(k, parent uint64) bool {
	if t.n*10 > len(t.key)*7 {
		t.grow()
	}
	for i := k & t.mask; ; i = (i + 1) & t.mask {
		switch t.key[i] {
		case 0:
			t.key[i], t.par[i] = k, parent
			t.n++
			return true
		case k:
			return false
		}
	}
}

func (t *table) parent(k uint64) uint64 {
	for i := k & t.mask; ; i = (i + 1) & t.mask {
		if t.key[i] == k {
			return t.par[i]
		}
		if t.key[i] == 0 {
			return 0
		}
	}
}

func (t *table) grow() {
	o := *t
	*t = table{key: make([]uint64, 2*len(o.key)), par: make([]uint64, 2*len(o.key)), mask: 2*o.mask + 1}
	for i, k := range o.key {
		if k != 0 {
			t.add(k, o.par[i])
		}
	}
}

// fingerprint hashes a state: two lanes of multiply and shift over words.
func fingerprint(b []byte) uint64 {
	const m1, m2 = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
	h := uint64(len(b)) * m1
	for ; len(b) >= 8; b = b[8:] {
		h ^= binary.LittleEndian.Uint64(b) * m2
		h = (h<<31 | h>>33) * m1
		h ^= h >> 29
	}
	for _, c := range b {
		h ^= uint64(c) * m2
		h = (h<<23 | h>>41) * m1
	}
	h ^= h >> 32
	h *= m2
	h ^= h >> 29
	h *= m1
	h ^= h >> 32
	return max(h, 1)
}

// Result is what an exploration has found.
type Result struct {
	States, Edges, Depth int
	Exhausted            bool
	Violation            string   // empty: none
	Trace                []string // the shortest way to it
}

// explore visits states breadth first, up to a number of them.
func (m *Model) explore(most int) Result {
	seen := newTable(16)
	init := m.initial()
	seen.add(init.key(), 0)
	var r Result
	var bad, parent uint64
	cur, next := []state{init}, []state(nil)
	for r.Exhausted = true; len(cur) > 0 && r.Violation == "" && r.Exhausted; r.Depth++ {
		next = next[:0]
		for i := range cur {
			from := cur[i].key()
			m.steps(&cur[i], func(_ label, n *state, violation string) {
				if r.Violation != "" {
					return
				}
				r.Edges++
				key := n.key()
				if violation != "" {
					r.Violation, bad, parent = violation, key, from
				} else if seen.add(key, from) {
					next = append(next, *n)
				}
			})
			if r.Violation != "" {
				break
			}
			if seen.n >= most {
				r.Exhausted = false
				break
			}
		}
		cur, next = next, cur
	}
	r.States = seen.n
	if r.Violation != "" {
		r.Trace = m.trace(seen, bad, parent)
	}
	return r
}

// trace runs again from the first state to a violation, by the keys on the way.
func (m *Model) trace(seen *table, bad, parent uint64) (lines []string) {
	path := []uint64{bad}
	for k := parent; k != 0; k = seen.parent(k) {
		path = append(path, k)
	}
	s := m.initial()
	for i := len(path) - 2; i >= 0; i-- {
		found := false
		m.steps(&s, func(l label, n *state, violation string) {
			if !found && n.key() == path[i] && (i > 0) == (violation == "") {
				found = true
				lines = append(lines, l.String())
				s = *n
			}
		})
		if !found {
			return append(lines, "(the rest of the way is not known)")
		}
	}
	return lines
}

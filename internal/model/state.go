package model

import (
	"fmt"
	"unsafe"
)

// Durability is what an acknowledged write survives.
type Durability uint8

const (
	Always Durability = iota // every append is durable at once
	Flush                    // loss of power takes what was not flushed; who lost some is an amnesiac
	Write                    // commits wait until they are durable
)

// Scope bounds what is visited.
type Scope struct {
	Nodes       int // 2 or 3
	Writes      int // of clients, up to 3
	Generations int // up to 4
	Records     int // numbers of the record, up to 8
	Crashes     int // of processes: the log is kept
	Powers      int // losses of power, unless Durability is Always
	Durability  Durability
	Majority    bool // the policy; else all
	Joins       bool // members come (back)
	Leases      bool // reads are under leases; else each asks the others
	Handover    bool // leases may be released
	Policy      bool // the policy may be changed once
	Visible     bool // judge by what clients see alone
}

// Model is the protocol in a scope, with at most one planted bug.
type Model struct {
	Scope
	Bug Bug
}

func (m *Model) rules() Rules { return Rules{m.Bug} }

// Explore visits up to so many states.
func (m *Model) Explore(most int) Result { return m.explore(most) }

// state is everything: of nodes by number, of generations and record numbers by theirs.
// It has no padding, and its bytes are its key.
type state struct {
	mon                monitor
	committed, flushed logbook       // the longest that ever was
	log                [3]logbook    // of each node
	sent               [5]logbook    // by the primary of each generation
	seal               [3][3]logbook // what each promoted node was answered, with sealed
	held, durable      [3][3]uint8   // what each primary knows of each member: entries
	synced             [3]uint8      // entries that survive a loss of power
	primary            [5]uint8      // of each generation,
	setOf, recordOf    [5]uint8      // and the set and record number that it begins with; 0: it cannot begin any more
	sealSent, joinSent [5]uint8      // nodes whose SEAL or JOIN is under way
	pastSet, pastGen   [9]uint8      // of each record number
	gen, number, set   uint8         // the record
	request            uint8         // a set that the quorum was asked for; 0: none
	prom               [3]uint8
	role               [3]Role
	of, knows, counts  [3]uint8 // generation of the role, record number and set that the node knows
	asked, joins       [3]uint8 // a set that was asked for; who joins, plus one
	commit             [3]uint8
	believes, grants   [3]uint8 // leases: by whom; whether one was given
	sentUnder          [3]uint8 // the set when the log was chosen, or a write began
	down               uint8    // lost power, and has not registered since
	writeGen           [3]uint8
	invoked, bound     uint8 // writes begun; the newest generation that served
	crashes, powers    uint8
	released           uint8    // nodes with a RELEASE under way
	since              [3]uint8 // what older generations say is for a run of the node that is over
	_                  [3]uint8
}

func (s *state) key() uint64 {
	return fingerprint(unsafe.Slice((*byte)(unsafe.Pointer(s)), int(unsafe.Sizeof(*s))))
}

// A set is a bit for each member, and from amnesiacs on for each that is one.
const (
	members   = 7
	amnesiacs = 3      // shift
	otherWay  = 1 << 6 // the policy is the other one than at first
)

func bit(i int) uint8 { return 1 << i }

// logbook is a log: five bits for each entry, the first lowest: generation and value.
// Value 0 is a GENERATION entry, others are a client's write. What every log begins
// with, the entry of generation 1, is left out.
type logbook uint32

// sealed marks an answer to SEAL, which may be of an empty log.
const sealed logbook = 1 << 31

const mostEntries = 6

func (l logbook) len() (n int) {
	for ; l != 0; l >>= 5 {
		n++
	}
	return n
}

func (l logbook) first(n int) logbook { return l & (1<<(5*n) - 1) }

// at is an entry, from 1 on.
func (l logbook) at(n int) uint8 { return uint8(l>>(5*(n-1))) & 31 }

func (l logbook) with(entry uint8) logbook { return l | logbook(entry)<<(5*l.len()) }

func (l logbook) gen() int {
	if l == 0 {
		return 1
	}
	return int(l.at(l.len()) >> 2)
}

// common is how many entries two logs begin with alike.
func (l logbook) common(o logbook) (n int) {
	for l.at(n+1) != 0 && l.at(n+1) == o.at(n+1) {
		n++
	}
	return n
}

func (l logbook) begins(o logbook) bool { return o.first(l.len()) == l }

// beats tells whether a log is better than another: by generation, then by length.
func (l logbook) beats(o logbook) bool {
	return l.gen() > o.gen() || l.gen() == o.gen() && l.len() > o.len()
}

// value is what the log makes of the block.
func (l logbook) value() uint8 {
	for n := l.len(); n > 0; n-- {
		if v := l.at(n) & 3; v != 0 {
			return v
		}
	}
	return 0
}

// label says what a step was.
type label struct {
	what    string
	a, b, c int
}

// String is the step for people.
func (l label) String() string {
	args := []any{l.a, l.b, l.c}
	n := 0
	for i := range len(l.what) {
		if l.what[i] == '%' {
			n++
		}
	}
	return fmt.Sprintf(l.what, args[:n]...)
}

func (m *Model) initial() state {
	all := uint8(1)<<m.Nodes - 1
	s := state{mon: monitorStart, gen: 1, number: 1, set: all, bound: 1}
	for i := range m.Nodes {
		s.prom[i] = 1
	}
	s.role[0], s.of[0], s.knows[0], s.counts[0] = Serving, 1, 1, all
	return s
}

// set is what the rules say of a set.
func (m *Model) set(set uint8) Set {
	return Set{Members: Nodes(set & members), Amnesiacs: Nodes(set >> amnesiacs & set & members), Majority: m.Majority != (set&otherWay != 0)}
}

// open are the writes that may take effect still.
func (m *Model) open(s *state) (set uint8) {
	for w := range int(s.invoked) {
		if s.writeGen[w] >= s.bound {
			set |= bit(w)
		}
	}
	return set
}

// stepDown forgets what node i was besides a member.
func (s *state) stepDown(i int) {
	s.role[i], s.of[i], s.knows[i], s.counts[i], s.asked[i], s.joins[i], s.commit[i], s.believes[i], s.sentUnder[i] = 0, 0, 0, 0, 0, 0, 0, 0, 0
	s.held[i], s.durable[i], s.seal[i] = [3]uint8{}, [3]uint8{}, [3]logbook{}
}

// holders are the nodes of which primary i knows that they hold its log up to n.
func (m *Model) holders(s *state, i, n int, durable bool) (set Nodes) {
	for r := range m.Nodes {
		has := int(s.held[i][r])
		if r == i {
			has = s.log[i].len()
		}
		if durable && r == i {
			has = min(has, int(s.synced[r]))
		} else if durable {
			has = int(s.durable[i][r])
		}
		if has >= n {
			set |= Bit(r)
		}
	}
	return set
}

// lent are those who have lent node i the right to read.
func (m *Model) lent(s *state, i int) (by Nodes) {
	if m.Leases {
		return Nodes(s.believes[i] &^ bit(i))
	}
	for r := range m.Nodes {
		if r != i && s.prom[r] == s.of[i] && s.down&bit(r) == 0 {
			by |= Bit(r)
		}
	}
	return by
}

// reads tells whether node i may answer a read.
func (m *Model) reads(s *state, i int) bool {
	return s.role[i] >= Chosen && m.rules().Read(Reading{s.role[i], m.set(s.counts[i]), m.set(s.asked[i]), m.lent(s, i)}) == ""
}

// write makes the log of node r l. A cut of a tail that conflicts is durable with what
// takes its place.
func (m *Model) write(s *state, r int, l logbook) {
	same := s.log[r].common(l)
	conflicts := same < s.log[r].len() && l.len() > same
	s.log[r] = l
	if conflicts || m.Durability == Always || int(s.synced[r]) > l.len() {
		s.synced[r] = uint8(l.len())
	}
}

// cut makes the log of node r end earlier, which is durable at once.
func (m *Model) cut(s *state, r, n int) {
	s.log[r] = s.log[r].first(n)
	s.synced[r] = min(s.synced[r], uint8(n))
}

// normalize forgets what can have no effect any more, so that states are alike.
func (m *Model) normalize(s *state) {
	for g := 1; g <= m.Generations; g++ {
		m.normalizeGeneration(s, g)
	}
	for i := range m.Nodes {
		if !m.Leases {
			s.believes[i], s.grants[i] = 0, 0
		}
		if s.role[i] < Chosen {
			continue
		}
		s.seal[i] = [3]logbook{}
		for r := range m.Nodes {
			if r != i && s.prom[r] == s.of[i] && s.down&bit(r) == 0 && s.held[i][r] > 0 {
				known := min(int(s.held[i][r]), int(s.synced[r]), s.log[r].common(s.log[i]))
				s.durable[i][r] = max(s.durable[i][r], uint8(known))
			}
		}
	}
	for w := range s.writeGen {
		if s.writeGen[w] < s.bound {
			s.writeGen[w] = 0
		}
	}
	for c := 1; c <= m.Records; c++ {
		used := false
		for i := range m.Nodes {
			used = used || s.role[i] != Secondary && int(s.knows[i]) < c && s.of[i] == s.pastGen[c]
		}
		if !used {
			s.pastSet[c], s.pastGen[c] = 0, 0
		}
	}
}

func (m *Model) normalizeGeneration(s *state, g int) {
	live := false
	for i := range m.Nodes {
		live = live || s.role[i] != Secondary && int(s.of[i]) == g
		if int(s.prom[i]) >= g && m.Bug != VolatilePromise {
			s.sealSent[g] &^= bit(i)
			s.joinSent[g] &^= bit(i)
		}
	}
	if m.Bug == OlderGeneration || m.Bug == Resume || m.Bug == VolatilePromise {
		return
	}
	if g > 1 && g <= int(s.gen) && int(s.prom[s.primary[g]]) >= g {
		s.setOf[g], s.recordOf[g], s.primary[g] = 0, 0, 0
	}
	need := live || s.sealSent[g]|s.joinSent[g] != 0
	for r := range m.Nodes {
		need = need || int(s.prom[r]) == g && (s.log[r].common(s.sent[g]) < s.sent[g].len() || m.Bug == Truncate)
	}
	if !need {
		s.sent[g] = 0
	}
}

// check tells what must not be in a state; empty: it may be.
func (m *Model) check(s *state) string {
	switch {
	case s.mon == 0:
		return "I7: what clients were told is not strictly linearizable"
	case m.Visible:
		return ""
	}
	readers := 0
	for i := range m.Nodes {
		if s.role[i] >= Chosen && s.of[i] == s.gen && m.Durability != Flush && m.Bug == None && s.set != s.counts[i] && s.set != s.asked[i] {
			return "I4: the recorded set is none of those that its primary counts"
		}
		if m.reads(s, i) {
			readers++
		}
		for j := range i {
			if !matching(s.log[i], s.log[j]) {
				return "I11: the same place and generation is another entry, or after another log"
			}
		}
	}
	if readers > 1 {
		return "I6: two nodes may answer reads"
	}
	return m.checkSeals(s)
}

func matching(a, b logbook) bool {
	for n := a.common(b) + 1; n <= min(a.len(), b.len()); n++ {
		if a.at(n)>>2 == b.at(n)>>2 {
			return false
		}
	}
	return true
}

// checkSeals checks that the best log of any seals that suffice has all that was
// committed.
func (m *Model) checkSeals(s *state) string {
	set := m.set(s.set)
	able := uint8(set.sound()) &^ s.down
	for seals := uint8(1); seals <= members; seals++ {
		if seals&^able != 0 || Nodes(seals).count() != set.Seals() {
			continue
		}
		if !s.committed.begins(best(s, seals)) {
			return "I5: seals that suffice lack a committed entry"
		}
	}
	return ""
}

// best is the best log of some nodes.
func best(s *state, of uint8) (l logbook) {
	for r := range s.log {
		if of&bit(r) != 0 && s.log[r].beats(l) {
			l = s.log[r]
		}
	}
	return l
}

package blockdev

import (
	"cmp"
	"slices"

	"blkd/internal/mutant"
)

// Origin names the operation of a client that an entry is of. A client sends an
// operation again if it gets no answer, to whoever is primary by then. By its origin
// that one knows whether it was done: every member keeps [Sessions] of its log.
type Origin struct {
	Client  uint64 // a run of who sends it; 0: nobody will send it again, and the rest is 0 as well
	Session uint64 // of the client: a later one has a higher number and ends the ones before
	Op      uint64 // within the session, rising from 1
	More    bool   // the operation goes on in the next entry
}

// OpWindow bounds the operations of a session that are under way: one begins its
// operation n only when all up to n-OpWindow are answered.
const OpWindow = 4096

// maxClients bounds a table: the client whose last operation is the oldest goes. It
// is far more than a cluster has nodes; each start of one makes another client.
const maxClients = 1024

// Sessions tells which operations a log holds, of the last session of each client.
// It grows only, so that it does not matter if entries are added again. The zero
// value holds nothing. Not safe for concurrent use.
type Sessions struct{ list []session } // by client

// session is what one has done. Operations are done about in their order, so that
// done has one range, or a few.
type session struct {
	client, number uint64
	top            uint64 // the highest operation
	last           Seq    // of its newest entry
	done           []opRange
	begun          []opBegun // in part, because the log was cut off behind that
}

// opRange is operations first to last.
type opRange struct{ first, last uint64 }

// opBegun is an operation that was done up to an offset in the volume.
type opBegun struct {
	op  uint64
	end int64
}

// Progress tells what is known of an operation.
type Progress uint8

const (
	OpNew   Progress = iota // it was not done
	OpBegun                 // up to an offset
	OpDone
	OpOld // its session has ended, or its client has had the answer
)

// Find tells what is known of an operation, and if it is OpBegun, up to which offset
// of the volume it was done, in bytes.
func (t *Sessions) Find(o Origin) (p Progress, end int64) {
	i, known := t.find(o.Client)
	if !known || t.list[i].number < o.Session {
		return OpNew, 0
	}
	s := &t.list[i]
	if s.number > o.Session || o.Op+OpWindow <= s.top {
		return OpOld, 0
	}
	if n := s.before(o.Op); n > 0 && o.Op <= s.done[n-1].last {
		return OpDone, 0
	}
	for _, b := range s.begun {
		if b.op == o.Op {
			return OpBegun, b.end
		}
	}
	return OpNew, 0
}

// Add notes an entry that ends at an offset of the volume.
func (t *Sessions) Add(o Origin, seq Seq, end int64) {
	if o.Client == 0 {
		return
	}
	i, known := t.find(o.Client)
	switch {
	case !known:
		t.list = slices.Insert(t.list, i, session{client: o.Client, number: o.Session})
	case t.list[i].number > o.Session:
		return
	case t.list[i].number < o.Session:
		t.list[i] = session{client: o.Client, number: o.Session}
	}
	t.list[i].add(o, seq, end)
	if len(t.list) > maxClients {
		oldest := slices.MinFunc(t.list, func(a, b session) int { return cmp.Compare(a.last, b.last) })
		i, _ := t.find(oldest.client)
		t.list = slices.Delete(t.list, i, i+1)
	}
}

func (t *Sessions) find(client uint64) (int, bool) {
	return slices.BinarySearchFunc(t.list, client, func(s session, c uint64) int { return cmp.Compare(s.client, c) })
}

func (s *session) add(o Origin, seq Seq, end int64) {
	s.last = max(s.last, seq)
	if s.top = max(s.top, o.Op); o.Op+OpWindow <= s.top {
		return
	}
	if o.More && !mutant.On(mutant.ReplicaBegunDone) {
		s.begin(o.Op, end)
	} else {
		s.finish(o.Op)
	}
	for len(s.done) > 0 && s.done[0].last+OpWindow <= s.top {
		s.done = s.done[1:]
	}
	if len(s.begun) > 0 {
		s.begun = slices.DeleteFunc(s.begun, func(b opBegun) bool { return b.op == o.Op && !o.More || b.op+OpWindow <= s.top })
	}
}

func (s *session) begin(op uint64, end int64) {
	if n := s.before(op); n > 0 && op <= s.done[n-1].last {
		return // it is added again
	}
	for i := range s.begun {
		if s.begun[i].op == op {
			s.begun[i].end = max(s.begun[i].end, end)
			return
		}
	}
	s.begun = append(s.begun, opBegun{op, end})
}

// before is how many ranges begin at op or before it.
func (s *session) before(op uint64) int {
	n := len(s.done)
	for n > 0 && s.done[n-1].first > op {
		n--
	}
	return n
}

func (s *session) finish(op uint64) {
	n := s.before(op)
	switch left, right := n > 0 && s.done[n-1].last+1 >= op, n < len(s.done) && s.done[n].first == op+1; {
	case left && op <= s.done[n-1].last:
	case left && right:
		s.done[n-1].last = s.done[n].last
		s.done = slices.Delete(s.done, n, n+1)
	case left:
		s.done[n-1].last = op
	case right:
		s.done[n].first = op
	default:
		s.done = slices.Insert(s.done, n, opRange{op, op})
	}
}

// Clone is a copy that has nothing in common with t.
func (t *Sessions) Clone() *Sessions {
	c := &Sessions{slices.Clone(t.list)}
	for i := range c.list {
		s := &c.list[i]
		s.done, s.begun = slices.Clone(s.done), slices.Clone(s.begun)
	}
	return c
}

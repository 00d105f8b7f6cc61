package blockdev

import (
	"cmp"
	"slices"
	"sync"
)

// history is the index of what a replica's log still holds, so that entries can
// be read again for a member that lacks them. The ring keeps every entry until
// its head has come round: to read them costs no space, and never stops a write.
//
// The index is sparse, as an index of the log's places: a reader begins at the
// mark before what it wants and walks from there. It has a lock of its own, the
// innermost, because the protocol asks it on every message.
type history struct {
	size int64 // of the ring, bytes
	step int64 // bytes of log between two marks, at least

	mu     sync.Mutex
	base   logPoint // the log can be read from here on
	last   Seq      // of the newest entry
	marks  []historyMark
	gens   []genStart // all that begin behind base, and the last before it
	cursor logPoint   // where a reader has stopped: most go on from there
}

// historyMark is a place in the log: the entry seq lies at pos.
type historyMark struct {
	seq Seq
	pos uint64
}

// historyMarks bounds the marks of a log; each takes 16 bytes.
const historyMarks = 1 << 14

// start forgets everything: the log begins at a point. Generations that began
// before it may be known.
func (h *history) start(size int64, at logPoint, gens [keptGens]genStart) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.size, h.step = size, max(size/historyMarks, BlockSize)
	h.base, h.last, h.cursor = at, at.seq, at
	h.marks, h.gens = h.marks[:0], h.gens[:0]
	for _, g := range gens {
		if g.first > 0 && g.first <= at.seq {
			h.gens = append(h.gens, g)
		}
	}
}

// add records the entries that follow the last one.
func (h *history) add(pieces []piece) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range pieces {
		h.addOne(&pieces[i].record)
	}
}

// addOne is add for callers that hold mu, or are alone.
func (h *history) addOne(r *record) {
	if n := len(h.marks); n == 0 || int64(r.pos-h.marks[n-1].pos) >= h.step {
		h.marks = append(h.marks, historyMark{r.seq, r.pos})
	}
	if g, _ := h.genAt(h.last); g != r.gen {
		h.gens = append(h.gens, genStart{r.gen, r.seq})
	}
	h.last = r.seq
}

// overwrite forgets what is lost when the log is written from start up to end,
// the rest of the last page included.
func (h *history) overwrite(start, end uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end += BlockSize - 1
	if end <= h.base.pos+uint64(h.size) {
		return
	}
	lost := end - uint64(h.size)
	n := 0
	for n < len(h.marks) && h.marks[n].pos < lost {
		n++
	}
	gen, _ := h.genAt(h.last)
	base := logPoint{start, gen, h.last}
	if n < len(h.marks) {
		base = h.point(n)
	}
	h.marks = h.marks[n:]
	h.rebase(base)
}

func (h *history) rebase(base logPoint) {
	h.base = base
	if n := h.gensUntil(base.seq) - keptGens; n > 0 {
		h.gens = h.gens[n:]
	}
}

// gensUntil is how many generations are known that began with seq or before.
func (h *history) gensUntil(seq Seq) int {
	n := len(h.gens)
	for n > 0 && h.gens[n-1].first > seq {
		n--
	}
	return n
}

// cut forgets the entries behind a point.
func (h *history) cut(end logPoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.marks) > 0 && h.marks[len(h.marks)-1].pos >= end.pos {
		h.marks = h.marks[:len(h.marks)-1]
	}
	for len(h.gens) > 0 && h.gens[len(h.gens)-1].first > end.seq {
		h.gens = h.gens[:len(h.gens)-1]
	}
	if end.pos < h.base.pos {
		h.base = end
	}
	if end.pos < h.cursor.pos {
		h.cursor = h.base
	}
	h.last = end.seq
}

// end is the newest entry. It is in the log's file.
func (h *history) end() Seq {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// gen is the generation of the entry at seq, if it is known.
func (h *history) gen(seq Seq) (Generation, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.genAt(seq)
}

// genAt is gen for callers that hold mu. The generation asked for is nearly
// always the last one.
func (h *history) genAt(seq Seq) (Generation, bool) {
	if seq > h.last {
		return 0, false
	}
	if n := h.gensUntil(seq); n > 0 {
		return h.gens[n-1].gen, true
	}
	return h.base.gen, seq >= h.base.seq
}

// find returns the nearest known point that is not behind the entry seq. It is
// false if the log does not reach back to what follows seq.
func (h *history) find(seq Seq) (logPoint, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if seq < h.base.seq {
		return h.base, false
	}
	at := h.base
	if i, _ := slices.BinarySearchFunc(h.marks, seq+2, func(m historyMark, seq Seq) int { return cmp.Compare(m.seq, seq) }); i > 0 {
		at = h.point(i - 1)
	}
	if c := h.cursor; c.seq <= seq && c.seq > at.seq {
		at = c
	}
	return at, true
}

// point is the point at mark i.
func (h *history) point(i int) logPoint {
	m := h.marks[i]
	gen, _ := h.genAt(m.seq - 1)
	return logPoint{m.pos, gen, m.seq - 1}
}

// points are places from which the next start can index the log, if replay begins
// at end: what follows keep, as far as it is there, and three that divide the
// rest.
func (h *history) points(keep Seq, end logPoint) (p [4]logPoint) {
	first, _ := h.find(min(keep, end.seq))
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range p {
		p[i] = end
		if first.pos >= end.pos {
			continue
		}
		want := first.pos + (end.pos-first.pos)/uint64(len(p))*uint64(i)
		n, _ := slices.BinarySearchFunc(h.marks, want, func(m historyMark, pos uint64) int { return cmp.Compare(m.pos, pos) })
		if i == 0 {
			p[i] = first
		} else if n < len(h.marks) && h.marks[n].pos < end.pos {
			p[i] = h.point(n)
		}
	}
	return p
}

// gensBefore are the last generations that began before what follows seq.
func (h *history) gensBefore(seq Seq) (kept [keptGens]genStart) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.gensUntil(seq)
	copy(kept[:], h.gens[max(0, n-keptGens):n])
	return kept
}

// stopped remembers where a reader has stopped.
func (h *history) stopped(at logPoint) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cursor = at
}

// bytes is the memory of the index.
func (h *history) bytes() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(cap(h.marks)+cap(h.gens)) * 16
}

package crashfs

// inode is a file or a directory.
type inode struct {
	id  uint64
	dir bool

	// Files. Crash takes the durable state and applies some of ops, which are
	// what happened since, in order.
	now, durable  state
	ops           []fileOp
	keepOps       bool // a Sync failed: ops are no longer forgotten by Sync
	handles       int
	locked        bool
	linked        bool // a name leads here now
	durablyLinked bool // a durable name does

	// Directories: entries sorted by name.
	entries, durableEntries []entry
}

// state is the contents of a file. Bytes beyond size are zero in the table.
type state struct {
	table
	size int64
}

func (s *state) snapshot() state { return state{table: s.table.snapshot(), size: s.size} }

// pageCount is the number of pages that n bytes touch.
func pageCount(n int64) int64 { return (n + pageSize - 1) / pageSize }

type opKind uint8

const (
	writeOp    opKind = iota
	punchOp           // pages become holes, edges become zeros
	truncateOp        // like punchOp up to the old end, and the size
	allocateOp        // holes become blank pages
	flipOp            // one bit: off is the byte, n the bit
)

type fate uint8

const (
	pending fate = iota // a Sync makes it durable
	doomed              // a Sync failed on it: nothing makes it durable
	certain             // synced, but it follows a doomed operation
)

// fileOp is one change of a file. Its pages hold what the file held right after
// it: the versions that a sector may have after a crash.
type fileOp struct {
	seq     uint64
	kind    opKind
	fate    fate
	off, n  int64
	pages   []*page  // writeOp: every page it touches
	edges   [2]*page // punchOp, truncateOp: partial first and last page
	grows   int64    // the size becomes at least this
	setSize bool     // truncateOp: the size becomes off
	half    bool     // writeOp: a moment of a write through a mapping, which follows
}

// write stores the buffers from off, up to limit bytes in all.
func (f *inode) write(seq uint64, bufs [][]byte, off, limit int64) {
	first := off / pageSize
	count := pageCount(off+limit) - first
	buf := make([]byte, count*pageSize)
	op := fileOp{seq: seq, kind: writeOp, off: off, n: limit, pages: make([]*page, count)}
	end := off + limit
	if p := f.now.get(first); p != nil && off%pageSize != 0 {
		copy(buf, p[:])
	}
	if p := f.now.get(first + count - 1); p != nil && end%pageSize != 0 {
		copy(buf[(count-1)*pageSize:], p[:])
	}
	at := off % pageSize
	for _, b := range bufs {
		b = b[:min(int64(len(b)), limit)]
		at += int64(copy(buf[at:], b))
		limit -= int64(len(b))
	}
	for i := range op.pages {
		op.pages[i] = (*page)(buf[i*pageSize:])
		f.now.set(first+int64(i), op.pages[i])
	}
	if end > f.now.size {
		op.grows, f.now.size = end, end
	}
	f.ops = append(f.ops, op)
}

// zero makes [off, end) read as zeros and gives whole pages back, as part of op.
func (f *inode) zero(op *fileOp, off, end int64) {
	op.edges = [2]*page{}
	for i, e := range edgesOf(off, end) {
		if e.lo == e.hi {
			continue
		}
		if p := f.now.get(e.page); p != nil {
			version := *p
			clear(version[e.lo:e.hi])
			op.edges[i] = &version
			f.now.set(e.page, &version)
		}
	}
	lo, hi := wholePages(off, end)
	f.now.drop(lo, hi)
}

func (f *inode) punch(seq uint64, off, end int64) {
	end = min(end, pageCount(f.now.size)*pageSize)
	if off >= end {
		return
	}
	op := fileOp{seq: seq, kind: punchOp, off: off, n: end - off}
	f.zero(&op, off, end)
	f.ops = append(f.ops, op)
}

func (f *inode) truncate(seq uint64, size int64) {
	if size == f.now.size {
		return
	}
	op := fileOp{seq: seq, kind: truncateOp, off: size, setSize: true}
	if end := pageCount(f.now.size) * pageSize; size < end {
		op.n = end - size
		f.zero(&op, size, end)
	}
	f.now.size = size
	f.ops = append(f.ops, op)
}

func (f *inode) allocate(seq uint64, off, end int64) {
	op := fileOp{seq: seq, kind: allocateOp, off: off, n: end - off}
	fillHoles(&f.now.table, off/pageSize, pageCount(end))
	if end > f.now.size {
		op.grows, f.now.size = end, end
	}
	f.ops = append(f.ops, op)
}

// flip changes a bit on the medium and in the cache alike.
func (f *inode) flip(off int64, bit uint) {
	flipBit(&f.now, off, bit)
	f.ops = append(f.ops, fileOp{kind: flipOp, fate: certain, off: off, n: int64(bit)})
}

// sync makes the contents durable, except what an earlier failure doomed.
func (f *inode) sync() {
	if f.keepOps {
		f.settle(certain)
		return
	}
	if len(f.ops) > 0 {
		f.durable = f.now.snapshot()
		clear(f.ops) // let go of the pages
		f.ops = f.ops[:0]
	}
}

// syncFailed dooms what a Sync would have made durable.
func (f *inode) syncFailed() {
	f.keepOps = f.keepOps || len(f.ops) > 0
	f.settle(doomed)
}

func (f *inode) settle(to fate) {
	for i := range f.ops {
		if f.ops[i].fate == pending {
			f.ops[i].fate = to
		}
	}
}

// edge is the part [lo, hi) of a page.
type edge struct {
	page   int64
	lo, hi int64
}

// edgesOf returns the parts of the first and the last page that [off, end)
// touches without covering the page; lo == hi where there is none.
func edgesOf(off, end int64) [2]edge {
	first, last := off/pageSize, end/pageSize
	head := edge{page: first, lo: off % pageSize, hi: pageSize}
	tail := edge{page: last, hi: end % pageSize}
	if first == last {
		head.hi, tail = tail.hi, edge{}
	}
	if head.lo == 0 && head.hi == pageSize {
		head = edge{}
	}
	return [2]edge{head, tail}
}

// wholePages returns the pages [lo, hi) that [off, end) covers.
func wholePages(off, end int64) (lo, hi int64) {
	lo, hi = pageCount(off), end/pageSize
	return lo, max(lo, hi)
}

func fillHoles(t *table, i, end int64) {
	for ; i < end; i++ {
		if t.get(i) == nil {
			t.set(i, &blank)
		}
	}
}

func flipBit(s *state, off int64, bit uint) {
	p := s.get(off / pageSize)
	if p == nil {
		p = &blank
	}
	version := *p
	version[off%pageSize] ^= 1 << bit
	s.set(off/pageSize, &version)
}

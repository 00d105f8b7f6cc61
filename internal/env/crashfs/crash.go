package crashfs

// Mode is the kind of damage that a crash does to what was not durable.
type Mode uint8

const (
	AllLost       Mode = iota // nothing survives
	AllKept                   // everything survives
	PrefixKept                // what came first survives, one operation is torn
	RandomSectors             // each sector of each write by itself
	RandomOps                 // each operation as a whole
	RandomFiles               // each file and directory as a whole
	OneLost                   // everything but one operation, or part of one
	OneKept                   // nothing but one operation, or part of one
	numModes
)

var modeNames = [numModes]string{
	"all-lost", "all-kept", "prefix-kept", "random-sectors", "random-ops", "random-files", "one-lost", "one-kept",
}

// String is the mode's name.
func (m Mode) String() string {
	if m < numModes {
		return modeNames[m]
	}
	return "unknown"
}

// ModeOf is the mode that Crash draws from a seed.
func ModeOf(seed uint64) Mode {
	r := rng(seed)
	return Mode(r.below(uint64(numModes)))
}

// Crash returns a file system as a power loss now could leave it, in the mode
// that the seed draws. The receiver does not change. The new file system has no
// open files, no locks, no rules and no trace; the limit on space is the same.
func (fs *FS) Crash(seed uint64) *FS { return fs.CrashMode(ModeOf(seed), seed) }

// CrashMode is Crash in a given mode.
func (fs *FS) CrashMode(mode Mode, seed uint64) *FS {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	p := fs.plan(mode, seed)
	tree := p.survivingNames(fs.names)
	next := &FS{budget: fs.budget}
	next.root = p.rebuild(next, fs.root, tree)
	return next
}

// survivingNames returns the entries of each directory that has names which are
// not durable yet.
func (p *plan) survivingNames(ops []nameOp) map[*inode]*entries {
	tree := make(map[*inode]*entries) // only ever looked up
	blocked := make(map[*inode]bool)
	in := func(d *inode) *entries {
		if tree[d] == nil {
			tree[d] = &entries{list: append([]entry(nil), d.durableEntries...)}
		}
		return tree[d]
	}
	for i := range ops {
		o := &ops[i]
		keep := true
		for _, d := range o.dirs() {
			keep = keep && !blocked[d]
		}
		if keep {
			keep = p.whole(p.judge(o.seq, o.dirs()[0].id))
		}
		if !keep {
			for _, d := range o.dirs() {
				blocked[d] = true
			}
			continue
		}
		o.apply(in)
	}
	return tree
}

// rebuild copies what is reachable from an inode into the file system next.
func (p *plan) rebuild(next *FS, old *inode, tree map[*inode]*entries) *inode {
	n := next.newInode(old.dir)
	n.linked, n.durablyLinked = true, true
	if !old.dir {
		next.files = append(next.files, n)
		n.durable = p.contents(old)
		n.now = n.durable.snapshot()
		next.used += n.now.used
		return n
	}
	list := old.durableEntries
	if t := tree[old]; t != nil {
		list = t.list
	}
	for _, e := range list {
		n.entries = append(n.entries, entry{e.name, p.rebuild(next, e.node, tree)})
	}
	n.durableEntries = append([]entry(nil), n.entries...)
	return n
}

// contents draws what a file holds after the crash.
func (p *plan) contents(f *inode) state {
	s := f.durable.snapshot()
	for i := range f.ops {
		o := &f.ops[i]
		v := kept
		if o.fate != certain {
			v = p.judge(o.seq, f.id)
		}
		p.apply(&s, o, v)
	}
	// Sectors survived without the size that covered them.
	if end := int64(len(s.chunks)) * chunkPages; pageCount(s.size) < end {
		s.drop(pageCount(s.size), end)
	}
	if tail := s.size % pageSize; tail != 0 {
		if q := s.get(s.size / pageSize); q != nil {
			version := *q
			clear(version[tail:])
			s.set(s.size/pageSize, &version)
		}
	}
	return s
}

// apply does to s what survives of an operation.
func (p *plan) apply(s *state, o *fileOp, v verdict) {
	switch o.kind {
	case writeOp:
		if v == lost {
			return
		}
		first := o.off / pageSize
		for i, version := range o.pages {
			at := first + int64(i)
			merge(s, at, version, p.survivors(v)&touched(at, o.off, o.off+o.n))
		}
	case punchOp:
		p.zero(s, o, v)
	case truncateOp:
		if !p.whole(v) {
			return
		}
		if o.n > 0 {
			p.zero(s, o, kept)
		}
		s.size = o.off
		return
	case allocateOp:
		if !p.whole(v) {
			return
		}
		fillHoles(&s.table, o.off/pageSize, pageCount(o.off+o.n))
		v = kept
	case flipOp:
		flipBit(s, o.off, uint(o.n))
	}
	if o.grows > s.size && p.whole(v) {
		s.size = o.grows
	}
}

func (p *plan) zero(s *state, o *fileOp, v verdict) {
	if v == lost {
		return
	}
	end := o.off + o.n
	for i, e := range edgesOf(o.off, end) {
		if e.lo != e.hi {
			merge(s, e.page, o.edges[i], p.survivors(v)&touched(e.page, o.off, end))
		}
	}
	lo, hi := wholePages(o.off, end)
	if v == kept {
		s.drop(lo, hi)
		return
	}
	for i := s.next(lo, hi); i < hi; i = s.next(i+1, hi) {
		if p.flip() == kept {
			s.set(i, nil)
		}
	}
}

// touched returns the sectors of page i that [off, end) touches.
func touched(i, off, end int64) uint8 {
	lo := max(off-i*pageSize, 0) / SectorSize
	hi := (min(end-i*pageSize, pageSize) + SectorSize - 1) / SectorSize
	return uint8(1<<hi - 1<<lo)
}

// merge puts some sectors of a version, nil for zeros, into page i.
func merge(s *state, i int64, version *page, sectors uint8) {
	old := s.get(i)
	if sectors == 0 || old == version {
		return
	}
	if sectors == 0xff {
		s.set(i, version)
		return
	}
	if version == nil {
		version = &blank
	}
	mixed := new(page)
	if old != nil {
		*mixed = *old
	}
	for k := range pageSectors {
		if sectors>>k&1 == 1 {
			copy(mixed[k*SectorSize:(k+1)*SectorSize], version[k*SectorSize:])
		}
	}
	s.set(i, mixed)
}

package blockdev

// pins protect the payload of references that a member may lack (see Keep).
// While a chunk is pinned its content does not change: what is poured over a
// block of it goes, with the rest, to a fresh chunk, and when the map lets go of
// the chunk it is not handed out again. Guarded by Store.mu.
type pins struct {
	limit  int // chunks; 0: nothing is pinned
	refs   []pinnedRef
	count  int // chunks of refs
	chunks map[uint32]pin
}

// pinnedRef is a reference whose payload is pinned; they are kept by seq.
type pinnedRef struct {
	seq   Seq
	first uint32
	n     int // chunks
}

// pin is the state of a pinned chunk.
type pin struct {
	seq   Seq // of the reference that pins it
	freed bool
	punch bool // see freedChunk
}

// pinRef pins the payload of a reference that was just applied.
func (s *Store) pinRef(r *record) {
	if s.pins.limit == 0 || !s.pinnable(r) {
		return
	}
	s.pins.push(r)
	for c := r.phys; c < r.phys+uint32(r.blocks/chunkBlocks); c++ {
		s.pins.chunks[c] = pin{seq: r.seq}
	}
	for s.pins.count > s.pins.limit {
		s.unpinFirst()
	}
}

func (s *Store) pinnable(r *record) bool {
	return r.kind == recRef && r.flags&flagZeroed == 0 && r.seq > Seq(s.keep.Load())
}

func (p *pins) push(r *record) {
	n := r.blocks / chunkBlocks
	p.refs = append(p.refs, pinnedRef{r.seq, r.phys, n})
	p.count += n
}

// pinHistory pins what opening found in the log, entries by seq. The map may have
// let go of some of their chunks long ago, and some have another owner now. Who
// that is must be known, so this comes after replay.
func (s *Store) pinHistory(entries []*scanned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins = pins{limit: int(s.log.size / chunkBytes), chunks: map[uint32]pin{}}
	pending := map[uint32]bool{}
	for i := range s.pending.n {
		if r, _ := s.pending.at(i); r.kind == recRef {
			for c := range uint32(r.blocks / chunkBlocks) {
				pending[r.phys+c] = true
			}
		}
	}
	first, count := len(entries), 0
	for ; first > 0; first-- {
		if r := &entries[first-1].record; s.pinnable(r) && r.seq <= s.Committed() {
			if count += r.blocks / chunkBlocks; count > s.pins.limit {
				break
			}
		}
	}
	for _, e := range entries[first:] {
		if !s.pinnable(&e.record) || e.seq > s.Committed() {
			continue
		}
		s.pins.push(&e.record)
		for c := e.phys; c < e.phys+uint32(e.blocks/chunkBlocks); c++ {
			if !pending[c] {
				s.pins.chunks[c] = pin{seq: e.seq, freed: !s.alloc.isMapped(c)}
				s.alloc.reserve(c)
			}
		}
	}
	freed := s.freed
	s.freed = nil
	for _, f := range freed {
		s.free(f.chunk, f.punch)
	}
}

// pinned tells whether a chunk must not change.
func (s *Store) pinned(c uint32) bool {
	_, ok := s.pins.chunks[c]
	return ok
}

// unpin lets go of the references up to seq.
func (s *Store) unpin(seq Seq) {
	for len(s.pins.refs) > 0 && s.pins.refs[0].seq <= seq {
		s.unpinFirst()
	}
}

func (s *Store) unpinFirst() {
	ref := s.pins.refs[0]
	s.pins.refs = s.pins.refs[1:]
	s.pins.count -= ref.n
	for c := ref.first; c < ref.first+uint32(ref.n); c++ {
		p, ok := s.pins.chunks[c]
		if !ok || p.seq != ref.seq {
			continue // another reference has the place since
		}
		delete(s.pins.chunks, c)
		if p.freed {
			s.freed = append(s.freed, freedChunk{c, p.punch})
			s.kickFreed()
		}
	}
}

// free lets go of a chunk that the map no longer refers to.
func (s *Store) free(c uint32, punch bool) {
	if p, ok := s.pins.chunks[c]; ok {
		p.freed, p.punch = true, punch
		s.pins.chunks[c] = p
		return
	}
	s.freed = append(s.freed, freedChunk{c, punch})
	s.kickFreed()
}

package blockdev

import "blkd/internal/mutant"

// apply makes a committed entry visible to reads. Replay calls it again for
// entries that the map already reflects; each page tells by its applied position.
// It holds mu and may release it for a while.
func (s *Store) apply(r *record, crc []uint32) error {
	var err error
	s.applying = r.seq
	switch {
	case s.o.Staging:
		err = s.stage(r, crc)
	case r.kind == recData:
		block, pos := r.off/BlockSize, r.pos+uint64(r.headerBytes())
		for i, c := range crc {
			s.over.put(block+int64(i), loc{pos: pos + uint64(i)*BlockSize, crc: c})
		}
	case r.kind == recRef:
		if err = s.applyRef(r, crc); err == nil {
			s.pinRef(r)
		}
	case r.kind == recZero:
		err = s.applyZero(r)
	}
	if err != nil {
		return err
	}
	if !s.o.Staging {
		s.sessions.note(r)
	}
	s.applied = logPoint{pos: r.pos + uint64(r.bytes()), gen: r.gen, seq: r.seq}
	s.commit.Store(uint64(r.seq))
	return nil
}

// applyRef points the chunks of a reference to their new places.
func (s *Store) applyRef(r *record, crc []uint32) error {
	first := r.off / chunkBytes
	return s.eachPage(first, first+int64(r.blocks/chunkBlocks), func(page, lo, hi int64) {
		p := s.maps.modify(page)
		fresh := p.applied() < r.pos || mutant.On(mutant.StoreReapply)
		for c := lo; fresh && c < hi; c++ {
			i := c - first
			e := p.entry(int(c % pageChunks))
			s.remap(e, r.phys+uint32(i)+1, false)
			p.touch(e, r.seq)
			if r.flags&flagZeroed != 0 {
				continue
			}
			e.setPresent(1<<chunkBlocks - 1)
			for b := range chunkBlocks {
				e.setCRC(b, crc[int(i)*chunkBlocks+b])
			}
		}
		if fresh {
			p.setApplied(r.pos)
		}
		s.over.drop(lo*chunkBlocks, hi*chunkBlocks)
	})
}

// applyZero unmaps whole chunks, and then covers single blocks at the edges with
// zeros in the overlay: a round of destaging must not begin with these in it and
// without the entry.
func (s *Store) applyZero(r *record) error {
	punch := uint32(1)
	if r.flags&flagZeroed != 0 {
		punch = 0
	}
	block, end := r.off/BlockSize, (r.off+r.len)/BlockSize
	first, last := (block+chunkBlocks-1)/chunkBlocks, end/chunkBlocks // whole chunks
	if first >= last {
		s.zeroBlocks(block, end, punch)
		return nil
	}
	edges := func() {
		s.zeroBlocks(block, first*chunkBlocks, punch)
		s.zeroBlocks(last*chunkBlocks, end, punch)
	}
	if mutant.On(mutant.StoreEarlyEdges) {
		edges()
	}
	err := s.eachPage(first, last, func(page, lo, hi int64) {
		if p := s.maps.get(page); p == nil && s.over.count[page] > 0 || p != nil && p.applied() < r.pos {
			s.unmap(page, lo, hi, r)
		}
		s.over.drop(lo*chunkBlocks, hi*chunkBlocks)
	})
	if err == nil && !mutant.On(mutant.StoreEarlyEdges) {
		edges()
	}
	return err
}

func (s *Store) zeroBlocks(first, last int64, punch uint32) {
	for b := first; b < last; b++ {
		s.over.put(b, loc{crc: punch})
	}
}

// unmap frees the chunks [lo, hi) of a page for a zero. What was only in the log
// changes too.
func (s *Store) unmap(page, lo, hi int64, r *record) {
	for c := lo; c < hi; c++ {
		mapped := s.chunkPlace(c) != 0
		if !mapped && (!s.over.touches(c) || mutant.On(mutant.StoreQuietTrim)) {
			continue
		}
		p := s.maps.modify(page)
		e := p.entry(int(c % pageChunks))
		if mapped {
			s.remap(e, 0, true)
		}
		p.touch(e, r.seq)
		p.setApplied(r.pos)
	}
}

// remap gives an entry another place in the image (plus one; 0: none), empty.
func (s *Store) remap(e entry, phys uint32, punch bool) {
	if old := e.phys(); old != 0 {
		s.alloc.setMapped(old-1, false)
		if mutant.On(mutant.StoreEarlyReuse) {
			s.alloc.release(old - 1)
		} else {
			s.free(old-1, punch)
		}
	}
	clear(e)
	e.setPhys(phys)
	if phys != 0 {
		s.alloc.setMapped(phys-1, true)
	}
}

// eachPage calls f for the chunks [first, last) page by page, with the page in
// memory and mu held throughout each call.
func (s *Store) eachPage(first, last int64, f func(page, lo, hi int64)) error {
	for first < last {
		page := first / pageChunks
		if err := s.needPage(page); err != nil {
			return err
		}
		hi := min(last, (page+1)*pageChunks)
		f(page, first, hi)
		first = hi
	}
	return nil
}

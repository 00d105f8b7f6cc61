package blockdev

import "fmt"

// NextData finds allocated bytes at or after off, a multiple of BlockSize: the
// next run of blocks that hold committed data, in the image or still in the log.
// A long run comes in parts of some MiB. If there is none, n is 0.
func (s *Store) NextData(off int64) (start, n int64, err error) {
	if off < 0 || off%BlockSize != 0 {
		return 0, 0, fmt.Errorf("volume %s: %w: data from offset %d on", s.o.Volume, ErrInvalid, off)
	}
	size := s.size.Load()
	first, last := off/BlockSize, (size+BlockSize-1)/BlockSize
	for region := first / pageBlocks; region*pageBlocks < last; region++ {
		from, to, err := s.dataIn(region, max(first, region*pageBlocks), min(last, (region+1)*pageBlocks))
		if err != nil {
			return 0, 0, err
		}
		if from < to {
			return from * BlockSize, (to - from) * BlockSize, nil
		}
	}
	return size, 0, nil
}

// dataIn finds the first run of data among the blocks [first, last) of one map
// page.
func (s *Store) dataIn(region, first, last int64) (from, to int64, err error) {
	err = s.walk(region, func(p *page, logged bool) {
		if p == nil && !logged {
			return
		}
		for from = first; from < last && !s.holdsData(p, from); from++ {
		}
		for to = from; to < last && s.holdsData(p, to); to++ {
		}
	})
	return from, to, err
}

// NextChange finds chunks at or after off, a multiple of BlockSize, that entries
// behind since may have changed: whole chunks of 64 KiB, up to the end of the
// volume's last block, a long run in parts of some MiB. If there are no more, n is
// 0. It reports too much rather than too little: an entry is known to 4096 or a
// round of pouring. An ErrTrimmed tells that changes behind since are not known
// here, because the replica itself was copied later.
func (s *Store) NextChange(since Seq, off int64) (start, n int64, err error) {
	if off < 0 || off%BlockSize != 0 {
		return 0, 0, fmt.Errorf("volume %s: %w: changes from offset %d on", s.o.Volume, ErrInvalid, off)
	}
	if floor := Seq(s.floor.Load()); since < floor || s.Incomplete() {
		return 0, 0, fmt.Errorf("volume %s: what has changed since entry %d: %w, but to %d", s.o.Volume, since, ErrTrimmed, floor)
	}
	size := s.size.Load()
	end := (size + BlockSize - 1) / BlockSize * BlockSize
	first, last := off/chunkBytes, (end+chunkBytes-1)/chunkBytes
	for region := first / pageChunks; region*pageChunks < last; region++ {
		var from, to int64
		err := s.walk(region, func(p *page, logged bool) {
			stop := min(last, (region+1)*pageChunks)
			if from = max(first, region*pageChunks); p == nil && !logged {
				to = from
				return
			}
			for ; from < stop && !s.changedIn(p, from, since); from++ {
			}
			for to = from; to < stop && s.changedIn(p, to, since); to++ {
			}
		})
		if err != nil {
			return 0, 0, err
		}
		if from < to {
			start = max(from*chunkBytes, off)
			return start, min(to*chunkBytes, end) - start, nil
		}
	}
	return size, 0, nil
}

// changedIn tells whether entries behind since may have changed a chunk of a page.
func (s *Store) changedIn(p *page, chunk int64, since Seq) bool {
	return p != nil && p.changed(p.entry(int(chunk%pageChunks))) > since || s.over.touches(chunk)
}

func (s *Store) holdsData(p *page, block int64) bool {
	_, zero := s.blockKind(p, block)
	return !zero
}

// walk calls f with a map page, or nil if it does not exist, and whether some of
// its blocks are in the log. mu is held throughout the call.
func (s *Store) walk(region int64, f func(p *page, logged bool)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.failed() // the files may be closed
	if err == nil {
		err = s.needPage(region)
	}
	if err != nil {
		return fmt.Errorf("volume %s: %w", s.o.Volume, err)
	}
	f(s.maps.get(region), s.over.count[region] > 0)
	return nil
}

// zeroSum is the checksum of a block of zeros.
var zeroSum = checksum(zeroPadding[:])

// Digest sums up committed content of n bytes from off, both multiples of
// BlockSize, without reading it: two members with the same content of a range
// have the same digest, however it lies on their disks, and whether zeros are
// allocated or not. It is FNV-1a, 64 bits, over the CRC-32C of each block in
// order, a word at a time: it finds members that have diverged (a block that
// differs is missed once in 4 billion), and says nothing about rot, which
// Verify finds.
//
// Writes may go on meanwhile. The caller sees to it that they do not touch the
// range, or compares again what differs.
func (s *Store) Digest(off, n int64) (uint64, error) {
	if !s.covers(off, n) {
		return 0, fmt.Errorf("volume %s: digest: %w: %d bytes at %d", s.o.Volume, ErrInvalid, n, off)
	}
	if s.o.NoChecksums {
		return 0, fmt.Errorf("volume %s: digest: %w: it has no checksums", s.o.Volume, ErrNotSupported)
	}
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	first, last := off/BlockSize, (off+n)/BlockSize
	for region := first / pageBlocks; region*pageBlocks < last; region++ {
		from, to := max(first, region*pageBlocks), min(last, (region+1)*pageBlocks)
		err := s.walk(region, func(p *page, logged bool) {
			for b := from; b < to; b++ {
				sum := zeroSum
				if p != nil || logged {
					sum = s.sumOf(p, b)
				}
				h = (h ^ uint64(sum)) * prime
			}
		})
		if err != nil {
			return 0, err
		}
	}
	return h, nil
}

// sumOf is the checksum of a block's committed content.
func (s *Store) sumOf(p *page, block int64) uint32 {
	if l, ok := s.over.get(block); ok {
		if l.pos == 0 {
			return zeroSum
		}
		return l.crc
	}
	if p == nil {
		return zeroSum
	}
	e := p.entry(int(block % pageBlocks / chunkBlocks))
	if i := int(block % chunkBlocks); e.has(i) {
		return e.crc(i)
	}
	return zeroSum
}

package blockdev

import (
	"math/bits"
	"slices"
)

// allocator hands out chunks of the image.
//
// A chunk is mapped while a map page refers to it; that bit is kept on disk, in
// the allocation pages, and changes together with the map page. It is used while
// it must not be handed out: mapped, or taken for a write in flight, or freed
// since the last checkpoint (until that, a crash brings the old map back). A free
// chunk may still have its space in the file system, and is then taken first, or
// be bare.
//
// Guarded by Store.mu.
type allocator struct {
	pages *pageFile
	used  []uint64
	bares []uint64 // free chunks whose space was given back; as long as used
	end   uint32   // chunks from here on were never used
	free  int      // chunks before end that are not used
	bare  int      // of these, without space
	low   int      // least kept since surplus was called
	scan  uint32   // where to look for a free chunk next
	inUse int      // mapped chunks
}

// load reads every allocation page.
func (a *allocator) load() error {
	n := (a.pages.size.Load() + 2*pageBytes - 1) / (2 * pageBytes)
	a.pages.resize(n)
	for i := range n {
		r, err := a.pages.read(i)
		if err != nil {
			return err
		}
		a.pages.insert(i, r)
		if r.page != nil {
			a.loadPage(uint32(i), r.page)
		}
	}
	for c := uint32(0); c < a.end; c++ {
		if !a.isUsed(c) {
			a.free++
		}
	}
	return nil
}

func (a *allocator) loadPage(i uint32, p *page) {
	for at := range pageBody {
		for b := p[pageHeader+at]; b != 0; b &= b - 1 {
			c := i*allocPerPage + uint32(at*8+bits.TrailingZeros8(b))
			a.grow(c + 1)
			a.used[c/64] |= 1 << (c % 64)
			a.end = max(a.end, c+1)
			a.inUse++
		}
	}
}

func (a *allocator) grow(n uint32) {
	for uint32(len(a.used))*64 < n {
		a.used, a.bares = append(a.used, 0), append(a.bares, 0)
	}
}

func (a *allocator) isUsed(c uint32) bool {
	return int(c/64) < len(a.used) && a.used[c/64]&(1<<(c%64)) != 0
}

// take reserves up to n consecutive chunks, at least one.
func (a *allocator) take(n int) (first uint32, got int) {
	first = a.find()
	for got < n && !a.isUsed(first+uint32(got)) {
		a.reserve(first + uint32(got))
		got++
	}
	a.scan = first + uint32(got)
	return first, got
}

// find returns a chunk that is not used: one that has space, else a bare one,
// else a fresh one.
func (a *allocator) find() uint32 {
	if a.free == 0 {
		return a.end
	}
	kept := a.kept() > 0
	for range 2 {
		for w := a.scan / 64; w*64 < a.end; w++ {
			word := a.used[w]
			if kept {
				word |= a.bares[w]
			}
			if w == a.scan/64 {
				word |= 1<<(a.scan%64) - 1
			}
			if c := w*64 + uint32(bits.TrailingZeros64(^word)); word != ^uint64(0) && c < a.end {
				return c
			}
		}
		a.scan = 0
	}
	return a.end
}

// kept is how many free chunks may have space in the file system.
func (a *allocator) kept() int { return a.free - a.bare }

// reserve marks a chunk used; replay calls it for chunks that the log names.
func (a *allocator) reserve(c uint32) {
	if a.isUsed(c) {
		return
	}
	a.grow(c + 1)
	bit := uint64(1) << (c % 64)
	a.used[c/64] |= bit
	if a.bares[c/64]&bit != 0 {
		a.bares[c/64] &^= bit
		a.bare--
	}
	if c < a.end {
		a.free--
		a.low = min(a.low, a.kept())
		return
	}
	a.free += int(c - a.end)
	a.end = c + 1
}

// release makes a reserved chunk available again.
func (a *allocator) release(c uint32) {
	a.used[c/64] &^= 1 << (c % 64)
	a.free++
	a.scan = min(a.scan, c)
}

// strip notes that a free chunk has no space any more.
func (a *allocator) strip(c uint32) {
	a.bares[c/64] |= 1 << (c % 64)
	a.bare++
}

// surplus reserves chunks whose space is to be given back: of those that have some,
// what was not needed since the last call, but for keep. They are in order.
func (a *allocator) surplus(keep int) (chunks []uint32) {
	n := min(a.low, a.kept()-keep)
	for w := (a.end + 63) / 64; w > 0 && n > len(chunks); w-- {
		for kept := ^(a.used[w-1] | a.bares[w-1]); kept != 0 && n > len(chunks); {
			bit := 63 - bits.LeadingZeros64(kept)
			kept &^= 1 << bit
			if c := (w-1)*64 + uint32(bit); c < a.end {
				a.reserve(c)
				chunks = append(chunks, c)
			}
		}
	}
	a.low = a.kept()
	slices.Reverse(chunks)
	return chunks
}

// isMapped tells whether a map page refers to c.
func (a *allocator) isMapped(c uint32) bool {
	i := int64(c / allocPerPage)
	if i >= int64(len(a.pages.entries)) {
		return false
	}
	p, bit := a.pages.entries[i].buf, c%allocPerPage
	return p != nil && p[pageHeader+bit/8]&(1<<(bit%8)) != 0
}

// setMapped records on the allocation page whether a map page refers to c.
func (a *allocator) setMapped(c uint32, mapped bool) {
	i := int64(c / allocPerPage)
	if i >= int64(len(a.pages.entries)) {
		a.pages.resize(i + 1)
	}
	a.pages.entries[i].flags |= pageKnown // all of them were loaded
	p := a.pages.modify(i)
	bit := c % allocPerPage
	b, m := &p[pageHeader+bit/8], byte(1)<<(bit%8)
	if mapped {
		a.reserve(c)
		if *b&m == 0 {
			a.inUse++
		}
		*b |= m
	} else {
		if *b&m != 0 {
			a.inUse--
		}
		*b &^= m
	}
}

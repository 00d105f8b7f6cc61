package crashfs

import (
	"slices"
	"sync/atomic"
)

const (
	pageSize    = 4096 // unit of allocation, bytes
	pageSectors = pageSize / SectorSize
	chunkPages  = 64
)

// page is a block of a file. A page in a table is never changed, only replaced,
// so that states may share it.
type page [pageSize]byte

// blank is allocated space that was never written. A hole is a nil page.
var blank page

// table maps page numbers to pages. Two tables may share chunks; a table writes
// only to those it made since the last snapshot, which carry its epoch.
type table struct {
	chunks []*chunk
	epoch  uint64
	used   int64 // pages that are not holes
}

type chunk struct {
	epoch uint64
	used  int64
	pages [chunkPages]*page
}

// epochs are unique in the process because states share chunks across file
// systems. Nothing but equality depends on them.
var epochs atomic.Uint64

func newTable() table { return table{epoch: epochs.Add(1)} }

// snapshot returns a copy that later changes of either do not reach.
func (t *table) snapshot() table {
	t.epoch = epochs.Add(1)
	return table{chunks: slices.Clone(t.chunks), epoch: epochs.Add(1), used: t.used}
}

func (t *table) get(i int64) *page {
	c := i / chunkPages
	if c >= int64(len(t.chunks)) || t.chunks[c] == nil {
		return nil
	}
	return t.chunks[c].pages[i%chunkPages]
}

func (t *table) set(i int64, p *page) {
	if p == nil && t.get(i) == nil {
		return
	}
	n := i / chunkPages
	if grow := int(n) + 1 - len(t.chunks); grow > 0 {
		t.chunks = append(t.chunks, make([]*chunk, grow)...)
	}
	c := t.chunks[n]
	switch {
	case c == nil:
		c = &chunk{epoch: t.epoch}
		t.chunks[n] = c
	case c.epoch != t.epoch:
		mine := *c
		mine.epoch = t.epoch
		c = &mine
		t.chunks[n] = c
	}
	slot := &c.pages[i%chunkPages]
	delta := int64(0)
	if *slot == nil {
		delta = 1
	}
	if p == nil {
		delta = -1
	}
	*slot = p
	c.used += delta
	t.used += delta
}

// drop makes holes of the pages [i, end), whole chunks at once.
func (t *table) drop(i, end int64) {
	end = min(end, int64(len(t.chunks))*chunkPages)
	for i < end {
		c := i / chunkPages
		next := min(end, (c+1)*chunkPages)
		switch {
		case t.chunks[c] == nil:
		case next-i == chunkPages:
			t.used -= t.chunks[c].used
			t.chunks[c] = nil
		default:
			for ; i < next; i++ {
				t.set(i, nil)
			}
		}
		i = next
	}
}

// next returns the first page in [i, end) that is not a hole, or end.
func (t *table) next(i, end int64) int64 {
	for i < end {
		c := i / chunkPages
		if c >= int64(len(t.chunks)) {
			return end
		}
		if t.chunks[c] == nil {
			i = (c + 1) * chunkPages
			continue
		}
		if t.chunks[c].pages[i%chunkPages] != nil {
			return i
		}
		i++
	}
	return end
}

// holes counts the holes in [i, end).
func (t *table) holes(i, end int64) int64 {
	n := end - i
	for i = t.next(i, end); i < end; i = t.next(i+1, end) {
		n--
	}
	return n
}

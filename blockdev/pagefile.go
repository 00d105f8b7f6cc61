package blockdev

import (
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"blkd/internal/env"
	"blkd/internal/mutant"
)

// pageFile keeps metadata pages: a bounded cache over a file in which every page
// has two slots (shadow paging; Gray and Reuter, "Transaction Processing", 13.3).
// A checkpoint writes each dirty page to the slot that does not count; the
// superblock then makes all of them count at once, by the checkpoint's number.
//
// Everything but read is guarded by Store.mu.
type pageFile struct {
	kind    pageKind
	f       env.File
	name    string
	entries []pageEntry
	limit   int // pages to keep cached; 0: all
	ckpt    atomic.Uint64
	size    atomic.Int64 // of the file: pages beyond it do not exist

	cached []int64 // indexes with a buffer, in no order: the clock's dial
	hand   int
	dirty  int
}

type pageEntry struct {
	buf   *page
	slot  uint8 // slot that counts
	flags pageFlags
}

type pageFlags uint8

const (
	pageKnown    pageFlags = 1 << iota // looked up; without buf: does not exist
	pageDirty                          // differs from the slot that counts
	pageInflight                       // being written by a checkpoint
	pageUsed                           // since the clock's hand passed
)

// known tells whether page i is in memory, or known not to exist.
func (pf *pageFile) known(i int64) bool { return pf.entries[i].flags&pageKnown != 0 }

// get returns page i, which is known, or nil if it does not exist.
func (pf *pageFile) get(i int64) *page {
	e := &pf.entries[i]
	e.flags |= pageUsed
	return e.buf
}

// modify returns page i, which is known, for writing; it makes it if need be.
func (pf *pageFile) modify(i int64) *page {
	e := &pf.entries[i]
	if e.buf == nil {
		pf.put(i, new(page), 1)
	}
	if e.flags&pageDirty == 0 {
		e.flags |= pageDirty
		pf.dirty++
	}
	e.flags |= pageUsed
	return e.buf
}

// insert records what read returned, unless the page became known meanwhile.
func (pf *pageFile) insert(i int64, r pageRead) {
	if pf.known(i) {
		return
	}
	if r.page == nil {
		pf.entries[i].flags |= pageKnown
	} else {
		pf.put(i, r.page, r.slot)
	}
	if r.stale && pf.entries[i].flags&pageDirty == 0 {
		pf.modify(i)
	}
}

func (pf *pageFile) put(i int64, p *page, slot uint8) {
	pf.evict()
	pf.evict() // twice, to come back below the limit after a time of many dirty pages
	pf.entries[i].buf, pf.entries[i].slot = p, slot
	pf.entries[i].flags |= pageKnown | pageUsed
	pf.cached = append(pf.cached, i)
}

// evict makes room for one page by the clock algorithm. Pages that are dirty or
// being written stay, so the cache may pass its limit until a checkpoint.
func (pf *pageFile) evict() {
	if pf.limit == 0 || len(pf.cached) < pf.limit {
		return
	}
	for range 2*len(pf.cached) + 1 {
		pf.hand = (pf.hand + 1) % len(pf.cached)
		e := &pf.entries[pf.cached[pf.hand]]
		switch {
		case e.flags&(pageDirty|pageInflight) != 0:
		case e.flags&pageUsed != 0:
			e.flags &^= pageUsed
		default:
			*e = pageEntry{}
			last := len(pf.cached) - 1
			pf.cached[pf.hand] = pf.cached[last]
			pf.cached = pf.cached[:last]
			return
		}
	}
}

// pageRead is a page as found on disk; page is nil if it did not exist at the
// last checkpoint.
type pageRead struct {
	page  *page
	slot  uint8
	stale bool // the other slot holds a remnant that must be overwritten
}

// read brings page i from disk: the slot that the last checkpoint, or the newest
// before it, has written. It needs no lock.
func (pf *pageFile) read(i int64) (pageRead, error) {
	r := pageRead{slot: 1}
	if slotOffset(i, 0) >= pf.size.Load() {
		return r, nil
	}
	var both [2 * pageBytes]byte
	if _, err := pf.f.ReadAt(both[:], slotOffset(i, 0)); err != nil && err != io.EOF {
		return r, fmt.Errorf("read %s: %w", pf.name, err)
	}
	for s := range 2 {
		p := (*page)(both[s*pageBytes:])
		switch {
		case p.unwritten():
		case !p.headValid(pf.kind, uint64(i)):
			return pageRead{}, pf.damaged(i, uint8(s))
		case p.ckpt() > pf.ckpt.Load() && !mutant.On(mutant.StorePartialFlush): // of a checkpoint that the crash ended
			r.stale = true
		case r.page == nil || p.ckpt() > r.page.ckpt():
			r.page, r.slot = p, uint8(s)
		}
	}
	if r.page != nil && !r.page.valid(pf.kind, uint64(i)) {
		return pageRead{}, pf.damaged(i, r.slot)
	}
	return r, nil
}

func (pf *pageFile) damaged(i int64, slot uint8) error {
	return fmt.Errorf("%w: metadata page %d fails its checksum in %s at %d", ErrIO, i, pf.name, slotOffset(i, slot))
}

func slotOffset(i int64, slot uint8) int64 { return (2*i + int64(slot)) * pageBytes }

// snapshot is the set of pages that one checkpoint writes.
type snapshot struct {
	index []int64
	slot  []uint8 // where to write each
	pages []page
}

// snapshot copies the dirty pages and marks them as being written.
func (pf *pageFile) snapshot() snapshot {
	if pf.dirty == 0 {
		return snapshot{}
	}
	s := snapshot{pages: make([]page, pf.dirty)}
	for _, i := range pf.cached {
		e := &pf.entries[i]
		if e.flags&pageDirty == 0 {
			continue
		}
		e.flags = e.flags&^pageDirty | pageInflight
		s.pages[len(s.index)] = *e.buf
		s.index = append(s.index, i)
		s.slot = append(s.slot, e.slot^1)
	}
	pf.dirty = 0
	return s
}

// write puts a snapshot into the slots that do not count and syncs. It needs no
// lock.
func (pf *pageFile) write(s snapshot, ckpt uint64) error {
	for n, i := range s.index {
		p := &s.pages[n]
		if err := pf.reserve(i, p); err != nil {
			return err
		}
		p.seal(pf.kind, uint64(i), ckpt)
		if _, err := pf.f.WriteAt(p[:], slotOffset(i, s.slot[n])); err != nil {
			return err
		}
	}
	if len(s.index) == 0 {
		return nil
	}
	pf.size.Store(max(pf.size.Load(), slotOffset(slices.Max(s.index)+1, 0)))
	return pf.f.Sync()
}

// reserve takes the space of both slots when a page is written for the first
// time: later checkpoints must not fail on a full disk, because they are what
// gives space back.
func (pf *pageFile) reserve(i int64, p *page) error {
	if p.ckpt() != 0 {
		return nil
	}
	err := pf.f.Allocate(slotOffset(i, 0), 2*pageBytes)
	if isFull(err) {
		return err
	}
	return nil // a file system that cannot reserve: then it may fail later
}

// landed makes the written slots count.
func (pf *pageFile) landed(s snapshot, ckpt uint64) {
	for _, i := range s.index {
		e := &pf.entries[i]
		e.slot ^= 1
		e.flags &^= pageInflight
		le.PutUint64(e.buf[16:], ckpt)
	}
	pf.ckpt.Store(ckpt)
}

// aborted makes the pages of a snapshot dirty again.
func (pf *pageFile) aborted(s snapshot) {
	for _, i := range s.index {
		pf.entries[i].flags &^= pageInflight
		pf.modify(i)
	}
}

// empty forgets every page, of a file that was emptied.
func (pf *pageFile) empty(pages int64, ckpt uint64) {
	pf.entries = make([]pageEntry, pages)
	pf.cached, pf.hand, pf.dirty = nil, 0, 0
	pf.size.Store(0)
	pf.ckpt.Store(ckpt)
}

// resize adds or drops pages at the end.
func (pf *pageFile) resize(pages int64) {
	for int64(len(pf.entries)) < pages {
		pf.entries = append(pf.entries, pageEntry{})
	}
}

package blockdev

import (
	"fmt"
	"sort"

	"blkd/internal/mutant"
)

// A staging store is a log without an image: what is committed stays in it until its
// owner has taken it elsewhere and lets it go with Drop. Reads are those of
// ReadStaged, which tells what is not there.

// AsideOff is where a staging store has one block more, which is none of the volume,
// whatever size that has: its owner's. Only whole, by itself, it is written and read.
const AsideOff = MaxVolume

// staging is what a staging store knows beside the overlay: the committed entries
// that it holds, oldest first. Guarded by Store.mu.
type staging struct {
	entries []stagedEntry
	dropped int // so many of entries are gone
}

// stagedEntry is a committed entry that lies in the log.
type stagedEntry struct {
	end    logPoint // behind it
	first  uint64   // position of its record
	block  int64
	blocks int64
	origin Origin
}

// stagedZero marks the place of a block that reads as zeros; the rest is the position
// of the entry that made it so.
const stagedZero = 1 << 63

// stage makes a committed entry visible to ReadStaged. It holds mu.
func (s *Store) stage(r *record, crc []uint32) error {
	e := stagedEntry{end: logPoint{r.pos + uint64(r.bytes()), r.gen, r.seq}, first: r.pos, block: r.off / BlockSize, blocks: r.len / BlockSize, origin: r.origin}
	for i := range e.blocks {
		l := loc{pos: r.pos | stagedZero}
		if r.kind == recData {
			l = loc{pos: r.pos + uint64(r.headerBytes()) + uint64(i)*BlockSize, crc: crc[i]}
		}
		s.over.put(e.block+i, l)
	}
	s.staged.entries = append(s.staged.entries, e)
	var err error
	if r.off == AsideOff && r.kind == recData && s.o.Elsewhere != nil {
		err = s.supersede(r, crc[0])
	}
	s.stagedBlocks.Store(int64(s.over.len()))
	return err
}

// supersede forgets the blocks that an entry at AsideOff says are kept elsewhere.
func (s *Store) supersede(r *record, crc uint32) error {
	pos := r.pos + uint64(r.headerBytes())
	block := make([]byte, BlockSize)
	if err := s.log.read(block, pos); err != nil {
		return fmt.Errorf("volume %s: %w: read entry %d: %w", s.o.Volume, ErrIO, r.seq, err)
	}
	if got := checksum(block); got != crc && !s.o.NoChecksums {
		return s.badBlock(r.off, logFile, s.log.offset(pos), crc, got)
	}
	if off, n := s.o.Elsewhere(block); n > 0 && s.covers(off, n) && !mutant.On(mutant.StoreShowSuperseded) {
		s.over.drop(off/BlockSize, (off+n)/BlockSize)
	}
	return nil
}

// within tells whether a block lies where an entry has put it.
func (e *stagedEntry) within(l loc) bool {
	pos := l.pos &^ stagedZero
	return pos >= e.first && pos < e.end.pos
}

// ReadStaged fills p from off, verified, with the committed blocks that a staging
// store holds, and calls missing for the runs that it does not hold, in order; those
// parts of p are left alone. Off and the length are multiples of BlockSize.
func (s *Store) ReadStaged(p []byte, off int64, missing func(off, n int64)) error {
	if !s.covers(off, int64(len(p))) {
		return &RangeError{Op: OpRead, Off: off, Len: int64(len(p)), Size: s.size.Load()}
	}
	s.counters.reads.Add(1)
	s.counters.readBytes.Add(int64(len(p)))
	// While a stripe is held nothing that it found is let go.
	stripe := &s.stripes[off/chunkBytes%stripes]
	stripe.RLock()
	defer stripe.RUnlock()
	if err := s.failed(); err != nil {
		return err
	}
	plan := readPlans.Get().(*readPlan)
	gap := int64(0)
	var gaps []Extent
	s.mu.Lock()
	for at := int64(0); at < int64(len(p)); at += BlockSize {
		l, held := s.over.get((off + at) / BlockSize)
		switch {
		case !held:
			gap += BlockSize
			continue
		case l.pos&stagedZero != 0:
			plan.add(nil, "", at, int(at), 0)
		default:
			plan.add(s.log.f, s.log.name, s.log.offset(l.pos), int(at), l.crc)
		}
		if gap > 0 {
			gaps = append(gaps, Extent{Off: off + at - gap, Len: gap})
			gap = 0
		}
	}
	s.mu.Unlock()
	if gap > 0 {
		gaps = append(gaps, Extent{Off: off + int64(len(p)) - gap, Len: gap})
	}
	err := s.execute(plan, p, off)
	clear(plan.segs)
	plan.segs, plan.crcs = plan.segs[:0], plan.crcs[:0]
	readPlans.Put(plan)
	for _, g := range gaps {
		if err == nil {
			missing(g.Off, g.Len)
		}
	}
	return err
}

// StagedBlocks calls f, in order, for the blocks of a range that ReadStaged would fill,
// and tells which of them read as zeros. Off and n are multiples of BlockSize; f must
// be quick and must not call the store.
func (s *Store) StagedBlocks(off, n int64, f func(block int64, zero bool)) error {
	if !s.covers(off, n) {
		return &RangeError{Op: OpRead, Off: off, Len: n, Size: s.size.Load()}
	}
	if err := s.failed(); err != nil {
		return err
	}
	for b, last := off/BlockSize, (off+n)/BlockSize; b < last; {
		page := min(last, (b/pageBlocks+1)*pageBlocks)
		s.mu.Lock()
		for empty := s.over.count[b/pageBlocks] == 0; b < page && !empty; b++ {
			if l, held := s.over.get(b); held {
				f(b, l.pos&stagedZero != 0)
			}
		}
		s.mu.Unlock()
		b = page
	}
	return nil
}

// Staged lists, in order, about so many blocks as most that the oldest entries of a
// staging store hold, up to the entry last: when they, as ReadStaged shows them, are
// kept elsewhere, everything up to the entry upto may be dropped. It is false if nothing
// is held.
func (s *Store) Staged(most int, last Seq) (upto Seq, blocks []int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := s.staged.dropped; i < len(s.staged.entries) && len(blocks) < most && s.staged.entries[i].end.seq <= last; i++ {
		e := &s.staged.entries[i]
		for b := e.block; b < e.block+e.blocks; b++ {
			if l, held := s.over.get(b); held && e.within(l) {
				blocks = append(blocks, b)
			}
		}
		upto = e.end.seq
	}
	sort.Slice(blocks, func(i, j int) bool { return blocks[i] < blocks[j] })
	return upto, blocks, upto > 0
}

// Drop lets everything up to the committed entry seq go from a staging store,
// durably: it is kept elsewhere. The log is synced up to its end first.
func (s *Store) Drop(seq Seq) error {
	if seq > s.Committed() {
		return fmt.Errorf("volume %s: drop up to entry %d: %w: committed up to %d", s.o.Volume, seq, ErrInvalid, s.Committed())
	}
	s.pourMu.Lock()
	defer s.pourMu.Unlock()
	if err := s.Sync(); err != nil {
		return err
	}
	s.mu.Lock()
	n := s.staged.dropped
	at, found := logPoint{}, false
	for ; n < len(s.staged.entries) && s.staged.entries[n].end.seq <= seq; n++ {
		at, found = s.staged.entries[n].end, true
		s.sessions.add(s.staged.entries[n].origin, at.seq, (s.staged.entries[n].block+s.staged.entries[n].blocks)*BlockSize)
	}
	table := s.sessions.changed()
	commit := s.Committed()
	s.mu.Unlock()
	if !found {
		return nil
	}
	err := s.writeSessions(table)
	if isFull(err) {
		return nil // the log keeps it, until there is space
	}
	if err != nil {
		return s.fail(err)
	}
	err = s.saveSuper(func(sb *superblock) {
		sb.replayFrom, sb.lastGen, sb.lastSeq = at.pos, at.gen, at.seq
		sb.durable, sb.commit = s.durable.Load(), max(sb.commit, commit)
		sb.keep = s.hist.points(Seq(s.keep.Load()), at)
		sb.gens = s.hist.gensBefore(at.seq)
		table.landIn(sb)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.sessions.landed(table)
	s.forgetStaged(n)
	s.mu.Unlock()
	s.drainReaders()
	s.log.tail.Store(at.pos)
	s.wakeAppenders()
	return nil
}

// forgetStaged takes the entries before n, as far as nothing newer is there. It holds
// mu.
func (s *Store) forgetStaged(n int) {
	for i := s.staged.dropped; i < n; i++ {
		e := &s.staged.entries[i]
		for b := e.block; b < e.block+e.blocks; b++ {
			if l, held := s.over.active[b]; held && e.within(l) {
				delete(s.over.active, b)
				s.over.count[s.over.page(b)]--
			}
		}
	}
	s.stagedBlocks.Store(int64(s.over.len()))
	if s.staged.dropped = n; n > len(s.staged.entries)/2 {
		s.staged.entries = append([]stagedEntry(nil), s.staged.entries[n:]...)
		s.staged.dropped = 0
	}
}

// LogUsed is how many bytes of the log are taken, and how many it has. Of a staging
// store a block of zeros, which takes memory only, counts as one with data.
func (s *Store) LogUsed() (used, size int64) {
	used = s.log.used()
	if s.o.Staging {
		used = max(used, s.stagedBlocks.Load()*BlockSize)
	}
	return used, s.log.size
}

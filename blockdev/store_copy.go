package blockdev

import (
	"bytes"
	"errors"
	"fmt"

	"blkd/internal/mutant"
)

// A copy fills a replica with another member's content:
//
//	Reset      empties it and says where its log begins; it is incomplete now.
//	           Rejoin does the same, but keeps what it holds as a base
//	Append…    entries go on as always
//	Import…    content that is committed over there, in between
//	Complete   it counts again
//
// Imported content goes under the log: it lies over the entries that are
// committed by then, and every entry that is committed later lies over it. It may
// hold effects of entries up to the last one in the log. So the replica is
// consistent only once it is complete and has committed these; until then a crash
// leaves an incomplete replica, of which nothing counts.

// ErrIncomplete tells that a replica is not a whole copy of its volume, and only
// a new copy makes it one.
var ErrIncomplete = errors.New("the replica is incomplete and must be copied anew")

// Incomplete tells whether a copy was begun and not completed.
func (s *Store) Incomplete() bool { return s.incomplete.Load() }

// Reset makes the replica empty and incomplete, with a log that ends at the entry
// (gen, seq), durably. It must not run while Append or Import does.
func (s *Store) Reset(gen Generation, seq Seq) error {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if !s.o.Replica {
		return fmt.Errorf("volume %s: reset: %w: it is no replica", s.o.Volume, ErrNotSupported)
	}
	s.pourMu.Lock()
	defer s.pourMu.Unlock()
	for i := range s.stripes {
		s.stripes[i].Lock()
		defer s.stripes[i].Unlock()
	}
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	if err := s.failed(); err != nil {
		return err
	}
	at := logPoint{s.log.head, gen, seq}
	err := s.saveSuper(func(sb *superblock) {
		sb.restart(at)
		sb.base, sb.floor = 0, seq
		sb.ckpt++ // a page that somebody reads just now does not count
		sb.incomplete, sb.wipe = true, !mutant.On(mutant.StoreResetUnmarked)
	})
	if err != nil {
		return err
	}
	if err := s.wipe(); err != nil {
		return s.fail(err)
	}
	s.mu.Lock()
	s.empty(at)
	s.mu.Unlock()
	s.beginCopy(at)
	s.floor.Store(uint64(at.seq))
	return nil
}

// beginCopy begins with a log that is empty from a point on. It holds appendMu
// and syncMu.
func (s *Store) beginCopy(at logPoint) {
	s.endLogAt(at)
	s.hist.start(s.log.size, at, s.super.gens)
	s.incomplete.Store(true)
	s.copying, s.copied = true, 0
	s.wakeAppenders()
}

// Base is an entry (gen, seq) behind which another member must look for what has
// changed, to bring this replica level: all that no entry behind it has changed is
// here, if the other one's log has the same entry there.
// It is false if nothing counts, and only a copy of everything helps: a copy was
// broken off, or has brought effects of entries that are not committed here.
func (s *Store) Base() (Generation, Seq, bool) {
	s.superMu.Lock()
	defer s.superMu.Unlock()
	if s.super.incomplete {
		return s.super.baseGen, s.super.base, s.super.base > 0
	}
	seq := s.Committed()
	gen, known := s.GenAt(seq)
	return gen, seq, known && seq >= s.super.copied
}

// Rejoin is a Reset that keeps the content up to Base: the log goes on behind
// (gen, seq), durably, entries that are not committed are cut off, and the replica
// is incomplete until what the entries from Base to seq have changed is imported.
// It may take as long as a round of pouring. An ErrIncomplete tells that there is
// no base.
func (s *Store) Rejoin(gen Generation, seq Seq) error {
	baseGen, base, ok := s.Base()
	if !ok || seq < base {
		return fmt.Errorf("volume %s: rejoin after entry %d: %w", s.o.Volume, seq, ErrIncomplete)
	}
	if err := s.Truncate(s.Committed()); err != nil {
		return err
	}
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if err := s.pourAll(); err != nil {
		return err
	}
	s.pourMu.Lock()
	defer s.pourMu.Unlock()
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	at := logPoint{s.log.head, gen, seq}
	err := s.saveSuper(func(sb *superblock) {
		sb.restart(at)
		sb.incomplete, sb.base, sb.baseGen = true, base, baseGen
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.unpin(s.applied.seq)
	s.restart(at)
	s.mu.Unlock()
	s.beginCopy(at)
	return nil
}

// restart is a log that is empty from a point on.
func (sb *superblock) restart(at logPoint) {
	sb.incarnation++
	sb.incStart, sb.replayFrom, sb.durable = at.pos, at.pos, at.pos
	sb.lastGen, sb.lastSeq, sb.commit, sb.copied = at.gen, at.seq, at.seq, 0
	sb.keep = [4]logPoint{at, at, at, at}
	sb.gens = [keptGens]genStart{} // what began between Base and here is not known
	sb.sessions, sb.sessionsSum = 0, 0
}

// wipe empties the files that a superblock has declared void, and ends that.
func (s *Store) wipe() error {
	for _, f := range []interface {
		Truncate(int64) error
		Sync() error
	}{s.image, s.maps.f, s.alloc.pages.f} {
		if err := f.Truncate(0); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	s.super.wipe = false
	return s.super.save()
}

// empty is the state in memory of a store without content. It holds mu.
func (s *Store) empty(at logPoint) {
	pages := mapPageCount(s.size.Load())
	s.over = newOverlay(pages)
	s.maps.empty(pages, s.super.ckpt)
	s.alloc.pages.empty(0, s.super.ckpt)
	s.alloc = &allocator{pages: s.alloc.pages}
	s.freed = nil
	s.pins = pins{limit: s.pins.limit, chunks: map[uint32]pin{}}
	s.imageDirty.Store(false)
	s.restart(at)
}

// restart is the state in memory of a store whose log is empty from a point on.
// It holds mu.
func (s *Store) restart(at logPoint) {
	s.pending, s.staged = pendingQueue{}, staging{}
	s.forgetSessions()
	s.stagedBlocks.Store(0)
	s.keep.Store(uint64(at.seq))
	s.commit.Store(uint64(at.seq))
	s.applying, s.applied, s.round = at.seq, at, at
	s.pouring, s.recoverTo = false, at.pos
	s.log.tail.Store(at.pos)
}

// importStep is how much is imported before the image is synced in the background,
// bytes, so that Complete has little left to do.
const importStep = 64 << 20

// Import stores committed content of another member at off: n bytes of data, or
// zeros if data is nil; chunks of zeros take no space. Both off and n are multiples of BlockSize. It is durable
// when Complete returns. It must not run while Append does.
func (s *Store) Import(off, n int64, data []byte) error {
	if !s.covers(off, n) || data != nil && int64(len(data)) != n {
		return fmt.Errorf("volume %s: import: %w: %d bytes for %d at %d", s.o.Volume, ErrInvalid, len(data), n, off)
	}
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if err := s.failed(); err != nil {
		return err
	}
	if !s.copying {
		return fmt.Errorf("volume %s: import: %w: no copy is under way", s.o.Volume, ErrInvalid)
	}
	s.copied = max(s.copied, s.seq)
	b := writeBatches.Get().(*writeBatch)
	defer b.reset()
	var crc []uint32
	if data != nil {
		crc = s.sums(b, data)
	}
	for first, end := off/BlockSize, (off+n)/BlockSize; first < end; {
		k := min(end, (first/chunkBlocks+1)*chunkBlocks) - first
		p := chunkImport{chunk: first / chunkBlocks, first: int(first % chunkBlocks), n: int(k)}
		if data != nil {
			if !allZero(data[:k*BlockSize]) {
				p.data, p.crc = data[:k*BlockSize], crc[:k]
			}
			data, crc = data[k*BlockSize:], crc[k:]
		}
		if err := s.importChunk(&p); err != nil {
			return err
		}
		first += k
	}
	if s.imported.Add(n) >= importStep {
		s.kick()
	}
	return nil
}

// allZero tells whether whole blocks hold zeros.
func allZero(p []byte) bool {
	for ; len(p) > 0; p = p[BlockSize:] {
		if !bytes.Equal(p[:BlockSize], zeroPadding[:]) {
			return false
		}
	}
	return true
}

// chunkImport is the part of an import that lies in one chunk.
type chunkImport struct {
	chunk    int64
	first, n int // blocks
	data     []byte
	crc      []uint32
}

// mask is the blocks of the chunk that are imported.
func (p *chunkImport) mask() uint16 { return uint16(1<<p.n-1) << p.first }

// importChunk writes to the chunk's place, as pouring does, whose stripe keeps
// readers and pouring away. Nothing is applied meanwhile.
func (s *Store) importChunk(p *chunkImport) error {
	stripe := &s.stripes[p.chunk%stripes]
	stripe.Lock()
	defer stripe.Unlock()
	s.mu.Lock()
	if err := s.needPage(p.chunk / pageChunks); err != nil {
		s.mu.Unlock()
		return s.fail(err)
	}
	to := s.target(p.chunk, p.mask(), p.data != nil)
	s.mu.Unlock()
	var err error
	if p.data != nil {
		if to.moved != 0 {
			err = s.moveBlocks(&to, make([]byte, chunkBytes))
		}
		if err == nil {
			_, err = s.image.WriteAt(p.data, chunkOffset(to.phys-1)+int64(p.first)*BlockSize)
			s.counters.imageBytes.Add(int64(len(p.data)))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		err = s.needPage(p.chunk / pageChunks)
	}
	if err != nil {
		if to.fresh {
			s.alloc.release(to.phys - 1)
		}
		if isFull(err) {
			return fmt.Errorf("volume %s: import: %w: %w", s.o.Volume, ErrNoSpace, err)
		}
		return s.fail(err)
	}
	s.landImport(p, &to)
	return nil
}

// landImport records in the map what was written.
func (s *Store) landImport(p *chunkImport, to *pourTarget) {
	block := p.chunk*chunkBlocks + int64(p.first)
	s.over.drop(block, block+int64(p.n))
	page := s.maps.modify(p.chunk / pageChunks)
	e := page.entry(int(p.chunk % pageChunks))
	defer page.touch(e, s.seq)
	if to.phys == 0 {
		return // zeros over nothing
	}
	if to.fresh {
		s.moveEntry(e, to)
	}
	if p.data == nil {
		e.setPresent(e.present() &^ p.mask())
		for i := range p.n {
			e.setCRC(p.first+i, 0)
		}
		if e.present() == 0 {
			s.remap(e, 0, true)
		}
		return
	}
	e.setPresent(e.present() | p.mask())
	for i, c := range p.crc {
		e.setCRC(p.first+i, c)
	}
}

// Complete ends a copy, durably: the replica holds everything imported, and the
// log up to the last entry. It may take as long as a round of pouring. An
// ErrNoSpace leaves the replica incomplete.
func (s *Store) Complete() error {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if !s.Incomplete() {
		return s.failed()
	}
	if !s.copying {
		return fmt.Errorf("volume %s: complete: %w: the copy was broken off", s.o.Volume, ErrIncomplete)
	}
	if s.copied > s.seq {
		return fmt.Errorf("volume %s: complete: %w: entries up to %d, which the copy reflects, were cut off after %d",
			s.o.Volume, ErrIncomplete, s.copied, s.seq)
	}
	pour := s.pourAll
	if s.o.Staging {
		pour = s.Sync
	}
	if !mutant.On(mutant.StoreCompleteEarly) {
		if err := pour(); err != nil {
			return err
		}
	}
	if err := s.saveSessions(); err != nil {
		return err
	}
	err := s.saveSuper(func(sb *superblock) { sb.incomplete, sb.base, sb.copied = false, 0, s.copied })
	if err != nil {
		return err
	}
	s.incomplete.Store(false)
	s.copying = false
	return nil
}

// pourAll completes a checkpoint of all that is applied. It holds appendMu.
func (s *Store) pourAll() error {
	for {
		if err := s.Destage(); err != nil {
			return err
		}
		if s.log.tail.Load() >= s.applied.pos {
			return nil
		}
		// A round that was begun earlier has ended before what is applied now.
	}
}

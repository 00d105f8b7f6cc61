package blockdev

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"time"

	"blkd/internal/mutant"
)

// Destage pours everything that is committed from the log into the image,
// completes a checkpoint, and frees the log space. An ErrNoSpace leaves the
// round unfinished, with nothing lost: call again when there is space.
func (s *Store) Destage() error {
	s.pourMu.Lock()
	defer s.pourMu.Unlock()
	if err := s.failed(); err != nil {
		return err
	}
	if s.o.Staging {
		return fmt.Errorf("volume %s: destage: %w: a staging store has no image", s.o.Volume, ErrNotSupported)
	}
	if err := s.beginRound(); err != nil {
		return err
	}
	if err := s.pourRound(); err != nil {
		return s.freeSpace(err)
	}
	if err := s.checkpoint(s.round); err != nil {
		return err
	}
	s.pouring = false
	s.setFull(false)
	old := s.log.tail.Swap(s.round.pos) // the checkpoint has drained the readers
	s.log.forget(old, s.round.pos)
	s.wakeAppenders()
	return nil
}

// beginRound freezes the overlay. The log is synced up to there before anything
// is poured: the image must never be ahead of what a crash leaves of the log.
// And the superblock says so: pouring changes chunks that references up to there
// point to, and recovery would take a reference whose payload differs from its
// checksums for one that the crash cut off; and what was poured is committed and
// must not be cut later.
func (s *Store) beginRound() error {
	if !s.pouring {
		s.mu.Lock()
		s.over.freeze()
		s.round = s.applied
		s.mu.Unlock()
		s.pouring = true
		s.counters.rounds.Add(1)
	}
	if mutant.On(mutant.StorePourUnsynced) {
		return nil
	}
	if err := s.Sync(); err != nil {
		return err
	}
	s.superMu.Lock()
	marked := s.super.durable >= s.round.pos && s.super.commit >= s.round.seq
	s.superMu.Unlock()
	if marked || mutant.On(mutant.StorePourUnmarked) {
		return nil
	}
	return s.saveSuper(func(sb *superblock) { sb.durable, sb.commit = s.durable.Load(), s.round.seq })
}

func (s *Store) pourRound() error {
	s.mu.Lock()
	blocks := make([]int64, 0, len(s.over.frozen))
	for b := range s.over.frozen {
		blocks = append(blocks, b)
	}
	s.mu.Unlock()
	slices.Sort(blocks)
	buf := make([]byte, chunkBytes)
	for len(blocks) > 0 {
		chunk := blocks[0] / chunkBlocks
		n := 1
		for n < len(blocks) && blocks[n]/chunkBlocks == chunk {
			n++
		}
		if err := s.pourChunk(chunk, blocks[:n], buf); err != nil {
			return err
		}
		blocks = blocks[n:]
		if err := s.boundDirty(); err != nil {
			return err
		}
	}
	return nil
}

// freeSpace completes a checkpoint after a round that found the disk full, if
// chunks wait for one: that gives back the space of what was trimmed, and the
// round may go on.
func (s *Store) freeSpace(full error) error {
	s.mu.Lock()
	if errors.Is(full, ErrNoSpace) {
		s.unpin(s.Committed()) // members that lack something have to be copied
	}
	freed := len(s.freed)
	s.mu.Unlock()
	if !errors.Is(full, ErrNoSpace) || freed == 0 || !s.recovered() {
		return full
	}
	if err := s.checkpoint(logPoint{s.super.replayFrom, s.super.lastGen, s.super.lastSeq}); err != nil {
		return err
	}
	s.wakeAppenders()
	return full
}

// recovered tells whether the log that the last crash left is poured. Until then
// a checkpoint must wait for the whole round. It holds pourMu.
func (s *Store) recovered() bool { return s.recoverTo <= s.super.replayFrom }

// maxDirty bounds the pages that one checkpoint copies at one instant.
const maxDirty = 4096

// boundDirty completes a checkpoint without moving the log's tail when half of
// the cache is dirty, or maxDirty pages. Not before a crash is recovered from: until then remnants of
// the checkpoint that the crash ended lie beside the pages still to be poured.
func (s *Store) boundDirty() error {
	s.mu.Lock()
	many := s.maps.dirty > min(s.maps.limit/2, maxDirty) && s.recovered()
	s.mu.Unlock()
	if !many {
		return nil
	}
	return s.checkpoint(logPoint{s.super.replayFrom, s.super.lastGen, s.super.lastSeq})
}

// pour is one block on its way from the log to the image.
type pour struct {
	block int64
	loc   loc
	crc   uint32
}

// pourTarget is where the blocks of a chunk are poured. Places are chunks of the
// image plus one; 0: none.
type pourTarget struct {
	old, phys uint32
	fresh     bool   // phys was taken for this
	pinned    bool   // old must keep its content
	moved     uint16 // blocks that go along from old to phys
}

// pourChunk writes the frozen blocks of one chunk to their place in the image.
// What is written counts only if the map still says so afterwards: a reference
// or a trim may have replaced the chunk meanwhile, then the place is free and
// is not used again before the next checkpoint.
func (s *Store) pourChunk(chunk int64, blocks []int64, buf []byte) error {
	stripe := &s.stripes[chunk%stripes]
	stripe.Lock()
	defer stripe.Unlock()
	s.mu.Lock()
	if err := s.needPage(chunk / pageChunks); err != nil {
		s.mu.Unlock()
		return s.fail(err)
	}
	pours := make([]pour, 0, chunkBlocks)
	data, mask := false, uint16(0)
	for _, b := range blocks {
		if l, ok := s.over.active[b]; ok && l.pos != 0 && l.pos+BlockSize <= s.durable.Load() {
			s.over.poured(b) // overwritten since, and that is durable in the log
		}
		if l, ok := s.over.frozen[b]; ok {
			pours = append(pours, pour{b, l, l.crc})
			data, mask = data || l.pos != 0, mask|1<<(b%chunkBlocks)
		}
	}
	to := s.target(chunk, mask, data)
	s.mu.Unlock()
	err := s.moveBlocks(&to, buf)
	if err == nil && to.phys != 0 {
		err = s.pourBlocks(pours, &to, buf)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	landed := false
	if err == nil {
		landed, err = s.landPours(chunk, pours, &to)
	}
	if to.fresh && !landed {
		s.alloc.release(to.phys - 1)
	}
	switch {
	case err == nil:
		return nil
	case isFull(err):
		return s.noSpace(err)
	}
	return s.fail(err)
}

// noSpace reports that the backing file system is full; pouring is tried again.
func (s *Store) noSpace(err error) error {
	s.setFull(true)
	return fmt.Errorf("volume %s: pour the log: %w: %w", s.o.Volume, ErrNoSpace, err)
}

// chunkPlace is the chunk's place plus one, or 0. Its page is in memory.
func (s *Store) chunkPlace(chunk int64) uint32 {
	if p := s.maps.get(chunk / pageChunks); p != nil {
		return p.entry(int(chunk % pageChunks)).phys()
	}
	return 0
}

// target finds the place for blocks of a chunk; data tells that not all of them
// are zeros. It holds mu, and the chunk's page is in memory.
func (s *Store) target(chunk int64, blocks uint16, data bool) pourTarget {
	old := s.chunkPlace(chunk)
	to := pourTarget{old: old, phys: old, pinned: old != 0 && s.pinned(old-1) && !mutant.On(mutant.StorePourPinned)}
	if !data || old != 0 && !to.pinned {
		return to
	}
	c, _ := s.alloc.take(1)
	to.phys, to.fresh = c+1, true
	if old != 0 {
		to.moved = s.maps.get(chunk/pageChunks).entry(int(chunk%pageChunks)).present() &^ blocks
	}
	return to
}

// moveBlocks copies what stays to a fresh place. It is not verified: its
// checksums go along.
func (s *Store) moveBlocks(to *pourTarget, buf []byte) error {
	for m := to.moved; m != 0; {
		first := bits.TrailingZeros16(m)
		n := bits.TrailingZeros16(^(m >> first))
		run, at := buf[:n*BlockSize], int64(first)*BlockSize
		if _, err := s.image.ReadAt(run, chunkOffset(to.old-1)+at); err != nil && err != io.EOF {
			return err
		}
		if _, err := s.image.WriteAt(run, chunkOffset(to.phys-1)+at); err != nil {
			return err
		}
		s.counters.imageBytes.Add(int64(len(run)))
		m &^= (1<<n - 1) << first
	}
	return nil
}

// pourBlocks writes runs of neighbouring blocks, and punches out zeros.
func (s *Store) pourBlocks(pours []pour, to *pourTarget, buf []byte) error {
	for i := 0; i < len(pours); {
		first := pours[i].block
		n, zero := 0, pours[i].loc.pos == 0
		for i+n < len(pours) && pours[i+n].block == first+int64(n) && (pours[i+n].loc.pos == 0) == zero {
			n++
		}
		off := chunkOffset(to.phys-1) + first%chunkBlocks*BlockSize
		if keep := zero && to.pinned; !keep {
			if err := s.pourRun(pours[i:i+n], zero, off, buf); err != nil {
				return err
			}
		}
		i += n
	}
	return nil
}

func (s *Store) pourRun(run []pour, zero bool, off int64, buf []byte) error {
	if zero {
		for i, p := range run {
			if p.loc.crc != 0 { // else its space is to be kept
				s.punch(off+int64(i)*BlockSize, BlockSize)
			}
		}
		return nil
	}
	data := buf[:len(run)*BlockSize]
	for i := range run {
		block := data[i*BlockSize : (i+1)*BlockSize]
		if err := s.log.read(block, run[i].loc.pos); err != nil {
			return err
		}
		if s.o.NoChecksums {
			continue
		}
		if got := checksum(block); got != run[i].loc.crc {
			// Keep the recorded checksum: reads of the block go on to fail.
			s.badBlock(run[i].block*BlockSize, logFile, s.log.offset(run[i].loc.pos), run[i].loc.crc, got) //nolint:errcheck // reported by event
		}
	}
	if _, err := s.image.WriteAt(data, off); err != nil {
		return err
	}
	s.counters.imageBytes.Add(int64(len(data)))
	return nil
}

// landPours records in the map what was poured, unless it was replaced
// meanwhile. It tells whether a freshly taken place is now in use.
func (s *Store) landPours(chunk int64, pours []pour, to *pourTarget) (landed bool, err error) {
	if err := s.needPage(chunk / pageChunks); err != nil {
		return false, err
	}
	now := s.chunkPlace(chunk)
	trimmed := false
	for i, p := range pours {
		if l, ok := s.over.frozen[p.block]; !ok || l != p.loc {
			continue
		}
		s.over.poured(p.block)
		page := s.maps.modify(chunk / pageChunks)
		e := page.entry(int(chunk % pageChunks))
		if to.phys == 0 {
			page.touch(e, s.round.seq) // zeros over nothing; but there may have been something in the log
			continue
		}
		trimmed = trimmed || p.loc == loc{crc: 1}
		if to.fresh && !landed {
			if now != to.old {
				return false, fmt.Errorf("chunk %d was mapped while its blocks were poured to a fresh place", chunk)
			}
			s.moveEntry(e, to)
			landed = true
		}
		s.landBlock(e, &pours[i])
		if !mutant.On(mutant.StoreQuietPour) {
			page.touch(e, s.round.seq)
		}
	}
	if trimmed {
		page := s.maps.modify(chunk / pageChunks)
		if e := page.entry(int(chunk % pageChunks)); e.present() == 0 {
			s.remap(e, 0, true) // only zeros are left
			page.touch(e, s.round.seq)
		}
	}
	return landed, nil
}

// moveEntry points a chunk to its fresh place.
func (s *Store) moveEntry(e entry, to *pourTarget) {
	var was [entryBytes]byte
	copy(was[:], e)
	s.remap(e, to.phys, false)
	e.setPresent(to.moved)
	for m := to.moved; m != 0; m &= m - 1 {
		b := bits.TrailingZeros16(m)
		e.setCRC(b, entry(was[:]).crc(b))
	}
}

func (s *Store) landBlock(e entry, p *pour) {
	bit := int(p.block % chunkBlocks)
	if p.loc.pos == 0 {
		e.setPresent(e.present() &^ (1 << bit))
		e.setCRC(bit, 0)
		return
	}
	e.setPresent(e.present() | 1<<bit)
	if !mutant.On(mutant.StoreStaleChecksum) {
		e.setCRC(bit, p.crc)
	}
}

func (s *Store) setFull(full bool) {
	if s.full.Swap(full) == full {
		return
	}
	if s.o.Events.Full != nil {
		s.o.Events.Full(full)
	}
	s.wakeAppenders()
}

const (
	pourIdle = 5 * time.Second        // a log that is not empty is poured at least so often
	pourFull = 250 * time.Millisecond // between attempts while the disk is full
	pourKeep = 30 * time.Second       // space that no write needed for so long is given back
)

// runPourer is the goroutine that destages.
func (s *Store) runPourer() {
	timer := time.NewTimer(pourIdle)
	defer timer.Stop()
	gaveBack := time.Now()
	for {
		select {
		case <-s.stop:
			return
		case <-s.pourNow:
		case <-timer.C:
		}
		wait := pourIdle
		if s.needsPouring() {
			if err := s.Destage(); err != nil {
				wait = pourFull
			}
		}
		if time.Since(gaveBack) >= pourKeep {
			s.giveBack(s.keepFree())
			gaveBack = time.Now()
		}
		timer.Reset(wait)
	}
}

func (s *Store) needsPouring() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed() == nil && (s.applied.pos > s.log.tail.Load() || len(s.freed) > 0 || s.manyDirty() || s.imported.Load() >= importStep)
}

package blockdev

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"blkd/internal/env"
	"blkd/internal/mutant"
)

// recover replays the log from the last checkpoint, and cuts what a crash left
// incomplete at its end. What it keeps is durable when it returns.
func (s *Store) recover() error {
	var history []*scanned
	if s.o.Replica {
		var err error
		if history, err = s.loadHistory(); err != nil {
			return err
		}
	}
	entries, end, rec, err := s.scanLog()
	if err != nil {
		return err
	}
	if err := s.replay(entries, &rec); err != nil {
		return err
	}
	if s.super.incomplete && s.super.base > 0 && !mutant.On(mutant.StoreRejoinRemnants) {
		if err := s.findRemnants(); err != nil {
			return err
		}
	}
	if s.o.Replica && !mutant.On(mutant.StoreReplayPins) {
		s.pinHistory(append(history, entries...))
	}
	// A process crash leaves entries that only the page cache holds.
	if err := errors.Join(s.log.f.Sync(), s.image.Sync()); err != nil {
		return err
	}
	sb := &s.super.superblock
	unclean := !sb.clean
	sb.clean = false
	sb.incarnation++
	sb.incStart, sb.durable, sb.commit = end, end, s.Committed()
	if sb.floor == unknownFloor {
		sb.floor = s.seq
	}
	s.floor.Store(uint64(sb.floor))
	if s.seq < sb.copied { // it cannot be, but for damage: Complete synced the log up to there
		sb.incomplete = true
		s.incomplete.Store(true)
	}
	if err := s.super.save(); err != nil {
		return err
	}
	s.log.incarnation = sb.incarnation
	s.log.forget(sb.replayFrom, sb.replayFrom+uint64(s.log.size))
	s.log.head, s.log.padded = end, end/BlockSize*BlockSize
	s.log.written.Store(end)
	s.durable.Store(end)
	s.durableSeq.Store(uint64(s.seq))
	s.recoverTo = sb.replayFrom
	if unclean {
		s.recoverTo = end
		if s.o.Events.Recovered != nil {
			s.o.Events.Recovered(rec)
		}
	}
	return nil
}

// loadHistory indexes what lies before the place of replay and members may lack,
// and returns the references there. What was overwritten since the superblock was
// saved is forgotten.
func (s *Store) loadHistory() (refs []*scanned, err error) {
	sb := &s.super.superblock
	s.keep.Store(uint64(sb.keep[0].seq))
	from := logPoint{sb.replayFrom, sb.lastGen, sb.lastSeq}
	for _, k := range sb.keep {
		if k.pos == 0 || k.pos > from.pos {
			break
		}
		refs, whole, err := s.indexLog(k, from)
		if whole || err != nil {
			return refs, err
		}
	}
	s.hist.start(sb.logBytes, from, sb.gens)
	return nil, nil
}

// indexLog is loadHistory between two points. It is false if the log does not
// lead from one to the other.
func (s *Store) indexLog(from, to logPoint) (refs []*scanned, whole bool, err error) {
	s.hist.start(s.log.size, from, s.super.gens)
	sc := scanner{log: &s.log, super: &s.super.superblock, pos: from.pos, gen: from.gen, seq: from.seq}
	for sc.seq < to.seq {
		r, err := sc.step(to.pos)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, false, err
		}
		s.hist.addOne(&r.record)
		if r.kind == recRef {
			refs = append(refs, r)
		}
	}
	return refs, logPoint{sc.pos, sc.gen, sc.seq} == to, nil
}

// scanLog returns the entries that count and where the log ends. An entry with
// a bad payload ends the log if it lies behind the last point known to be
// durable: the crash cut it off. Before that point it is damage, and kept, so
// that reads of its block fail instead of returning something older.
func (s *Store) scanLog() (kept []*scanned, end uint64, rec Recovery, err error) {
	sb := &s.super.superblock
	sc := scanner{
		log: &s.log, super: sb, verify: !s.o.NoChecksums,
		pos: sb.replayFrom, seq: sb.lastSeq, gen: sb.lastGen, durable: sb.durable,
	}
	for {
		r, err := sc.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, 0, rec, err
		}
		kept = append(kept, r)
	}
	end = sc.pos
	for i, r := range kept {
		if r.pos+uint64(r.bytes()) > sc.durable {
			if ok, err := s.payloadHeld(r); err != nil {
				return nil, 0, rec, err
			} else if !ok {
				kept, end, rec.Cut = kept[:i], r.pos, true
				break
			}
		}
		rec.BadBlock += len(r.bad)
	}
	sc.pos = end
	later := uint64(0)
	if !sb.clean { // else nothing was logged since it was poured
		if later, err = sc.laterDurable(); err != nil {
			return nil, 0, rec, err
		}
	}
	if durable := max(later, sc.durable); end < durable {
		return nil, 0, rec, fmt.Errorf("%s: it ends at %d, flushed up to %d: %w", s.file(logFile), end, durable, errLogDamaged)
	}
	rec.Entries, rec.Bytes = len(kept), int64(end-sb.replayFrom)
	return kept, end, rec, s.rewrite(kept, sc.durable, end)
}

// rewrite writes the log from a position on, and the payloads of references that
// lie there, once more. If a sync has failed, and only the process ended, the page
// cache still holds what it could not write, but as clean: recovery finds it, and
// its own sync would pass it over.
func (s *Store) rewrite(entries []*scanned, from, end uint64) error {
	if from >= end || mutant.On(mutant.StoreTrustCache) {
		return nil
	}
	buf := make([]byte, recMaxBlocks*BlockSize)
	for pos := from; pos < end; {
		n := min(int64(len(buf)), int64(end-pos), s.log.lapLeft(pos))
		if err := copyOver(s.log.f, buf[:n], s.log.offset(pos)); err != nil {
			return err
		}
		pos += uint64(n)
	}
	for _, r := range entries {
		if r.kind != recRef || len(r.crc) == 0 || r.pos < from {
			continue
		}
		if err := copyOver(s.image, buf[:r.len], chunkOffset(r.phys)); err != nil {
			return err
		}
	}
	return nil
}

// copyOver reads len(buf) bytes at off and writes them to the same place.
func copyOver(f env.File, buf []byte, off int64) error {
	_, err := f.ReadAt(buf, off)
	if err == nil {
		_, err = f.WriteAt(buf, off)
	}
	return err
}

// payloadHeld tells whether the payload of an entry is complete.
func (s *Store) payloadHeld(r *scanned) (bool, error) {
	if r.kind != recRef || len(r.crc) == 0 || s.o.NoChecksums || mutant.On(mutant.StoreTrustPayload) {
		return len(r.bad) == 0, nil
	}
	buf := make([]byte, len(r.crc)*BlockSize)
	_, err := s.image.ReadAt(buf, chunkOffset(r.phys))
	if err == io.EOF {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", s.file(imageFile), err)
	}
	for i, want := range r.crc {
		if checksum(buf[i*BlockSize:(i+1)*BlockSize]) != want {
			return false, nil
		}
	}
	return true, nil
}

// replay applies the committed entries and keeps the others pending.
func (s *Store) replay(entries []*scanned, rec *Recovery) error {
	sb := &s.super.superblock
	s.gen, s.seq = sb.lastGen, sb.lastSeq
	if !s.o.Replica {
		s.gen = max(s.gen, 1) // the one writer's
	}
	commit, pages := max(sb.commit, sb.lastSeq), mapPageCount(sb.size)
	s.commit.Store(uint64(commit))
	s.applied = logPoint{sb.replayFrom, sb.lastGen, sb.lastSeq}
	for _, r := range entries {
		commit = max(commit, r.commit)
		if r.off != AsideOff {
			pages = max(pages, mapPageCount(r.off+r.len)) // from before the volume shrank
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !mutant.On(mutant.StoreForgetTail) {
		s.maps.resize(pages)
		s.over.resize(pages)
	}
	if mutant.On(mutant.StoreReplayOrder) {
		slices.Reverse(entries)
	}
	for _, r := range entries {
		s.gen, s.seq = r.gen, r.seq
		if s.o.Replica {
			s.hist.addOne(&r.record)
		}
		if s.o.Replica && r.seq > commit {
			s.reserveRef(&r.record)
			s.pending.push(&r.record, r.crc)
			continue
		}
		if err := s.apply(&r.record, r.crc); err != nil {
			return err
		}
	}
	rec.LastGen, rec.LastSeq = s.gen, s.seq
	return nil
}

// findRemnants looks at every map page. A checkpoint that a crash has ended may
// have left pages that only an import had changed: replay does not touch these,
// but the next checkpoint must write over them, or they come to life with it.
func (s *Store) findRemnants() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.maps.entries {
		if err := s.needPage(int64(i)); err != nil {
			return err
		}
	}
	return nil
}

// reserveRef keeps the chunks of an uncommitted reference from being handed out.
func (s *Store) reserveRef(r *record) {
	if r.kind != recRef {
		return
	}
	for c := range uint32(r.blocks / chunkBlocks) {
		s.alloc.reserve(r.phys + c)
	}
}

package blockdev

import (
	"errors"
	"fmt"

	"blkd/internal/mutant"
)

// EntryKind is what a log entry does.
type EntryKind uint8

const (
	EntryWrite EntryKind = 1 // Data at Off
	EntryZero  EntryKind = 2 // Len bytes from Off read as zeros
	// EntryMark changes no data. Off, if it is not 0, is the size that the volume
	// has at least from here on, in bytes; Len is 0.
	EntryMark EntryKind = 3
)

// Entry is one entry of a volume's log as a replica receives it.
type Entry struct {
	Gen  Generation
	Seq  Seq
	Kind EntryKind
	Off  int64  // bytes, a multiple of BlockSize; of marks of 512
	Len  int64  // bytes, a multiple of BlockSize; of writes at most 1 MiB and a quarter of the log
	Data []byte // writes: Len bytes

	Origin Origin // of writes and zeros
}

// ErrNotNext tells that an entry does not continue the log: its Seq is not the
// one after the last, or its Gen is older.
var ErrNotNext = errors.New("the entry does not continue the log")

// Last is the generation and position of the last entry in the log, (0, 0) if
// there never was one.
func (s *Store) Last() (Generation, Seq) {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	return s.gen, s.seq
}

// Committed is the position up to which entries are committed: reads see them,
// and they can no longer be cut off.
func (s *Store) Committed() Seq { return Seq(s.commit.Load()) }

// Append adds entries to the log of a replica; when it returns they are held
// (a process crash does not lose them; Sync makes them durable) and pending
// until Commit. It may wait for log space. On error none or a prefix was added;
// Last tells.
func (s *Store) Append(entries []Entry) error {
	b := writeBatches.Get().(*writeBatch)
	defer b.reset()
	for i := range entries {
		if err := s.planEntry(b, &entries[i]); err != nil {
			for n := range b.pieces {
				s.abandon(&b.pieces[n])
			}
			return err
		}
	}
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if s.closed {
		return ErrClosed
	}
	b.start, b.end = s.log.head, s.log.head
	for n := range b.pieces {
		p := &b.pieces[n]
		err := s.checkNext(p)
		if err == nil {
			err = s.placeEntry(b, n)
		}
		if err != nil {
			for m := n; m < len(b.pieces); m++ {
				s.abandon(&b.pieces[m])
			}
			return errors.Join(err, s.flushBatch(b, n))
		}
	}
	return s.flushBatch(b, len(b.pieces))
}

// planEntry validates an entry and prepares its payload.
func (s *Store) planEntry(b *writeBatch, e *Entry) error {
	if e.Kind == EntryMark && e.Len == 0 {
		b.pieces = append(b.pieces, piece{record: record{kind: recMark, gen: e.Gen, seq: e.Seq, off: e.Off}})
		return s.growTo(e.Off)
	}
	if !s.covers(e.Off, e.Len) {
		return fmt.Errorf("%w: entry %d covers %d bytes at %d", ErrInvalid, e.Seq, e.Len, e.Off)
	}
	first := len(b.pieces)
	switch {
	case e.Kind == EntryZero:
		b.pieces = append(b.pieces, piece{record: record{kind: recZero, off: e.Off, len: e.Len}})
	case e.Kind == EntryWrite && int64(len(e.Data)) == e.Len && e.Len <= int64(s.log.maxData()):
		s.planWhole(b, e)
	default:
		return fmt.Errorf("%w: entry %d of kind %d with %d bytes of data for %d", ErrInvalid, e.Seq, e.Kind, len(e.Data), e.Len)
	}
	p := &b.pieces[first]
	p.gen, p.seq = e.Gen, e.Seq
	p.setOrigin(e.Origin)
	return nil
}

// growTo makes room for what a mark says, durably before the mark is in the log. If
// it is cut off, the room stays, and the next primary's mark tells of it.
func (s *Store) growTo(size int64) error {
	if size <= s.size.Load() {
		return nil
	}
	return s.Resize(size)
}

// covers tells whether whole blocks, at least one, lie within the volume, whose
// last block may be a part of one, or are the one that is aside.
func (s *Store) covers(off, n int64) bool {
	if s.o.Staging && off == AsideOff {
		return n == BlockSize
	}
	limit := (s.size.Load() + BlockSize - 1) / BlockSize * BlockSize
	return off >= 0 && n > 0 && off%BlockSize == 0 && n%BlockSize == 0 && off <= limit && n <= limit-off
}

// planWhole makes one piece of an entry: a reference if it is whole chunks that
// found one run of fresh space, else data.
func (s *Store) planWhole(b *writeBatch, e *Entry) {
	if e.Off%chunkBytes == 0 && e.Len%chunkBytes == 0 && !s.o.Staging {
		first := len(b.pieces)
		if done := s.writeChunks(b, e.Off, e.Data); done == e.Len && len(b.pieces) == first+1 {
			return
		}
		for n := first; n < len(b.pieces); n++ {
			s.abandon(&b.pieces[n])
		}
		b.pieces = b.pieces[:first]
	}
	s.planLog(b, e.Off, e.Data)
}

func (s *Store) checkNext(p *piece) error {
	if p.seq != s.seq+1 || p.gen < s.gen {
		return fmt.Errorf("%w: entry (%d, %d) after (%d, %d)", ErrNotNext, p.gen, p.seq, s.gen, s.seq)
	}
	return nil
}

// placeEntry encodes piece n, whose gen and seq are given.
func (s *Store) placeEntry(b *writeBatch, n int) error {
	p := &b.pieces[n]
	if err := s.makeRoom(b, n); err != nil {
		return err
	}
	if err := s.checkNext(p); err != nil {
		return err // appended by another while it waited
	}
	if err := s.fitLap(b, n); err != nil {
		return err
	}
	s.gen, s.seq = p.gen, p.seq
	p.commit = s.Committed()
	return s.encode(b, p, n)
}

// keepPending records entries that wait for Commit.
func (s *Store) keepPending(pieces []piece) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range pieces {
		s.pending.push(&pieces[i].record, pieces[i].crc)
	}
}

// Commit makes entries up to seq, or up to the last if that is before, visible
// to reads and final.
func (s *Store) Commit(seq Seq) error {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if err := s.failed(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := s.pending.until(seq); n > 0; n-- {
		if err := s.apply(s.pending.at(0)); err != nil {
			return s.fail(err)
		}
		s.pending.pop()
	}
	s.kickIfHalf() // what could not be poured when it was appended can be now
	return nil
}

// Truncate cuts every entry after seq off the log, durably: none of them comes
// back after a crash. Committed entries cannot be cut. It is an ErrIncomplete to
// cut what a copy has brought effects of: it is done, but the replica is
// inconsistent now, and a new copy has to begin.
func (s *Store) Truncate(seq Seq) error {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if err := s.failed(); err != nil {
		return err
	}
	if commit := s.Committed(); seq < commit {
		return fmt.Errorf("%w: truncate after entry %d, committed up to %d", ErrInvalid, seq, commit)
	}
	if seq >= s.seq {
		return nil
	}
	s.mu.Lock()
	end := s.applied
	if keep := s.pending.until(seq); keep > 0 {
		last, _ := s.pending.at(keep - 1)
		end = logPoint{last.pos + uint64(last.bytes()), last.gen, last.seq}
	}
	s.mu.Unlock()
	whole := !s.Incomplete()
	if err := s.cutLog(end); err != nil {
		return err
	}
	s.copying = s.copying && seq >= s.copied
	s.mu.Lock()
	keep := s.pending.until(seq)
	for i := keep; i < s.pending.n; i++ {
		r, _ := s.pending.at(i)
		s.releaseRef(r)
	}
	s.pending.cut(keep)
	s.mu.Unlock()
	s.wakeAppenders()
	if whole && s.Incomplete() {
		return fmt.Errorf("volume %s: truncate after entry %d: %w", s.o.Volume, seq, ErrIncomplete)
	}
	return nil
}

// cutLog moves the log's end back. The incarnation makes what lies behind it
// invalid; only then are the places of its references free again. What stays is
// synced first: a record of an older incarnation counts if it lies before
// incStart, so none may be lost there and uncover one that was cut earlier.
//
// If a copy has brought effects of what is cut, the replica is incomplete.
func (s *Store) cutLog(end logPoint) error {
	if err := s.Sync(); err != nil {
		return err
	}
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	s.superMu.Lock()
	defer s.superMu.Unlock() // until durable is lowered: a checkpoint saves it
	s.super.incarnation++
	s.super.incStart, s.super.durable = end.pos, end.pos
	if end.seq < s.super.copied && !mutant.On(mutant.StoreCutCopied) {
		s.super.incomplete = true
	}
	if err := s.super.save(); err != nil {
		return s.fail(err)
	}
	s.incomplete.Store(s.super.incomplete)
	s.endLogAt(end)
	return nil
}

// endLogAt goes on in a new incarnation from a point up to which the log is
// durable. It holds appendMu and syncMu.
func (s *Store) endLogAt(end logPoint) {
	s.log.incarnation = s.super.incarnation
	s.gen, s.seq = end.gen, end.seq
	s.log.head, s.log.padded = end.pos, end.pos/BlockSize*BlockSize
	s.log.written.Store(end.pos)
	s.durable.Store(end.pos)
	s.durableSeq.Store(uint64(end.seq))
	s.hist.cut(end)
}

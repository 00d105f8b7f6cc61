package blockdev

import (
	"errors"
	"fmt"
	"io"
)

// ErrTrimmed tells that entries are asked for which the log no longer holds.
var ErrTrimmed = errors.New("the log no longer reaches back that far")

// GenAt is the generation of the entry at seq. It is false if that lies behind
// the end of the log, or so far back that it is not known any more.
func (s *Store) GenAt(seq Seq) (Generation, bool) { return s.hist.gen(seq) }

// Keep says that a member may lack what follows the entry after, so that it
// should stay readable. It only rises. Small entries stay readable as long as
// the ring holds them, whatever Keep says. The payload of large ones lies in the
// image; it is held for members up to as many bytes as the log has, and given up
// for want of space: a member that is away too long is copied.
func (s *Store) Keep(after Seq) {
	for {
		old := s.keep.Load()
		if uint64(after) <= old || s.keep.CompareAndSwap(old, uint64(after)) {
			return
		}
	}
}

// entryOverhead is what ReadLog counts for an entry beside its data, bytes.
const entryOverhead = 64

// ReadLog returns the entries that follow seq after: at least one if there is
// any, and then as many as count for maxBytes at most, 64 bytes and the data of
// each. Their data is verified, and the caller's to keep. An ErrTrimmed tells
// that the first of them is gone.
func (s *Store) ReadLog(after Seq, maxBytes int) ([]Entry, error) {
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	if err := s.failed(); err != nil {
		return nil, err
	}
	if s.closed {
		return nil, ErrClosed
	}
	if after >= s.seq {
		return nil, nil
	}
	at, ok := s.hist.find(after)
	if !ok {
		return nil, fmt.Errorf("volume %s: entries after %d: %w, but to %d", s.o.Volume, after, ErrTrimmed, at.seq)
	}
	r := logReader{s: s, scanner: scanner{log: &s.log, super: &s.super.superblock, pos: at.pos, seq: at.seq, gen: at.gen, reuse: &s.logRecord}, end: s.log.head}
	for r.scanner.seq < after {
		if _, err := r.step(); err != nil {
			return nil, err
		}
	}
	var entries []Entry
	for r.scanner.seq < s.seq {
		before := logPoint{r.scanner.pos, r.scanner.gen, r.scanner.seq}
		rec, err := r.step()
		if err != nil {
			return entries, err
		}
		size := entryOverhead
		if rec.crcs() > 0 {
			size += int(rec.len)
		}
		if maxBytes -= size; maxBytes < 0 && len(entries) > 0 {
			s.hist.stopped(before)
			return entries, nil
		}
		e, err := r.entry(rec)
		if err != nil && len(entries) > 0 {
			s.hist.stopped(before)
			return entries, nil // the next call tells
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	s.hist.stopped(logPoint{r.scanner.pos, r.scanner.gen, r.scanner.seq})
	return entries, nil
}

// logReader walks entries that are known to be there.
type logReader struct {
	s       *Store
	scanner scanner
	end     uint64
	slab    []byte // memory for data that is not given out yet
}

// step returns the header of the next entry.
func (r *logReader) step() (*scanned, error) {
	rec, err := r.scanner.step(r.end)
	if err == io.EOF {
		why := ErrIO
		if r.poured(r.scanner.pos) {
			why = ErrTrimmed
		}
		return nil, fmt.Errorf("volume %s: %w: entry %d in %s at %d is damaged", r.s.o.Volume, why, r.scanner.seq+1,
			r.s.file(logFile), r.s.log.offset(r.scanner.pos))
	}
	return rec, err
}

// poured tells whether what lies at a place of the log is in the image too.
// Damage there is no alarm: a crash may have cut off a head that had come round
// to it already.
func (r *logReader) poured(pos uint64) bool { return pos < r.s.log.tail.Load() }

// entry brings an entry's data.
func (r *logReader) entry(rec *scanned) (Entry, error) {
	e := Entry{Gen: rec.gen, Seq: rec.seq, Off: rec.off, Len: rec.len, Origin: rec.origin}
	switch {
	case rec.kind == recMark:
		e.Kind = EntryMark
		return e, nil
	case rec.crcs() == 0:
		e.Kind = EntryZero
		return e, nil
	}
	e.Kind, e.Data = EntryWrite, r.alloc(int(rec.len))
	if rec.kind == recRef {
		return e, r.payload(rec, e.Data)
	}
	return e, r.data(rec, e.Data)
}

// data reads the payload of a record.
func (r *logReader) data(rec *scanned, p []byte) error {
	s := r.s
	if err := s.log.read(p, rec.payloadPos()); err != nil {
		return fmt.Errorf("volume %s: %w: read entry %d: %w", s.o.Volume, ErrIO, rec.seq, err)
	}
	for i, want := range rec.crc {
		at := int64(i) * BlockSize
		got := checksum(p[at : at+BlockSize])
		switch {
		case got == want || s.o.NoChecksums:
		case r.poured(rec.pos):
			return fmt.Errorf("volume %s: entry %d: %w", s.o.Volume, rec.seq, ErrTrimmed)
		default:
			return s.badBlock(rec.off+at, logFile, s.log.offset(rec.payloadPos())+at, want, got)
		}
	}
	return nil
}

// payload reads what a reference points to. If it is not what was written, its
// place has been given to something newer.
func (r *logReader) payload(rec *scanned, p []byte) error {
	_, err := r.s.image.ReadAt(p, chunkOffset(rec.phys))
	if err != nil && err != io.EOF {
		return fmt.Errorf("volume %s: %w: read entry %d: %w", r.s.o.Volume, ErrIO, rec.seq, err)
	}
	for i, want := range rec.crc {
		if err != nil || !r.s.o.NoChecksums && checksum(p[i*BlockSize:(i+1)*BlockSize]) != want {
			return fmt.Errorf("volume %s: entry %d: %w, its payload was overwritten", r.s.o.Volume, rec.seq, ErrTrimmed)
		}
	}
	return nil
}

// slabBytes is the unit in which memory for small entries is taken.
const slabBytes = 256 << 10

func (r *logReader) alloc(n int) []byte {
	if n > slabBytes/4 {
		return make([]byte, n)
	}
	if n > len(r.slab) {
		r.slab = make([]byte, slabBytes)
	}
	p := r.slab[:n:n]
	r.slab = r.slab[n:]
	return p
}

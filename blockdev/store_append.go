package blockdev

import (
	"fmt"
	"slices"

	"blkd/internal/mutant"
)

const (
	maxBatchIOV   = 900     // buffers of one log write, below IOV_MAX
	maxBatchBytes = 4 << 20 // of one log write
	// maxBatchSpan is the longest range of an entry that may wait for others: one
	// that is longer may dirty many map pages, which hasRoom has to see.
	maxBatchSpan = 64 << 20
)

// place encodes piece n, of mutation r, at the end of the batch. When the log has no room for
// it, what is encoded so far is written and it waits. It holds appendMu.
func (s *Store) place(b *writeBatch, n int, r *Request) error {
	p := &b.pieces[n]
	if p.merge {
		// The block may have been written by this very batch.
		if err := s.flushBatch(b, n); err != nil {
			return err
		}
	}
	if err := s.makeRoom(b, n); err != nil {
		return err
	}
	// The volume may have shrunk since the request was checked, also while it
	// waited for room. Nothing may be written behind the trim of the tail.
	if size := max(s.size.Load(), b.limit); r.Off+r.Len > size && !mutant.On(mutant.StoreWriteCutTail) {
		return &RangeError{Op: r.Op, Off: r.Off, Len: r.Len, Size: size}
	}
	if p.merge {
		if err := s.mergeBlock(b, p); err != nil {
			return err
		}
	}
	if err := s.fitLap(b, n); err != nil {
		return err
	}
	s.seq++
	p.seq, p.gen, p.commit = s.seq, s.gen, s.seq
	return s.encode(b, p, n)
}

// fitLap ends the lap of the ring if piece n does not fit into the rest of it.
func (s *Store) fitLap(b *writeBatch, n int) error {
	left := s.log.lapLeft(b.end)
	if left == s.log.size && !mutant.On(mutant.StoreCrossLap) {
		return s.flushBatch(b, n) // the batch has filled the lap: one write cannot go on at the start
	}
	if b.pieces[n].bytes() <= left {
		return nil
	}
	s.encodeSkip(b, left)
	return s.flushBatch(b, n)
}

// encode adds the record of piece n, whose gen, seq and commit are set, to the
// batch, and writes the batch if it is large.
func (s *Store) encode(b *writeBatch, p *piece, n int) error {
	p.pos, p.incarnation, p.durable = b.end, s.log.incarnation, s.durable.Load()
	head := b.alloc(p.headerBytes())
	for i, c := range p.crc {
		le.PutUint32(head[recHeader+4*i:], c)
	}
	p.record.encode(head)
	b.iov = append(b.iov, head)
	if p.kind == recData {
		b.iov = append(b.iov, p.data)
	}
	b.end += uint64(p.bytes())
	if len(b.iov) > maxBatchIOV || b.end-b.start > maxBatchBytes || p.len > maxBatchSpan {
		return s.flushBatch(b, n+1)
	}
	return nil
}

// encodeSkip ends the lap.
func (s *Store) encodeSkip(b *writeBatch, left int64) {
	if left >= recHeader {
		skip := record{kind: recSkip, pos: b.end, gen: s.gen, seq: s.seq, incarnation: s.log.incarnation, durable: s.durable.Load()}
		head := b.alloc(recHeader)
		skip.encode(head)
		b.iov = append(b.iov, head)
	}
	b.end += uint64(left)
}

// alloc returns n bytes that live as long as the batch.
func (b *writeBatch) alloc(n int) []byte {
	if len(b.arena)+n > cap(b.arena) {
		b.arena = make([]byte, 0, max(64<<10, n)) // the old one lives on in iov
	}
	b.arena = b.arena[:len(b.arena)+n]
	return b.arena[len(b.arena)-n:]
}

// flushBatch writes what is encoded to the log and applies the pieces before
// upTo. After an error the store has failed.
func (s *Store) flushBatch(b *writeBatch, upTo int) error {
	if err := s.failed(); err != nil {
		return err
	}
	if b.end == b.start {
		b.first = upTo
		return nil
	}
	n := int64(0)
	for _, v := range b.iov {
		n += int64(len(v))
	}
	if s.o.Replica {
		s.hist.overwrite(b.start, b.end)
	}
	if n > 0 {
		b.iov = slices.Grow(b.iov, 1) // for the padding
		if err := s.log.write(b.iov, b.start, n); err != nil {
			return s.fail(err)
		}
		s.counters.logBytes.Add(n)
		s.counters.logWrites.Add(1)
	}
	s.log.head = b.end
	s.log.written.Store(b.end)
	clear(b.iov)
	b.start, b.iov, b.arena = b.end, b.iov[:0], b.arena[:0]
	s.kickIfHalf()
	pieces := b.pieces[b.first:upTo]
	b.first = upTo
	if s.o.Replica {
		s.hist.add(pieces)
		s.keepPending(pieces)
		return nil
	}
	return s.applyPieces(pieces)
}

// applyPieces makes entries visible that are committed as soon as they are held.
func (s *Store) applyPieces(pieces []piece) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range pieces {
		p := &pieces[i]
		if p.seq == 0 {
			continue // it failed before it had a record
		}
		if err := s.apply(&p.record, p.crc); err != nil {
			return s.fail(err)
		}
	}
	return nil
}

// mergeBlock completes a partial block with what the volume holds around it.
func (s *Store) mergeBlock(b *writeBatch, p *piece) error {
	block := blockPool.Get().(*[BlockSize]byte)
	b.blocks = append(b.blocks, block[:])
	if err := s.read(block[:], p.off); err != nil {
		return fmt.Errorf("complete a partial block: %w", err)
	}
	part := block[p.mergeAt : p.mergeAt+p.mergeLen]
	if p.data == nil {
		clear(part)
	} else {
		copy(part, p.data)
	}
	p.data = block[:]
	p.crc = s.sums(b, block[:])
	return nil
}

// makeRoom waits until the log has room for piece n.
func (s *Store) makeRoom(b *writeBatch, n int) error {
	p := &b.pieces[n]
	if s.hasRoom(p, b.end) && !s.closed { // it may be closed while an earlier piece waits
		return nil
	}
	if err := s.flushBatch(b, n); err != nil {
		return err
	}
	for !s.closed && !s.hasRoom(p, b.end) {
		err := s.awaitSpace(p)
		if err == nil || !mutant.On(mutant.StoreStaleHead) {
			b.start, b.end = s.log.head, s.log.head // others have appended meanwhile, even if it waited in vain
		}
		if err != nil {
			return err
		}
	}
	if s.closed {
		return ErrClosed
	}
	return nil
}

// trimReserve of the log is kept for entries without payload, so that a trim
// can make space when the disk is full and the log with it.
const trimReserve = 64 << 10

func (s *Store) roomFor(p *piece) int64 {
	if p.kind == recData {
		return p.bytes() + min(trimReserve, s.log.size/8)
	}
	return p.bytes()
}

// hasRoom tells whether a piece can be appended at pos: there is room in the log
// and, if it changes map pages, in the cache for dirty ones.
func (s *Store) hasRoom(p *piece, pos uint64) bool {
	if !s.log.room(pos, s.roomFor(p)) {
		return false
	}
	if p.kind == recData {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.manyDirty()
}

// manyDirty tells whether half of the cache waits for a checkpoint. It holds mu.
func (s *Store) manyDirty() bool { return s.maps.dirty > s.maps.limit/2 }

// awaitSpace releases appendMu until there is log space, by destaging or by a
// cut of the log.
func (s *Store) awaitSpace(p *piece) error {
	s.appendMu.Unlock()
	defer s.appendMu.Lock()
	s.counters.stalls.Add(1)
	if s.o.Manual {
		return s.destageForSpace(p)
	}
	s.spaceMu.Lock()
	defer s.spaceMu.Unlock()
	for !s.hasRoom(p, s.log.written.Load()) {
		if err := s.failed(); err != nil {
			return err
		}
		if s.full.Load() && s.o.FailOnFull {
			return fmt.Errorf("volume %s: %w and its log is full; free space there or trim the volume", s.o.Volume, ErrNoSpace)
		}
		s.kick()
		s.space.Wait()
	}
	return nil
}

// destageForSpace is awaitSpace without background work: nobody commits or cuts
// while it waits, so it must not wait for that.
func (s *Store) destageForSpace(p *piece) error {
	if s.o.Staging {
		return fmt.Errorf("volume %s: %w: its log is full of what was not dropped", s.o.Volume, ErrNoSpace)
	}
	tail := s.log.tail.Load()
	if err := s.Destage(); err != nil {
		return err
	}
	if s.log.tail.Load() == tail && !s.hasRoom(p, s.log.written.Load()) {
		return fmt.Errorf("volume %s: %w in its log, which is full of entries that are not committed", s.o.Volume, ErrNoSpace)
	}
	return nil
}

// kick asks for a round of destaging.
func (s *Store) kick() {
	select {
	case s.pourNow <- struct{}{}:
	default:
	}
}

// kickIfHalf asks for a round when half of the log is used.
func (s *Store) kickIfHalf() {
	if s.log.used() > s.log.size/2 {
		s.kick()
	}
}

package blockdev

import (
	"errors"
	"sync"
	"syscall"
)

// piece is one entry on its way into the log: the header, the payload of a data
// entry, and the checksum of each block.
type piece struct {
	record
	data []byte
	crc  []uint32
	// merge: data is part of a block, at mergeAt within it; or, if data is nil,
	// mergeLen zeros. The rest of the block is read under appendMu.
	merge             bool
	mergeAt, mergeLen int
}

// writeBatch is the working memory of one Submit.
type writeBatch struct {
	mutations []*Request
	errs      []error // per mutation
	reads     []*Request
	flushes   []*Request

	limit  int64 // a resize that shrinks: the old size, up to which it trims
	pieces []piece
	ends   []int // pieces[:ends[i]] belong to mutations[:i+1]

	// What is encoded and not yet written to the log.
	start, end uint64
	first      int // index of the first such piece
	iov        [][]byte
	arena      []byte
	crcs       []uint32
	blocks     [][]byte // merged blocks, kept until the batch is finished
}

var writeBatches = sync.Pool{New: func() any { return new(writeBatch) }}

func (b *writeBatch) reset() {
	clear(b.mutations)
	clear(b.errs)
	clear(b.reads)
	clear(b.flushes)
	clear(b.pieces)
	clear(b.iov)
	for _, p := range b.blocks {
		blockPool.Put((*[BlockSize]byte)(p))
	}
	clear(b.blocks)
	*b = writeBatch{
		mutations: b.mutations[:0], errs: b.errs[:0], reads: b.reads[:0], flushes: b.flushes[:0],
		pieces: b.pieces[:0], ends: b.ends[:0], iov: b.iov[:0], arena: b.arena[:0], crcs: b.crcs[:0], blocks: b.blocks[:0],
	}
	writeBatches.Put(b)
}

var blockPool = sync.Pool{New: func() any { return new([BlockSize]byte) }}

// Submit implements Device. Mutations of the batch go to the log in one write.
func (s *Store) Submit(batch []*Request) {
	b := writeBatches.Get().(*writeBatch)
	for _, r := range batch {
		err := s.failed()
		if err == nil {
			err = r.Check(s.size.Load(), false)
		}
		switch {
		case err != nil:
			r.Finish(err)
		case r.Op == OpRead:
			b.reads = append(b.reads, r)
		case r.Op == OpFlush:
			b.flushes = append(b.flushes, r)
		case r.Op == OpCache:
			r.Finish(nil)
		case s.o.Replica:
			r.Finish(ErrReadOnly) // a replica is written by Append
		default:
			b.mutations = append(b.mutations, r)
		}
	}
	if len(b.mutations) > 0 {
		s.mutate(b)
	}
	for _, r := range b.reads {
		s.counters.reads.Add(1)
		s.counters.readBytes.Add(r.Len)
		r.Finish(s.read(r.Data, r.Off))
	}
	for _, r := range b.flushes {
		s.flushLater(r)
	}
	b.reset()
}

func (s *Store) mutate(b *writeBatch) {
	for _, r := range b.mutations {
		b.errs = append(b.errs, nil)
		s.counters.writes.Add(1)
		s.counters.writeBytes.Add(int64(len(r.Data)))
		s.plan(b, r)
		b.ends = append(b.ends, len(b.pieces))
	}
	s.appendMu.Lock()
	s.appendPieces(b)
	s.appendMu.Unlock()
	for i, r := range b.mutations {
		if b.errs[i] == nil && r.Flags&FUA != 0 {
			s.flushLater(r)
		} else {
			r.Finish(b.errs[i])
		}
	}
}

// appendPieces logs and applies all pieces; failures go to errs. It holds
// appendMu.
func (s *Store) appendPieces(b *writeBatch) {
	if s.closed {
		b.failFrom(0, ErrClosed)
	}
	b.start, b.end = s.log.head, s.log.head
	for i := range b.mutations {
		first := 0
		if i > 0 {
			first = b.ends[i-1]
		}
		for n := first; n < b.ends[i]; n++ {
			if b.errs[i] == nil {
				b.errs[i] = s.place(b, n, b.mutations[i])
			}
			if b.errs[i] != nil {
				s.abandon(&b.pieces[n])
			}
		}
	}
	if err := s.flushBatch(b, len(b.pieces)); err != nil {
		b.failFrom(0, err)
	}
}

func (b *writeBatch) failFrom(first int, err error) {
	for i := first; i < len(b.errs); i++ {
		b.errs[i] = err
	}
}

// abandon gives back the chunks of a piece that was not logged.
func (s *Store) abandon(p *piece) {
	s.mu.Lock()
	s.releaseRef(&p.record)
	s.mu.Unlock()
}

// releaseRef gives back the chunks of a reference that never counted. It holds mu.
func (s *Store) releaseRef(r *record) {
	if r.kind != recRef {
		return
	}
	for c := range r.blocks / chunkBlocks {
		s.alloc.release(r.phys + uint32(c))
	}
}

// plan cuts a mutation into pieces: whole aligned chunks of data are written to
// the image here, before any lock; partial blocks at the edges are to be merged.
func (s *Store) plan(b *writeBatch, r *Request) {
	off, end := r.Off, r.Off+r.Len
	data := r.Data
	cut := func(n int64) []byte {
		if r.Op != OpWrite {
			return nil
		}
		p := data[:n]
		data = data[n:]
		return p
	}
	if rest := off % BlockSize; rest != 0 {
		n := min(BlockSize-rest, end-off)
		b.planMerge(off-rest, int(rest), int(n), cut(n))
		off += n
	}
	whole := (end - off) / BlockSize * BlockSize
	if whole > 0 {
		switch {
		case r.Op == OpWrite:
			s.planData(b, off, cut(whole))
		case r.Op == OpWriteZeroes && r.Flags&NoHole != 0:
			s.planNoHole(b, off, whole)
		default:
			b.planZero(off, whole)
		}
		off += whole
	}
	if off < end {
		b.planMerge(off, 0, int(end-off), cut(end-off))
	}
}

// zeroBytes bounds a trim's entry, and so the map pages that it dirties at once.
const zeroBytes = 1 << 30

func (b *writeBatch) planZero(off, n int64) {
	for n > 0 {
		part := min(n, zeroBytes-off%zeroBytes)
		b.pieces = append(b.pieces, piece{record: record{kind: recZero, off: off, len: part}})
		off, n = off+part, n-part
	}
}

func (b *writeBatch) planMerge(block int64, at, n int, data []byte) {
	b.pieces = append(b.pieces, piece{
		record: record{kind: recData, blocks: 1, off: block, len: BlockSize},
		data:   data, merge: true, mergeAt: at, mergeLen: n,
	})
}

// planData cuts aligned blocks into a head for the log, whole chunks for the
// image, and a tail for the log.
func (s *Store) planData(b *writeBatch, off int64, data []byte) {
	first := (off + chunkBytes - 1) / chunkBytes * chunkBytes
	last := (off + int64(len(data))) / chunkBytes * chunkBytes
	if first >= last {
		s.planLog(b, off, data)
		return
	}
	s.planLog(b, off, data[:first-off])
	if done := s.writeChunks(b, first, data[first-off:last-off]); done < last-first {
		s.planLog(b, first+done, data[first+done-off:last-off]) // the disk is full: let the log hold it
	}
	s.planLog(b, last, data[last-off:])
}

// planLog makes data entries that fit into the log.
func (s *Store) planLog(b *writeBatch, off int64, data []byte) {
	for len(data) > 0 {
		n := min(len(data), s.log.maxData())
		b.pieces = append(b.pieces, piece{
			record: record{kind: recData, blocks: n / BlockSize, off: off, len: int64(n)},
			data:   data[:n], crc: s.sums(b, data[:n]),
		})
		off, data = off+int64(n), data[n:]
	}
}

// sums computes the checksum of each block.
func (s *Store) sums(b *writeBatch, data []byte) []uint32 {
	first := len(b.crcs)
	for ; len(data) > 0; data = data[BlockSize:] {
		sum := uint32(0)
		if !s.o.NoChecksums {
			sum = checksum(data[:BlockSize])
		}
		b.crcs = append(b.crcs, sum)
	}
	return b.crcs[first:len(b.crcs):len(b.crcs)]
}

// writeChunks writes whole chunks to fresh places in the image and plans a
// reference to each run. It returns how many bytes it placed: fewer than all
// when the file system is full.
func (s *Store) writeChunks(b *writeBatch, off int64, data []byte) (done int64) {
	for done < int64(len(data)) {
		rest := data[done:]
		phys, n := s.takeChunks(min(len(rest)/chunkBytes, recMaxBlocks/chunkBlocks))
		run := rest[:n*chunkBytes]
		p := piece{record: record{kind: recRef, blocks: n * chunkBlocks, off: off + done, len: int64(len(run)), phys: phys}}
		err := s.useImage(p.off, func() (err error) {
			p.crc, err = s.writeRun(b, run, chunkOffset(phys))
			return err
		})
		if err != nil {
			s.abandon(&p)
			if !isFull(err) {
				s.fail(err)
			}
			return done
		}
		s.imageDirty.Store(true) // before the entry is in the log: a flush that covers it syncs the image
		s.counters.imageBytes.Add(int64(len(run)))
		b.pieces = append(b.pieces, p)
		done += int64(len(run))
	}
	return done
}

// writeRun writes to the image, and computes the checksum of each block while it
// is in the processor's cache.
func (s *Store) writeRun(b *writeBatch, run []byte, at int64) (crc []uint32, err error) {
	first := len(b.crcs)
	for done := 0; done < len(run); done += cacheStep {
		part := run[done:min(done+cacheStep, len(run))]
		s.sums(b, part)
		if _, err := s.image.WriteAt(part, at+int64(done)); err != nil {
			return nil, err
		}
	}
	return b.crcs[first:len(b.crcs):len(b.crcs)], nil
}

// planNoHole plans a zeroed range that keeps its space: fresh, allocated chunks,
// and zeros through the log at the edges.
func (s *Store) planNoHole(b *writeBatch, off, n int64) {
	end := off + n
	first := min((off+chunkBytes-1)/chunkBytes*chunkBytes, end)
	last := max(end/chunkBytes*chunkBytes, first)
	zero := func(from, to int64) {
		if from < to {
			b.pieces = append(b.pieces, piece{record: record{kind: recZero, flags: flagZeroed, off: from, len: to - from}})
		}
	}
	zero(off, first)
	for first < last {
		phys, got := s.takeChunks(int(min((last-first)/chunkBytes, refMaxChunks)))
		p := piece{record: record{
			kind: recRef, flags: flagZeroed, blocks: got * chunkBlocks, off: first, len: int64(got) * chunkBytes, phys: phys,
		}}
		if err := s.useImage(p.off, func() error { return s.image.Allocate(chunkOffset(phys), p.len) }); err != nil {
			s.abandon(&p)
			if !isFull(err) {
				s.fail(err)
			}
			zero(first, last) // no space to keep: a hole is all there can be
			break
		}
		b.pieces = append(b.pieces, p)
		first += p.len
	}
	s.imageDirty.Store(true)
	zero(last, end)
}

// useImage calls f, which uses the image for the chunk at off of the volume,
// unless the store has failed. The stripe keeps the file open.
func (s *Store) useImage(off int64, f func() error) error {
	stripe := &s.stripes[off/chunkBytes%stripes]
	stripe.RLock()
	defer stripe.RUnlock()
	if err := s.failed(); err != nil {
		return err
	}
	return f()
}

func (s *Store) takeChunks(n int) (first uint32, got int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alloc.take(n)
}

// isFull tells errors that mean: no space.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

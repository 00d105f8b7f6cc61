package blockdev

import (
	"fmt"
	"sync"

	"blkd/internal/env"
)

// readPlan is where the bytes of one read lie.
type readPlan struct {
	segs []readSegment
	crcs []uint32
}

// readSegment is a run of blocks that lie together.
type readSegment struct {
	file    env.File // nil: zeros
	name    string
	fileOff int64
	at, n   int // in the buffer
	crc     int // first checksum in readPlan.crcs
}

var readPlans = sync.Pool{New: func() any { return new(readPlan) }}

// read fills p from off, verified. The range lies within the volume, rounded up
// to whole blocks.
func (s *Store) read(p []byte, off int64) error {
	if off%BlockSize != 0 || len(p)%BlockSize != 0 {
		return s.readUnaligned(p, off)
	}
	for len(p) > 0 {
		// One stripe per chunk: no stripe is taken twice.
		window := (off/chunkBytes+stripes)*chunkBytes - off
		n := min(int64(len(p)), window)
		if err := s.readWindow(p[:n], off); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// readUnaligned reads whole blocks straight into p, and the edges by way of a
// block of their own.
func (s *Store) readUnaligned(p []byte, off int64) error {
	block := blockPool.Get().(*[BlockSize]byte)
	defer blockPool.Put(block)
	for len(p) > 0 {
		rest := int(off % BlockSize)
		n := len(p) / BlockSize * BlockSize
		if rest == 0 && n > 0 {
			if err := s.read(p[:n], off); err != nil {
				return err
			}
		} else {
			if err := s.read(block[:], off-int64(rest)); err != nil {
				return err
			}
			n = copy(p, block[rest:])
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// ReadCommitted fills p from off with committed content, verified: what OpRead
// does, without a request, and without an allocation. The range may reach to the
// end of the volume's last block. It is safe on any goroutine.
func (s *Store) ReadCommitted(p []byte, off int64) error {
	limit := (s.size.Load() + BlockSize - 1) / BlockSize * BlockSize
	if off < 0 || off > limit || int64(len(p)) > limit-off {
		return &RangeError{Op: OpRead, Off: off, Len: int64(len(p)), Size: s.size.Load()}
	}
	s.counters.reads.Add(1)
	s.counters.readBytes.Add(int64(len(p)))
	return s.read(p, off)
}

// readWindow reads at most stripes chunks. While it holds their stripes nothing
// is poured over what it found, and the log it points to is not reused.
func (s *Store) readWindow(p []byte, off int64) error {
	first, last := off/chunkBytes, (off+int64(len(p))-1)/chunkBytes
	for c := first; c <= last; c++ {
		s.stripes[c%stripes].RLock()
	}
	plan := readPlans.Get().(*readPlan)
	err := s.failed() // the files may be closed
	if err == nil {
		err = s.planRead(plan, off/BlockSize, (off+int64(len(p)))/BlockSize)
	}
	if err == nil {
		err = s.execute(plan, p, off)
	}
	clear(plan.segs)
	plan.segs, plan.crcs = plan.segs[:0], plan.crcs[:0]
	readPlans.Put(plan)
	for c := first; c <= last; c++ {
		s.stripes[c%stripes].RUnlock()
	}
	return err
}

// planRead looks up every block of [first, last).
func (s *Store) planRead(plan *readPlan, first, last int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.needPages(first/pageBlocks, (last-1)/pageBlocks); err != nil {
		return fmt.Errorf("volume %s: %w", s.o.Volume, err)
	}
	for b := first; b < last; b++ {
		at := int(b-first) * BlockSize
		if l, ok := s.over.get(b); ok {
			if l.pos == 0 {
				plan.add(nil, "", 0, at, 0)
			} else {
				plan.add(s.log.f, s.log.name, s.log.offset(l.pos), at, l.crc)
			}
			continue
		}
		p := s.maps.get(b / pageBlocks)
		if p == nil {
			plan.add(nil, "", 0, at, 0)
			continue
		}
		e := p.entry(int(b % pageBlocks / chunkBlocks))
		if i := int(b % chunkBlocks); e.has(i) {
			plan.add(s.image, imageFile, chunkOffset(e.phys()-1)+int64(i)*BlockSize, at, e.crc(i))
		} else {
			plan.add(nil, "", 0, at, 0)
		}
	}
	return nil
}

// add appends a block, to the last segment if it follows it on disk.
func (plan *readPlan) add(f env.File, name string, fileOff int64, at int, crc uint32) {
	plan.crcs = append(plan.crcs, crc)
	if n := len(plan.segs); n > 0 {
		l := &plan.segs[n-1]
		if l.file == f && (f == nil || l.fileOff+int64(l.n) == fileOff) {
			l.n += BlockSize
			return
		}
	}
	plan.segs = append(plan.segs, readSegment{file: f, name: name, fileOff: fileOff, at: at, n: BlockSize, crc: len(plan.crcs) - 1})
}

// cacheStep is how many bytes are copied and checksummed at a time: what fits the
// processor's cache is summed at a third of the price.
const cacheStep = 128 << 10

// execute reads the segments and verifies each block.
func (s *Store) execute(plan *readPlan, p []byte, off int64) error {
	for i := range plan.segs {
		g := &plan.segs[i]
		if g.file == nil {
			clear(p[g.at : g.at+g.n])
			continue
		}
		for done := 0; done < g.n; done += cacheStep {
			n := min(cacheStep, g.n-done)
			part := readSegment{g.file, g.name, g.fileOff + int64(done), g.at + done, n, g.crc + done/BlockSize}
			if err := s.readVerified(&part, plan.crcs, p[part.at:part.at+n], off+int64(part.at)); err != nil {
				return err
			}
		}
	}
	return nil
}

// readVerified reads one piece, which lies at off in the volume.
func (s *Store) readVerified(g *readSegment, crcs []uint32, buf []byte, off int64) error {
	if _, err := g.file.ReadAt(buf, g.fileOff); err != nil {
		return fmt.Errorf("volume %s: %w: read at offset %d: %w", s.o.Volume, ErrIO, off, err)
	}
	if s.o.NoChecksums {
		return nil
	}
	for n := 0; n < g.n; n += BlockSize {
		want := crcs[g.crc+n/BlockSize]
		if got := checksum(buf[n : n+BlockSize]); got != want {
			return s.badBlock(off+int64(n), g.name, g.fileOff+int64(n), want, got)
		}
	}
	return nil
}

func (s *Store) badBlock(off int64, file string, fileOff int64, want, got uint32) error {
	e := &ChecksumError{Volume: s.o.Volume, Off: off, File: s.file(file), FileOff: fileOff, Want: want, Got: got}
	s.counters.badBlocks.Add(1)
	if s.o.Events.BadBlock != nil {
		s.o.Events.BadBlock(e)
	}
	return e
}

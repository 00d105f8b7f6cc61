package blockdev

import (
	"context"
	"errors"
	"fmt"
)

// Extents implements Device. Holes are reported by chunk, zeros by block.
func (s *Store) Extents(off, n int64, emit func(Extent) bool) error {
	if err := s.failed(); err != nil {
		return err
	}
	if err := CheckExtents(off, n, s.size.Load()); err != nil {
		return err
	}
	m := extentMerger{end: off + n, emit: emit, cur: Extent{Off: off}}
	first, last := off/BlockSize, (off+n+BlockSize-1)/BlockSize
	for region := first / pageBlocks; region*pageBlocks < last && !m.done; region++ {
		if err := s.regionExtents(region, max(first, region*pageBlocks), min(last, (region+1)*pageBlocks), &m); err != nil {
			return err
		}
	}
	m.flush()
	return nil
}

// extentMerger joins blocks into extents.
type extentMerger struct {
	cur  Extent
	end  int64
	emit func(Extent) bool
	done bool
}

// add appends the blocks up to end (bytes).
func (m *extentMerger) add(end int64, hole, zero bool) {
	if end = min(end, m.end); m.done || end <= m.cur.Off+m.cur.Len {
		return
	}
	if m.cur.Len > 0 && (m.cur.Hole != hole || m.cur.Zero != zero) {
		next := m.cur.Off + m.cur.Len
		m.flush()
		m.cur = Extent{Off: next}
	}
	m.cur.Hole, m.cur.Zero = hole, zero
	m.cur.Len = end - m.cur.Off
}

func (m *extentMerger) flush() {
	if m.cur.Len > 0 && !m.done {
		m.done = !m.emit(m.cur)
	}
}

// regionExtents walks the blocks [first, last) of one map page.
func (s *Store) regionExtents(region, first, last int64, m *extentMerger) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.needPage(region); err != nil {
		return fmt.Errorf("volume %s: %w", s.o.Volume, err)
	}
	p := s.maps.get(region)
	if p == nil && s.over.count[region] == 0 {
		m.add(last*BlockSize, true, true)
		return nil
	}
	for b := first; b < last && !m.done; b++ {
		hole, zero := s.blockKind(p, b)
		m.add((b+1)*BlockSize, hole, zero)
	}
	return nil
}

func (s *Store) blockKind(p *page, b int64) (hole, zero bool) {
	if l, ok := s.over.get(b); ok {
		return l == loc{crc: 1}, l.pos == 0
	}
	if p == nil {
		return true, true
	}
	e := p.entry(int(b % pageBlocks / chunkBlocks))
	return e.phys() == 0, !e.has(int(b % chunkBlocks))
}

// VerifyReport is the result of Verify.
type VerifyReport struct {
	Checked  int64            // bytes read and verified
	Bad      []*ChecksumError // in order; at most MaxBadReported
	BadTotal int64            // blocks that failed, or could not be read
}

// MaxBadReported bounds VerifyReport.Bad.
const MaxBadReported = 1000

// Verify reads every block that holds data and checks it against its checksum
// (scrub). Progress, if not nil, is called with bytes of volume done and in all.
// Writes go on meanwhile. A bad block is not an error of Verify.
func (s *Store) Verify(ctx context.Context, progress func(done, total int64)) (VerifyReport, error) {
	const step = 64 << 20
	var report VerifyReport
	buf := make([]byte, min(verifyRead, (s.size.Load()+BlockSize-1)/BlockSize*BlockSize))
	for off := int64(0); off < s.size.Load(); off += step {
		size := s.size.Load()
		var extents []Extent
		err := s.Extents(off, min(step, size-off), func(e Extent) bool {
			extents = append(extents, e)
			return true
		})
		for i := 0; err == nil && i < len(extents); i++ {
			err = s.verifyExtent(ctx, extents[i], buf, &report)
		}
		if err != nil {
			return report, err
		}
		if progress != nil {
			progress(min(off+step, size), size)
		}
	}
	return report, nil
}

// verifyRead is how much Verify reads at once, bytes.
const verifyRead = 1 << 20

// verifyExtent reads it piece by piece.
func (s *Store) verifyExtent(ctx context.Context, e Extent, buf []byte, report *VerifyReport) error {
	if err := ctx.Err(); err != nil || e.Zero {
		return err
	}
	report.Checked += e.Len
	end := (e.Off + e.Len + BlockSize - 1) / BlockSize * BlockSize
	for off := e.Off; off < end; off += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.verifyPiece(off, buf[:min(int64(len(buf)), end-off)], report); err != nil {
			return err
		}
	}
	return nil
}

// verifyPiece reads it as a whole, and block by block if that fails.
func (s *Store) verifyPiece(at int64, buf []byte, report *VerifyReport) error {
	if s.read(buf, at) == nil {
		return nil
	}
	for off := at; off < at+int64(len(buf)); off += BlockSize {
		err := s.read(buf[:BlockSize], off)
		if err == nil {
			continue
		}
		if failed := s.failed(); failed != nil {
			return failed
		}
		report.BadTotal++
		var bad *ChecksumError
		if !errors.As(err, &bad) {
			bad = &ChecksumError{Volume: s.o.Volume, Off: off, File: err.Error()}
		}
		if len(report.Bad) < MaxBadReported {
			report.Bad = append(report.Bad, bad)
		}
	}
	return nil
}

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
	v := verifier{s: s, ctx: ctx, progress: progress, buf: make([]byte, min(verifyRead, (s.size.Load()+BlockSize-1)/BlockSize*BlockSize))}
	for off := int64(0); off < s.size.Load(); off += step {
		var extents []Extent
		err := s.Extents(off, min(step, s.size.Load()-off), func(e Extent) bool {
			extents = append(extents, e)
			return true
		})
		for i := 0; err == nil && i < len(extents); i++ {
			err = v.extent(extents[i])
		}
		if err != nil {
			return v.report, err
		}
	}
	return v.report, nil
}

// verifier is one run of Verify.
type verifier struct {
	s        *Store
	ctx      context.Context
	progress func(done, total int64)
	buf      []byte
	report   VerifyReport
}

// verifyRead is how much Verify reads at once, bytes.
const verifyRead = 1 << 20

// extent reads an extent piece by piece.
func (v *verifier) extent(e Extent) error {
	end := e.Off + e.Len
	if e.Zero {
		return v.passed(end)
	}
	v.report.Checked += e.Len
	last := (end + BlockSize - 1) / BlockSize * BlockSize
	for off := e.Off; off < last; off += int64(len(v.buf)) {
		n := min(int64(len(v.buf)), last-off)
		if err := v.piece(off, v.buf[:n]); err != nil {
			return err
		}
		if err := v.passed(min(off+n, end)); err != nil {
			return err
		}
	}
	return nil
}

// passed reports progress, and whether to stop.
func (v *verifier) passed(off int64) error {
	if v.progress != nil {
		v.progress(off, v.s.size.Load())
	}
	return v.ctx.Err()
}

// piece reads it as a whole, and block by block if that fails.
func (v *verifier) piece(at int64, buf []byte) error {
	s, report := v.s, &v.report
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

package devicetest

import (
	"math/rand/v2"
	"testing"

	"blkd/blockdev"
)

// testModel compares random batches with a plain slice of bytes.
func testModel(t *testing.T, d blockdev.Device) {
	const seed, batches = 31, 800
	m := &model{t: t, d: d, r: rand.New(rand.NewPCG(seed, 0)), want: make([]byte, d.Size())}
	for step := range batches {
		m.step(step)
		if t.Failed() {
			t.Fatalf("seed %d, batch %d", seed, step)
		}
	}
	expect(t, d, m.want, 0)
}

type model struct {
	t    *testing.T
	d    blockdev.Device
	r    *rand.Rand
	want []byte
	n    uint64 // requests so far
}

// span draws a range: mostly small, often aligned, in a few hot places or
// anywhere, sometimes at the end.
func (m *model) span() (off, n int64) {
	size := int64(len(m.want))
	n = 1 + m.r.Int64N([...]int64{512, 4096, 16 << 10, 300 << 10}[m.r.IntN(4)])
	switch m.r.IntN(8) {
	case 0:
		off = m.r.Int64N(size)
	case 1:
		off = size - n
	default:
		off = m.r.Int64N(8)*(1<<20) + m.r.Int64N(64<<10)
	}
	switch m.r.IntN(3) {
	case 0:
		off, n = off&^4095, (n+4095)&^4095
	case 1:
		off, n = off&^511, (n+511)&^511
	}
	return off, min(n, size-off)
}

// step submits a batch of mutations, then one of reads.
func (m *model) step(step int) {
	batch := make([]*blockdev.Request, 1+m.r.IntN(6))
	for i := range batch {
		batch[i] = m.mutation()
	}
	ok(m.t, m.d, batch...)
	reads := make([]*blockdev.Request, 1+m.r.IntN(4))
	for i := range reads {
		off, n := m.span()
		reads[i] = newRead(n, off)
	}
	ok(m.t, m.d, reads...)
	for _, r := range reads {
		if at := differ(r.Data, m.want[r.Off:r.Off+r.Len]); at >= 0 {
			m.t.Errorf("%s: wrong from byte %d on", describe(r), r.Off+int64(at))
		}
	}
}

// mutation draws a request and does it to the model.
func (m *model) mutation() *blockdev.Request {
	m.n++
	off, n := m.span()
	var flags blockdev.Flags
	if m.r.IntN(10) == 0 {
		flags = blockdev.FUA
	}
	switch m.r.IntN(10) {
	case 0:
		clear(m.want[off : off+n])
		return newRange(blockdev.OpTrim, flags, off, n)
	case 1:
		clear(m.want[off : off+n])
		if m.r.IntN(2) == 0 {
			flags |= blockdev.NoHole
		}
		return newRange(blockdev.OpWriteZeroes, flags, off, n)
	case 2:
		if m.r.IntN(4) == 0 {
			return newRange(blockdev.OpFlush, 0, 0, 0)
		}
	}
	p := pattern(m.n, n)
	if m.r.IntN(8) == 0 {
		clear(p) // zeros as data
	}
	copy(m.want[off:], p)
	r := newWrite(p, off)
	r.Flags = flags
	return r
}

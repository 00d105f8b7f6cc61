package blockdev

import (
	"sync"
	"sync/atomic"
)

const (
	memChunk   = 64 << 10 // allocation unit of a Memory device, bytes
	memStripes = 64       // chunk locks
)

// Memory is a thin RAM disk: space is taken on first write and given back by
// Trim, in units of 64 KiB. Nothing survives the process, so Flush is free.
type Memory struct {
	size    int64
	closed  atomic.Bool
	chunks  []*[memChunk]byte
	stripes [memStripes]struct {
		sync.RWMutex
		_ [40]byte // one lock per cache line
	}
}

// NewMemory makes a device of size bytes that reads as zeros.
func NewMemory(size int64) *Memory {
	return &Memory{size: size, chunks: make([]*[memChunk]byte, (size+memChunk-1)/memChunk)}
}

// Size is the length in bytes; it never changes.
func (m *Memory) Size() int64 { return m.size }

// ReadOnly is false.
func (m *Memory) ReadOnly() bool { return false }

// Submit serves every request before it returns.
func (m *Memory) Submit(batch []*Request) {
	for _, r := range batch {
		r.Finish(m.serve(r))
	}
}

func (m *Memory) serve(r *Request) error {
	if m.closed.Load() {
		return ErrClosed
	}
	if err := r.Check(m.size, false); err != nil {
		return err
	}
	switch r.Op {
	case OpRead:
		m.each(r.Off, r.Len, func(c int64, lo, hi int, at int64) { m.read(c, r.Data[at:at+int64(hi-lo)], lo) })
	case OpWrite:
		m.each(r.Off, r.Len, func(c int64, lo, hi int, at int64) { m.write(c, r.Data[at:at+int64(hi-lo)], lo) })
	case OpTrim, OpWriteZeroes:
		keep := r.Op == OpWriteZeroes && r.Flags&NoHole != 0
		m.each(r.Off, r.Len, func(c int64, lo, hi int, _ int64) { m.zero(c, lo, hi, keep) })
	}
	return nil
}

// each splits a range at chunk borders; at is the offset from the range's start.
func (m *Memory) each(off, n int64, f func(chunk int64, lo, hi int, at int64)) {
	for at := int64(0); at < n; {
		lo := int((off + at) % memChunk)
		hi := int(min(memChunk, int64(lo)+n-at))
		f((off+at)/memChunk, lo, hi, at)
		at += int64(hi - lo)
	}
}

func (m *Memory) read(chunk int64, p []byte, lo int) {
	s := &m.stripes[chunk%memStripes]
	s.RLock()
	defer s.RUnlock()
	if c := m.chunks[chunk]; c != nil {
		copy(p, c[lo:])
	} else {
		clear(p)
	}
}

func (m *Memory) write(chunk int64, p []byte, lo int) {
	s := &m.stripes[chunk%memStripes]
	s.Lock()
	defer s.Unlock()
	if m.chunks[chunk] == nil {
		m.chunks[chunk] = new([memChunk]byte)
	}
	copy(m.chunks[chunk][lo:], p)
}

func (m *Memory) zero(chunk int64, lo, hi int, keep bool) {
	s := &m.stripes[chunk%memStripes]
	s.Lock()
	defer s.Unlock()
	whole := lo == 0 && int64(hi) == min(memChunk, m.size-chunk*memChunk)
	switch {
	case whole && !keep:
		m.chunks[chunk] = nil
	case m.chunks[chunk] != nil:
		clear(m.chunks[chunk][lo:hi])
	case keep:
		m.chunks[chunk] = new([memChunk]byte)
	}
}

// Extents reports holes by chunk.
func (m *Memory) Extents(off, n int64, emit func(Extent) bool) error {
	if m.closed.Load() {
		return ErrClosed
	}
	if err := CheckExtents(off, n, m.size); err != nil {
		return err
	}
	for end := off + n; off < end; {
		chunk := off / memChunk
		s := &m.stripes[chunk%memStripes]
		s.RLock()
		hole := m.chunks[chunk] == nil
		s.RUnlock()
		stop := min((chunk+1)*memChunk, end)
		if !emit(Extent{Off: off, Len: stop - off, Hole: hole, Zero: hole}) {
			return nil
		}
		off = stop
	}
	return nil
}

// Close drops the contents.
func (m *Memory) Close() error {
	m.closed.Store(true)
	return nil
}

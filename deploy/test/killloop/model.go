package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
)

const (
	sectorSize = 512
	volumeSize = 64 << 20
)

// version names one mutation; 0 is the state before the first one. A version with
// zeroed set left zeros.
type version uint64

const zeroed version = 1 << 63

// model knows what every sector must hold. Each sector is changed by one writer only,
// and read by check when there are none.
type model struct {
	seed    uint64
	acked   []version // last acknowledged mutation
	pending []version // mutation in flight, or 0
	last    atomic.Uint64
}

func newModel(size int64, seed uint64) *model {
	n := size / sectorSize
	return &model{seed: seed, acked: make([]version, n), pending: make([]version, n)}
}

// next mints a version.
func (m *model) next(zero bool) version {
	v := version(m.last.Add(1))
	if zero {
		v |= zeroed
	}
	return v
}

// begin records that sectors [from, from+n) are being changed.
func (m *model) begin(from, n int64, v version) {
	for s := from; s < from+n; s++ {
		m.pending[s] = v
	}
}

// done records that the change was acknowledged.
func (m *model) done(from, n int64, v version) {
	for s := from; s < from+n; s++ {
		m.acked[s], m.pending[s] = v, 0
	}
}

// content fills p, one sector long, with what version v leaves in a sector: its version
// and number, then noise that depends on both.
func (m *model) content(p []byte, sector int64, v version) {
	if v == 0 || v&zeroed != 0 {
		clear(p)
		return
	}
	binary.LittleEndian.PutUint64(p, uint64(v))
	binary.LittleEndian.PutUint64(p[8:], uint64(sector))
	noise := rand.NewPCG(m.seed^uint64(v), uint64(sector))
	for i := 16; i < sectorSize; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], noise.Uint64())
	}
}

// settle compares a sector with what it may hold and makes what it holds the
// acknowledged state. It tells whether a mutation had been in flight.
func (m *model) settle(sector int64, got []byte) (inFlight bool, err error) {
	var want [sectorSize]byte
	m.content(want[:], sector, m.acked[sector])
	pending := m.pending[sector]
	if bytes.Equal(got, want[:]) {
		m.pending[sector] = 0
		return pending != 0, nil
	}
	if pending != 0 {
		m.content(want[:], sector, pending)
		if bytes.Equal(got, want[:]) {
			m.acked[sector], m.pending[sector] = pending, 0
			return true, nil
		}
	}
	return false, fmt.Errorf("sector %d (offset %d) holds %s; acknowledged is %s, in flight was %s",
		sector, sector*sectorSize, m.describe(sector, got), m.acked[sector], pending)
}

// describe says what an unexpected sector is, as far as its content tells.
func (m *model) describe(sector int64, got []byte) string {
	v, s := version(binary.LittleEndian.Uint64(got)), int64(binary.LittleEndian.Uint64(got[8:]))
	var want [sectorSize]byte
	switch {
	case bytes.Equal(got, want[:]):
		return "zeros"
	case s < 0 || s >= int64(len(m.acked)) || v > version(m.last.Load()):
		return fmt.Sprintf("bytes nobody wrote (%x…)", got[:32])
	}
	m.content(want[:], s, v)
	what := v.String()
	if !bytes.Equal(got, want[:]) {
		what += ", damaged"
	}
	if s != sector {
		what += fmt.Sprintf(", of sector %d", s)
	}
	return what
}

func (v version) String() string {
	switch {
	case v == 0:
		return "nothing"
	case v&zeroed != 0:
		return fmt.Sprintf("version %d (zeros)", uint64(v&^zeroed))
	}
	return fmt.Sprintf("version %d", uint64(v))
}

// Package devicetest is the conformance suite for [blockdev.Device]: what the
// interface promises, as tests. Every device of this module runs it, and a new
// one should before anything else is built on it:
//
//	func TestDevice(t *testing.T) {
//		devicetest.Run(t, func(t *testing.T) blockdev.Device {
//			d := NewMyDevice(64 << 20)
//			t.Cleanup(func() { d.Close() })
//			return d
//		})
//	}
//
// open is called once per test. It returns a device that is writable, reads as
// zeros, and has MinSize bytes or more; about 48 MiB is a good size. The suite
// closes some of the devices itself, so the clean-up must bear a second Close.
// A device that is or can be read-only runs [RunReadOnly] as well.
//
// What survives a crash is not tested here: that needs a device's own idea of a
// crash.
package devicetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"blkd/blockdev"
)

// MinSize is the smallest device, in bytes, that the suite can test.
const MinSize = 16 << 20

// Open makes a fresh device for one test.
type Open func(t *testing.T) blockdev.Device

// Run runs every test of a writable device.
func Run(t *testing.T, open func(t *testing.T) blockdev.Device) {
	for _, c := range []struct {
		name string
		test func(*testing.T, blockdev.Device)
	}{
		{"Geometry", testGeometry},
		{"Unaligned", testUnaligned},
		{"ZeroLength", testZeroLength},
		{"OutOfRange", testOutOfRange},
		{"Invalid", testInvalid},
		{"BatchOrder", testBatchOrder},
		{"BatchOfGoodAndBad", testBatchOfGoodAndBad},
		{"DoneOnce", testDoneOnce},
		{"SubBlock", testSubBlock},
		{"Transfers", testTransfers},
		{"Durability", testDurability},
		{"Cache", testCache},
		{"Zeroing", testZeroing},
		{"ZeroingOdd", testZeroingOdd},
		{"NoHole", testNoHole},
		{"Extents", testExtents},
		{"ExtentsStop", testExtentsStop},
		{"ExtentsRange", testExtentsRange},
		{"Disjoint", testDisjoint},
		{"Overlapping", testOverlapping},
		{"SubSector", testSubSector},
		{"Model", testModel},
		{"Closed", testClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := open(t)
			if d.Size() < MinSize {
				t.Fatalf("the suite needs %d bytes, the device has %d", MinSize, d.Size())
			}
			c.test(t, d)
		})
	}
}

// RunReadOnly tests a device that refuses to change. Its contents do not matter.
func RunReadOnly(t *testing.T, open func(t *testing.T) blockdev.Device) {
	t.Run("ReadOnly", func(t *testing.T) { testReadOnly(t, open(t)) })
}

// submit sends a batch and waits for every request. It overwrites the slice and
// the data of writes as early as the interface lets a caller do so.
func submit(d blockdev.Device, reqs ...*blockdev.Request) {
	var wait sync.WaitGroup
	wait.Add(len(reqs))
	batch := make([]*blockdev.Request, len(reqs))
	for i, r := range reqs {
		batch[i] = r
		r.Done = func(*blockdev.Request) { wait.Done() }
	}
	d.Submit(batch)
	clear(batch)
	wait.Wait()
	for _, r := range reqs {
		if r.Op == blockdev.OpWrite {
			fill(r.Data, 0xdb)
		}
	}
}

func newWrite(p []byte, off int64) *blockdev.Request {
	return &blockdev.Request{Op: blockdev.OpWrite, Off: off, Len: int64(len(p)), Data: bytes.Clone(p)}
}

func newRead(n, off int64) *blockdev.Request {
	r := &blockdev.Request{Op: blockdev.OpRead, Off: off, Len: n, Data: make([]byte, n)}
	fill(r.Data, 0xa5) // a device must overwrite all of it
	return r
}

func newRange(op blockdev.Op, flags blockdev.Flags, off, n int64) *blockdev.Request {
	return &blockdev.Request{Op: op, Flags: flags, Off: off, Len: n}
}

// describe names a request in a failure.
func describe(r *blockdev.Request) string {
	return fmt.Sprintf("%v of %d bytes at %d (flags %d)", r.Op, r.Len, r.Off, r.Flags)
}

// ok submits one batch and fails the test unless all of it succeeds.
func ok(t testing.TB, d blockdev.Device, reqs ...*blockdev.Request) {
	t.Helper()
	submit(d, reqs...)
	for _, r := range reqs {
		if r.Err != nil {
			t.Fatalf("%s: %v", describe(r), r.Err)
		}
	}
}

func write(t testing.TB, d blockdev.Device, p []byte, off int64) {
	t.Helper()
	ok(t, d, newWrite(p, off))
}

func read(t testing.TB, d blockdev.Device, n, off int64) []byte {
	t.Helper()
	r := newRead(n, off)
	ok(t, d, r)
	return r.Data
}

// expect fails unless the device holds want at off.
func expect(t testing.TB, d blockdev.Device, want []byte, off int64) {
	t.Helper()
	for at := 0; at < len(want); at += 1 << 20 {
		part := want[at:min(len(want), at+1<<20)]
		got := read(t, d, int64(len(part)), off+int64(at))
		if i := differ(got, part); i >= 0 {
			t.Fatalf("at %d: %#02x, want %#02x", off+int64(at+i), got[i], part[i])
		}
	}
}

// differ is the first index at which two slices of one length differ, or -1.
func differ(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// noise is what patterns are cut from. Its length divides no size that a device
// works in, so data in the wrong place is always wrong data.
var noise = sync.OnceValue(func() []byte {
	p := make([]byte, 1<<20+1021)
	rand.NewChaCha8([32]byte{}).Read(p)
	return p
})

// pattern makes n bytes of data, different for each seed.
func pattern(seed uint64, n int64) []byte {
	pool := noise()
	p := make([]byte, n)
	from := (seed*0x9e3779b97f4a7c15 + 1) % uint64(len(pool))
	for at := 0; at < len(p); from = 0 {
		at += copy(p[at:], pool[from:])
	}
	return p
}

// fill sets every byte.
func fill(p []byte, b byte) {
	if len(p) > 0 {
		p[0] = b
	}
	for n := 1; n < len(p); n *= 2 {
		copy(p[n:], p[:n])
	}
}

package devicetest

import (
	"errors"
	"math/rand/v2"
	"testing"

	"blkd/blockdev"
)

// zeroings are the ways to make a range read as zeros.
var zeroings = []struct {
	name  string
	op    blockdev.Op
	flags blockdev.Flags
}{
	{"trim", blockdev.OpTrim, 0},
	{"trim FUA", blockdev.OpTrim, blockdev.FUA},
	{"zeroes", blockdev.OpWriteZeroes, 0},
	{"zeroes NoHole", blockdev.OpWriteZeroes, blockdev.NoHole},
	{"zeroes FastZero", blockdev.OpWriteZeroes, blockdev.FastZero},
	{"zeroes FastZero NoHole", blockdev.OpWriteZeroes, blockdev.FastZero | blockdev.NoHole},
	{"zeroes FUA", blockdev.OpWriteZeroes, blockdev.FUA},
}

// zero submits a request that may be refused only if it asked for speed; done
// tells whether it was not.
func zero(t *testing.T, d blockdev.Device, r *blockdev.Request) (done bool) {
	t.Helper()
	submit(d, r)
	if r.Flags&blockdev.FastZero != 0 && errors.Is(r.Err, blockdev.ErrNotSupported) {
		return false
	}
	if r.Err != nil {
		t.Fatalf("%s: %v", describe(r), r.Err)
	}
	return true
}

// testZeroing zeroes large ranges of data and checks both borders.
func testZeroing(t *testing.T, d blockdev.Device) {
	const n = 2 << 20
	for i, z := range zeroings {
		for _, r := range []struct{ off, n int64 }{{256 << 10, 1 << 20}, {4096, 4096}, {0, n}} {
			want := pattern(uint64(i), n)
			base := int64(i) * n
			write(t, d, want, base)
			if zero(t, d, newRange(z.op, z.flags, base+r.off, r.n)) {
				clear(want[r.off : r.off+r.n])
			}
			expect(t, d, want, base)
			p := pattern(99, 5000) // written again, it is data again
			write(t, d, p, base+r.off)
			copy(want[r.off:], p)
			expect(t, d, want, base)
		}
	}
	for _, op := range []blockdev.Op{blockdev.OpTrim, blockdev.OpWriteZeroes} { // beyond MaxTransfer
		write(t, d, pattern(1, 4096), 0)
		write(t, d, pattern(2, 4096), d.Size()-4096)
		ok(t, d, newRange(op, 0, 0, d.Size()))
		expect(t, d, make([]byte, d.Size()), 0)
	}
}

// testZeroingOdd zeroes ranges that no block size divides, over data and holes.
func testZeroingOdd(t *testing.T, d blockdev.Device) {
	const n = 200 << 10
	for i, z := range zeroings {
		base := int64(i) * n
		want := pattern(uint64(i), n)
		clear(want[n/2:])
		write(t, d, want[:n/2], base)
		for _, r := range []struct{ off, n int64 }{
			{1, 1}, {511, 2}, {4095, 4098}, {9000, 70_000}, {n/2 - 5000, 10_000}, {n/2 + 10, 70_001}, {n - 1, 1},
		} {
			if zero(t, d, newRange(z.op, z.flags, base+r.off, r.n)) {
				clear(want[r.off : r.off+r.n])
			}
			expect(t, d, want, base)
		}
	}
}

// testNoHole: zeros that keep their space are no hole.
func testNoHole(t *testing.T, d blockdev.Device) {
	const off, n = 1 << 20, 1 << 20
	write(t, d, pattern(1, n/2), off) // half data, half hole
	ok(t, d, newRange(blockdev.OpWriteZeroes, blockdev.NoHole, off, n))
	expect(t, d, make([]byte, n), off)
	err := d.Extents(off, n, func(e blockdev.Extent) bool {
		if e.Hole {
			t.Errorf("%d bytes at %d are a hole", e.Len, e.Off)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
}

// extents collects and checks what Extents reports: exact cover, in order.
func extents(t *testing.T, d blockdev.Device, off, n int64) []blockdev.Extent {
	t.Helper()
	var list []blockdev.Extent
	at := off
	err := d.Extents(off, n, func(e blockdev.Extent) bool {
		if e.Off != at || e.Len <= 0 {
			t.Fatalf("extents of [%d, %d): %+v at %d", off, off+n, e, at)
		}
		at += e.Len
		list = append(list, e)
		return true
	})
	if err != nil {
		t.Fatalf("extents of [%d, %d): %v", off, off+n, err)
	}
	if at != off+n {
		t.Fatalf("extents of [%d, %d) end at %d", off, off+n, at)
	}
	return list
}

// testExtents compares extents with the data over random changes.
func testExtents(t *testing.T, d blockdev.Device) {
	const area = 8 << 20
	r := rand.New(rand.NewPCG(11, 0))
	want := make([]byte, area)
	for step := range 60 {
		off, n := r.Int64N(area-300_000), 1+r.Int64N(300_000)
		if r.IntN(2) == 0 {
			off, n = off&^4095, (n+4095)&^4095
		}
		switch r.IntN(4) {
		case 0:
			ok(t, d, newRange(blockdev.OpTrim, 0, off, n))
			clear(want[off : off+n])
		case 1:
			ok(t, d, newRange(blockdev.OpWriteZeroes, 0, off, n))
			clear(want[off : off+n])
		default:
			p := pattern(uint64(step), n)
			write(t, d, p, off)
			copy(want[off:], p)
		}
		if step%10 == 9 {
			ok(t, d, newRange(blockdev.OpFlush, 0, 0, 0))
		}
		off = r.Int64N(area - 1)
		n = 1 + r.Int64N(area-off)
		for _, e := range extents(t, d, off, n) {
			if i := firstByte(want[e.Off : e.Off+e.Len]); e.Zero && i >= 0 {
				t.Fatalf("step %d: %+v, but the byte at %d is not zero", step, e, e.Off+int64(i))
			}
		}
	}
	extents(t, d, 0, d.Size())
	extents(t, d, d.Size()-1, 1)
	extents(t, d, d.Size()-512, 512)
}

var zeros [4096]byte

// firstByte is the index of the first byte that is not zero, or -1.
func firstByte(p []byte) int {
	for at := 0; at < len(p); at += len(zeros) {
		part := p[at:min(len(p), at+len(zeros))]
		if i := differ(part, zeros[:len(part)]); i >= 0 {
			return at + i
		}
	}
	return -1
}

func testExtentsStop(t *testing.T, d blockdev.Device) {
	for i := range int64(8) {
		write(t, d, pattern(uint64(i), 64<<10), i*256<<10)
	}
	total := len(extents(t, d, 0, d.Size())) // a device that cannot tell reports one
	for stop := 1; stop <= min(4, total); stop++ {
		calls := 0
		err := d.Extents(0, d.Size(), func(blockdev.Extent) bool {
			calls++
			return calls < stop
		})
		if err != nil || calls != stop {
			t.Errorf("told to stop at extent %d, got %d, %v", stop, calls, err)
		}
	}
}

func testExtentsRange(t *testing.T, d blockdev.Device) {
	for _, r := range []struct{ off, n int64 }{{0, d.Size() + 1}, {d.Size(), 1}, {-1, 10}, {0, 0}, {10, -1}, {1 << 62, 1 << 62}} {
		err := d.Extents(r.off, r.n, func(e blockdev.Extent) bool {
			t.Errorf("extents of %d bytes at %d: %+v", r.n, r.off, e)
			return false
		})
		if !errors.Is(err, blockdev.ErrRange) {
			t.Errorf("extents of %d bytes at %d: %v, want %v", r.n, r.off, err, blockdev.ErrRange)
		}
	}
}

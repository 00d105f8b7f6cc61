package devicetest

import (
	"bytes"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"blkd/blockdev"
)

func testGeometry(t *testing.T, d blockdev.Device) {
	if d.Size()%512 != 0 {
		t.Errorf("a size of %d bytes is no multiple of 512", d.Size())
	}
	if d.ReadOnly() {
		t.Error("the device is read-only")
	}
	expect(t, d, make([]byte, d.Size()), 0)
}

// testUnaligned writes at every kind of border and checks the neighbours.
func testUnaligned(t *testing.T, d blockdev.Device) {
	const around = 5000
	borders := []int64{0, 512, 4096, 64 << 10, 128<<10 - 512, 1 << 20, 8 << 20, d.Size()}
	lengths := []int64{1, 511, 512, 513, 4095, 4096, 4097, 8192, 12289}
	seed := uint64(0)
	for _, border := range borders {
		for _, shift := range []int64{-12289, -4097, -513, -512, -1, 0, 1, 511} {
			for _, n := range lengths {
				off := border + shift
				if off < 0 || off+n > d.Size() {
					continue
				}
				seed++
				lo, hi := max(0, off-around), min(d.Size(), off+n+around)
				before := read(t, d, hi-lo, lo)
				p := pattern(seed, n)
				write(t, d, p, off)
				copy(before[off-lo:], p)
				expect(t, d, before, lo)
				expect(t, d, p, off)
			}
		}
	}
}

func testZeroLength(t *testing.T, d blockdev.Device) {
	p := pattern(1, 8192)
	write(t, d, p, 4096)
	for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite, blockdev.OpTrim, blockdev.OpWriteZeroes, blockdev.OpCache} {
		for _, off := range []int64{0, 5000, 8192, d.Size()} {
			ok(t, d, newRange(op, 0, off, 0))
		}
	}
	expect(t, d, p, 4096)
}

func testOutOfRange(t *testing.T, d blockdev.Device) {
	size := d.Size()
	p := pattern(2, 4096)
	write(t, d, p, size-4096)
	for _, r := range []struct{ off, n int64 }{
		{size, 1}, {size - 1, 2}, {size - 4096, 8192}, {size + 4096, 4096},
		{-1, 1}, {-4096, 8192}, {math.MaxInt64, 1}, {math.MaxInt64 - 100, 4096}, {math.MinInt64, 512},
	} {
		for _, req := range []*blockdev.Request{
			newRead(r.n, r.off), newWrite(make([]byte, r.n), r.off),
			newRange(blockdev.OpTrim, 0, r.off, r.n), newRange(blockdev.OpWriteZeroes, blockdev.FUA, r.off, r.n),
			newRange(blockdev.OpCache, 0, r.off, r.n),
		} {
			submit(d, req)
			if !errors.Is(req.Err, blockdev.ErrRange) {
				t.Errorf("%s of a device of %d: %v, want %v", describe(req), size, req.Err, blockdev.ErrRange)
			}
		}
	}
	for _, req := range []*blockdev.Request{
		newRange(blockdev.OpTrim, 0, 0, -1), newRange(blockdev.OpWriteZeroes, 0, 4096, math.MinInt64),
		newRange(blockdev.OpTrim, 0, 1, math.MaxInt64), newRange(blockdev.OpCache, 0, 0, size+1),
	} {
		submit(d, req)
		if !errors.Is(req.Err, blockdev.ErrRange) {
			t.Errorf("%s: %v, want %v", describe(req), req.Err, blockdev.ErrRange)
		}
	}
	expect(t, d, p, size-4096)
}

func testInvalid(t *testing.T, d blockdev.Device) {
	bad := func(what string, r *blockdev.Request) {
		t.Helper()
		submit(d, r)
		if !errors.Is(r.Err, blockdev.ErrInvalid) {
			t.Errorf("%s: %v, want %v", what, r.Err, blockdev.ErrInvalid)
		}
	}
	bad("read into too little", &blockdev.Request{Op: blockdev.OpRead, Len: 4096, Data: make([]byte, 512)})
	bad("write of too much", &blockdev.Request{Op: blockdev.OpWrite, Len: 512, Data: make([]byte, 4096)})
	bad("operation 200", &blockdev.Request{Op: 200, Len: 512})
	if n := int64(blockdev.MaxTransfer + 512); n <= d.Size() {
		p := make([]byte, n)
		bad("read beyond MaxTransfer", &blockdev.Request{Op: blockdev.OpRead, Len: n, Data: p})
		bad("write beyond MaxTransfer", &blockdev.Request{Op: blockdev.OpWrite, Len: n, Data: p})
	}
	expect(t, d, make([]byte, 8192), 0)
}

// testBatchOrder has later requests of one batch overwrite earlier ones.
func testBatchOrder(t *testing.T, d blockdev.Device) {
	for round := range uint64(20) {
		base := int64(round) * 100_000
		want := make([]byte, 64<<10)
		var batch []*blockdev.Request
		for i := range uint64(32) {
			x := round*32 + i
			off, n := int64(x*7919%40000), int64(x*104729%20000+1)
			if i%3 == 0 {
				off, n = off&^4095, (n+4095)&^4095
			}
			switch i % 8 {
			case 5:
				batch = append(batch, newRange(blockdev.OpTrim, 0, base+off, n))
				clear(want[off : off+n])
			case 7:
				batch = append(batch, newRange(blockdev.OpWriteZeroes, blockdev.NoHole, base+off, n))
				clear(want[off : off+n])
			default:
				p := pattern(x, n)
				batch = append(batch, newWrite(p, base+off))
				copy(want[off:], p)
			}
		}
		ok(t, d, batch...)
		expect(t, d, want, base)
	}
}

// testBatchOfGoodAndBad checks that a bad request spoils none of its batch.
func testBatchOfGoodAndBad(t *testing.T, d blockdev.Device) {
	p, q := pattern(3, 4096), pattern(4, 777)
	bad := newWrite(p, d.Size())
	odd := newRange(200, 0, 0, 1)
	good, last, flush := newWrite(p, 0), newWrite(q, 5000), newRange(blockdev.OpFlush, 0, 0, 0)
	submit(d, bad, good, odd, last, flush)
	if bad.Err == nil || odd.Err == nil || good.Err != nil || last.Err != nil || flush.Err != nil {
		t.Errorf("errors: %v; %v; %v; %v; %v", bad.Err, good.Err, odd.Err, last.Err, flush.Err)
	}
	expect(t, d, p, 0)
	expect(t, d, q, 5000)
	submit(d) // an empty batch is no request
}

// testDoneOnce counts calls of Done over all kinds of requests, good and bad.
func testDoneOnce(t *testing.T, d blockdev.Device) {
	const rounds = 50
	calls := make([]atomic.Int32, rounds*8)
	var wait sync.WaitGroup
	for round := range rounds {
		off := int64(round) * 10_000
		batch := []*blockdev.Request{
			newWrite(pattern(uint64(round), 9000), off), newRead(9000, off), newRange(blockdev.OpTrim, 0, off, 100),
			newRange(blockdev.OpWriteZeroes, blockdev.FastZero, off, 4096), newRange(blockdev.OpFlush, 0, 0, 0),
			newRange(blockdev.OpCache, 0, off, 4096), newRead(1, d.Size()), newRange(200, 0, 0, 0),
		}
		wait.Add(len(batch))
		for i, r := range batch {
			n := &calls[round*8+i]
			r.Done = func(*blockdev.Request) {
				if n.Add(1) == 1 {
					wait.Done()
				}
			}
		}
		d.Submit(batch)
	}
	wait.Wait()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range calls {
		if n := calls[i].Load(); n != 1 {
			t.Fatalf("request %d of a batch: Done was called %d times", i%8, n)
		}
	}
}

// testSubBlock builds blocks from pieces smaller than any block.
func testSubBlock(t *testing.T, d blockdev.Device) {
	const n = 3 * 4096
	want := pattern(5, n)
	write(t, d, want, 0)
	for _, step := range []int64{512, 1000, 100} {
		for off := int64(0); off < n; off += 2 * step { // every other piece
			p := pattern(uint64(off), min(step, n-off))
			write(t, d, p, off)
			copy(want[off:], p)
		}
		expect(t, d, want, 0)
	}
	for off := int64(4090); off < 4102; off++ {
		write(t, d, []byte{byte(off)}, off)
		want[off] = byte(off)
	}
	expect(t, d, want, 0)
	for off := int64(0); off < n; off += 333 {
		part := want[off:min(n, off+333)]
		if got := read(t, d, int64(len(part)), off); !bytes.Equal(got, part) {
			t.Fatalf("a read of %d bytes at %d differs from a large read", len(part), off)
		}
	}
}

func testTransfers(t *testing.T, d blockdev.Device) {
	for i, c := range []struct{ off, n int64 }{
		{0, 1 << 20}, {1 << 20, 1 << 20}, {512, 1 << 20}, {3<<20 + 77, 1<<20 + 1}, {d.Size() - 1<<20, 1 << 20},
		{0, min(blockdev.MaxTransfer, d.Size())}, {d.Size() - min(blockdev.MaxTransfer, d.Size()-123), min(blockdev.MaxTransfer, d.Size()-123)},
	} {
		p := pattern(uint64(100+i), c.n)
		write(t, d, p, c.off)
		if got := read(t, d, c.n, c.off); !bytes.Equal(got, p) {
			t.Fatalf("%d bytes at %d differ from %d", c.n, c.off, c.off+int64(differ(got, p)))
		}
	}
}

// testDurability checks that the requests for it work and harm nothing.
func testDurability(t *testing.T, d blockdev.Device) {
	ok(t, d, newRange(blockdev.OpFlush, 0, 0, 0)) // with nothing to do
	p := pattern(6, 10_000)
	w := newWrite(p, 1000)
	w.Flags = blockdev.FUA
	ok(t, d, w)
	ok(t, d, newRange(blockdev.OpTrim, blockdev.FUA, 1000, 500), newRange(blockdev.OpWriteZeroes, blockdev.FUA, 1500, 500))
	clear(p[:1000])
	expect(t, d, p, 1000)
	q := pattern(7, 4096)
	ok(t, d, newWrite(q, 0), newRange(blockdev.OpFlush, 0, 0, 0), newWrite(q, 1<<20), newRange(blockdev.OpFlush, 0, 0, 0))
	expect(t, d, q, 0)
	expect(t, d, q, 1<<20)
}

// testCache: a hint may be refused but changes nothing.
func testCache(t *testing.T, d blockdev.Device) {
	p := pattern(8, 1<<20)
	write(t, d, p, 4096)
	for _, r := range []*blockdev.Request{newRange(blockdev.OpCache, 0, 0, d.Size()), newRange(blockdev.OpCache, 0, 5000, 77)} {
		submit(d, r)
		if r.Err != nil && !errors.Is(r.Err, blockdev.ErrNotSupported) {
			t.Errorf("%s: %v", describe(r), r.Err)
		}
	}
	expect(t, d, p, 4096)
}

func testClosed(t *testing.T, d blockdev.Device) {
	write(t, d, pattern(9, 4096), 0)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*blockdev.Request{
		newRead(512, 0), newWrite(make([]byte, 512), 0), newRange(blockdev.OpFlush, 0, 0, 0), newRange(blockdev.OpTrim, 0, 0, 512),
		newRange(blockdev.OpWriteZeroes, 0, 0, 512), newRange(blockdev.OpCache, 0, 0, 512),
	} {
		submit(d, r)
		if !errors.Is(r.Err, blockdev.ErrClosed) {
			t.Errorf("%v after Close: %v, want %v", r.Op, r.Err, blockdev.ErrClosed)
		}
	}
	err := d.Extents(0, 512, func(blockdev.Extent) bool { return true })
	if !errors.Is(err, blockdev.ErrClosed) {
		t.Errorf("extents after Close: %v, want %v", err, blockdev.ErrClosed)
	}
}

func testReadOnly(t *testing.T, d blockdev.Device) {
	if !d.ReadOnly() {
		t.Error("the device says that it is writable")
	}
	before := read(t, d, 64<<10, 0)
	for _, r := range []*blockdev.Request{
		newWrite(pattern(1, 4096), 0), newRange(blockdev.OpTrim, 0, 0, 4096), newRange(blockdev.OpWriteZeroes, 0, 0, 4096),
		newWrite(nil, 0),
	} {
		submit(d, r)
		if !errors.Is(r.Err, blockdev.ErrReadOnly) {
			t.Errorf("%s: %v, want %v", describe(r), r.Err, blockdev.ErrReadOnly)
		}
	}
	ok(t, d, newRange(blockdev.OpFlush, 0, 0, 0))
	expect(t, d, before, 0)
}

package devicetest

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"testing"

	"blkd/blockdev"
)

const workers = 8

// parallel runs f in several goroutines; f reports failures with t.Error.
func parallel(f func(worker uint64, r *rand.Rand)) {
	var wait sync.WaitGroup
	for w := range uint64(workers) {
		wait.Go(func() { f(w, rand.New(rand.NewPCG(w, 21))) })
	}
	wait.Wait()
}

// testDisjoint has each goroutine own every eighth piece of the device, so that
// neighbours share blocks, and check it all along.
func testDisjoint(t *testing.T, d blockdev.Device) {
	const piece, count = 3000, 40
	parallel(func(w uint64, r *rand.Rand) {
		mine := make([][]byte, count)
		for i := range mine {
			mine[i] = make([]byte, piece)
		}
		for step := range uint64(300) {
			i := r.IntN(count)
			base := int64(i*workers+int(w)) * piece
			off, n := r.Int64N(piece), int64(0)
			n = 1 + r.Int64N(piece-off)
			req := newWrite(pattern(w<<32|step, n), base+off)
			want := bytes.Clone(req.Data)
			switch r.IntN(8) {
			case 0:
				req = newRange(blockdev.OpTrim, 0, base+off, n)
				clear(want)
			case 1:
				req = newRange(blockdev.OpWriteZeroes, 0, base+off, n)
				clear(want)
			case 2:
				req.Flags = blockdev.FUA
			}
			check := newRead(piece, base)
			submit(d, req)
			submit(d, check)
			copy(mine[i][off:], want)
			if req.Err != nil || check.Err != nil {
				t.Errorf("worker %d step %d: %v, %v", w, step, req.Err, check.Err)
				return
			}
			if at := differ(check.Data, mine[i]); at >= 0 {
				t.Errorf("worker %d step %d: after %s the byte at %d is wrong", w, step, describe(req), base+int64(at))
				return
			}
		}
	})
}

// stamp fills sectors with the writer's number and the sector's own.
func stamp(p []byte, writer uint64, firstSector int64) {
	for i := 0; i < len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], writer)
		binary.LittleEndian.PutUint64(p[i+8:], uint64(firstSector)+uint64(i/512))
	}
}

// testOverlapping has goroutines overwrite the same sectors: any order is right,
// a mixture within a sector is not.
func testOverlapping(t *testing.T, d blockdev.Device) {
	const base, sectors = 60 << 10, 48 // across 64 KiB
	parallel(func(w uint64, r *rand.Rand) {
		for step := range uint64(250) {
			first := r.Int64N(sectors)
			n := 1 + r.Int64N(min(20, sectors-first))
			off := base + first*512
			if r.IntN(3) == 0 {
				check := newRead(n*512, off)
				submit(d, check)
				if check.Err != nil {
					t.Errorf("%s: %v", describe(check), check.Err)
					return
				}
				for i := range n {
					if !whole(check.Data[i*512:(i+1)*512], first+i) {
						t.Errorf("sector %d at %d is torn", first+i, off+i*512)
						return
					}
				}
				continue
			}
			req := newWrite(make([]byte, n*512), off)
			stamp(req.Data, 1+w<<32|step, first)
			if r.IntN(6) == 0 {
				req = newRange(blockdev.OpTrim, 0, off, n*512)
			}
			submit(d, req)
			if req.Err != nil {
				t.Errorf("%s: %v", describe(req), req.Err)
				return
			}
		}
	})
}

// whole tells whether a sector is all zeros or has one stamp, its own, all over.
func whole(p []byte, sector int64) bool {
	for i := 16; i < len(p); i += 16 {
		if !bytes.Equal(p[i:i+16], p[:16]) {
			return false
		}
	}
	return firstByte(p) < 0 || binary.LittleEndian.Uint64(p[8:]) == uint64(sector)
}

// testSubSector has goroutines write their own bytes of shared sectors: one's
// read-modify-write must not undo another's.
func testSubSector(t *testing.T, d blockdev.Device) {
	const width, slots = 64, 4 // the workers' bytes interleave in 512
	parallel(func(w uint64, r *rand.Rand) {
		var last [slots]byte
		for range 400 {
			slot := r.IntN(slots)
			off := int64(slot*workers+int(w)) * width
			check := newRead(width, off)
			submit(d, check)
			if check.Err != nil || !bytes.Equal(check.Data, bytes.Repeat([]byte{last[slot]}, width)) {
				t.Errorf("worker %d wrote %d bytes of %d at %d and reads %d (%v)", w, width, last[slot], off, check.Data, check.Err)
				return
			}
			last[slot]++
			req := newWrite(bytes.Repeat(last[slot:slot+1], width), off)
			submit(d, req)
			if req.Err != nil {
				t.Errorf("%s: %v", describe(req), req.Err)
				return
			}
		}
	})
}

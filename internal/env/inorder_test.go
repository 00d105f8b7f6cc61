package env

import (
	"math/rand/v2"
	"testing"
)

// TestInOrder: recovery, which reads headers and payloads one after the other, enters
// each step once; pouring, which reads blocks here and there, next to none.
func TestInOrder(t *testing.T) {
	const size, header, payload = 64 << 20, 84, 5 * 4096
	entered := map[int64]int{}
	var r inOrder
	for off := int64(0); off+header+payload <= size; off += header + payload {
		for _, read := range []struct{ off, n int64 }{{off, 80}, {off, header}, {off + header, payload}} {
			if step, ok := r.next(read.off, int(read.n)); ok {
				entered[step]++
			}
		}
	}
	for step := int64(1); step < size/aheadBytes; step++ {
		if entered[step] != 1 {
			t.Errorf("step %d was entered %d times", step, entered[step])
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	const reads = 100_000
	n := 0
	for range reads {
		if _, ok := r.next(rng.Int64N(size-4096), 4096); ok {
			n++
		}
	}
	if n > reads/10_000 {
		t.Errorf("%d of %d reads here and there were taken for reads in order", n, reads)
	}
}

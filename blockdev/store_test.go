package blockdev_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"blkd/blockdev"
	"blkd/internal/env"
)

func openStore(t testing.TB, o blockdev.StoreOptions, size int64) *blockdev.Store {
	t.Helper()
	if o.FS == nil {
		o.FS = env.OS{}
	}
	if o.Dir == "" {
		o.Dir = t.TempDir() + "/vol"
	}
	if o.Volume == "" {
		o.Volume = "test"
	}
	if err := blockdev.CreateStore(o, size); err != nil {
		t.Fatal(err)
	}
	s, err := blockdev.OpenStore(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStoreQuick(t *testing.T) {
	dir := t.TempDir() + "/vol"
	o := blockdev.StoreOptions{FS: env.OS{}, Dir: dir, Volume: "quick", LogBytes: 4 << 20}
	const size = 64 << 20
	s := openStore(t, o, size)
	want := make([]byte, size)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		off := rng.Int64N(size)
		n := min(size-off, 1+rng.Int64N([]int64{512, 9000, 100_000, 400_000}[rng.IntN(4)]))
		if rng.IntN(2) == 0 {
			off, n = off/4096*4096, max(n/4096*4096, 4096)
			n = min(n, size-off)
		}
		switch rng.IntN(8) {
		case 0:
			if err := blockdev.Trim(s, off, n, 0); err != nil {
				t.Fatal(err)
			}
			clear(want[off : off+n])
		case 1:
			if err := blockdev.WriteZeroes(s, off, n, blockdev.NoHole); err != nil {
				t.Fatal(err)
			}
			clear(want[off : off+n])
		case 2, 3, 4:
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(rng.Uint32())
			}
			if err := blockdev.WriteAt(s, p, off, 0); err != nil {
				t.Fatal(err)
			}
			copy(want[off:], p)
		default:
			p := make([]byte, n)
			if err := blockdev.ReadAt(s, p, off); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p, want[off:off+n]) {
				t.Fatalf("op %d: read %d at %d differs", i, n, off)
			}
		}
		if i%500 == 499 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			var err error
			if s, err = blockdev.OpenStore(o); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := make([]byte, size)
	for off := 0; off < size; off += 1 << 20 {
		if err := blockdev.ReadAt(s, got[off:off+1<<20], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Fatal("contents differ")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

package blockdev

import (
	"testing"

	"blkd/internal/env/crashfs"
)

// TestStoreKeepsSpaceThatIsNeeded frees more chunks than may keep their space for
// good. They lose it when no write has needed them, and then only: neither while
// writes do, nor later when few are free that have any.
func TestStoreKeepsSpaceThatIsNeeded(t *testing.T) {
	punched := int64(0)
	hook := func(op, _ string, n int64, do func() error) error {
		if op == "punch" {
			punched += n
		}
		return do()
	}
	const size = 32 << 20
	s, _, err := newStore(StoreOptions{FS: &hookFS{crashfs.New(), hook}, Manual: true}, size)
	if err != nil {
		t.Fatal(err)
	}
	rewrite := func(n int) {
		t.Helper()
		if err := submit(s, &Request{Op: OpWrite, Data: filled(1, n)}); err != nil {
			t.Fatal(err)
		}
		if err := s.Destage(); err != nil {
			t.Fatal(err)
		}
	}
	givesBack := func(want int64) {
		t.Helper()
		if s.giveBack(s.keepFree()); punched != want {
			t.Fatalf("%d bytes were given back, not %d", punched, want)
		}
		punched = 0
	}
	rewrite(size)
	rewrite(size)
	givesBack(0)
	rewrite(size)
	givesBack(0)
	rewrite(size / 4 * 3)
	givesBack(size / 4)
	givesBack(size/4*3 - int64(s.keepFree())*chunkBytes)
	for range 10 {
		rewrite(size / 8)
		givesBack(0)
	}
	if err := holds(s, 0, 1); err != nil {
		t.Fatal(err)
	}
}

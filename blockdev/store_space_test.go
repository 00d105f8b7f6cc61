package blockdev

import (
	"testing"

	"blkd/internal/env/crashfs"
)

// TestStoreKeepsSpaceAgain lets more chunks be freed at once than may keep their
// space. Writes that follow free few at a time: these must keep theirs, however
// many free chunks there are without any.
func TestStoreKeepsSpaceAgain(t *testing.T) {
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
	write := func(n int) {
		if err := submit(s, &Request{Op: OpWrite, Data: filled(1, n)}); err != nil {
			t.Fatal(err)
		}
	}
	write(size)
	write(size)
	if err := s.Destage(); err != nil {
		t.Fatal(err)
	}
	if want := int64(size - s.keepFree()*chunkBytes); punched != want {
		t.Fatalf("%d bytes were given back after a rewrite of everything, not %d", punched, want)
	}
	punched = 0
	for range 10 {
		write(4 << 20)
		if err := s.Destage(); err != nil {
			t.Fatal(err)
		}
	}
	if punched != 0 {
		t.Errorf("%d bytes were given back though few were free with their space", punched)
	}
}

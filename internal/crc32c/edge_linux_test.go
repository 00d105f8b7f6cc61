package crc32c

import (
	"syscall"
	"testing"
)

// TestReadsNothingBeyond sums buffers that begin or end where memory ends: one
// byte too far is a crash.
func TestReadsNothingBeyond(t *testing.T) {
	page := syscall.Getpagesize()
	const pages = 3
	m, err := syscall.Mmap(-1, 0, (pages+2)*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatalf("map %d pages: %v", pages+2, err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(m); err != nil {
			t.Errorf("unmap: %v", err)
		}
	})
	usable := m[page : (pages+1)*page]
	fills["count"](usable, nil)
	for _, guard := range [][]byte{m[:page], m[(pages+1)*page:]} {
		if err := syscall.Mprotect(guard, syscall.PROT_NONE); err != nil {
			t.Fatalf("protect a page: %v", err)
		}
	}
	eachPath(t, func(t *testing.T) {
		for n := range min(5000, len(usable)) {
			for _, p := range [][]byte{usable[:n], usable[len(usable)-n:]} {
				if got, want := Checksum(p), reference(0, p); got != want {
					t.Fatalf("%d bytes: %#08x, want %#08x", n, got, want)
				}
			}
		}
	})
}

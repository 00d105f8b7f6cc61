package crc32c

import (
	"bytes"
	"testing"
)

// FuzzUpdate compares both paths with the standard library, for any content,
// repeated to any length, cut anywhere.
func FuzzUpdate(f *testing.F) {
	f.Add(uint32(0), []byte{}, uint16(1), uint16(0))
	f.Add(uint32(0), []byte("123456789"), uint16(1), uint16(4))
	f.Add(^uint32(0), bytes.Repeat([]byte{0xff}, foldBytes), uint16(1), uint16(foldBytes))
	f.Add(uint32(1), []byte("blkd"), uint16(1024), uint16(4095))
	f.Fuzz(func(t *testing.T, crc uint32, p []byte, times, cut uint16) {
		p = bytes.Repeat(p, min(int(times), 1+(1<<16)/(len(p)+1)))
		at := min(int(cut), len(p))
		want := reference(crc, p)
		for _, wide := range []bool{false, haveFold} {
			forcePath(t, wide)
			if got := Update(crc, p); got != want {
				t.Errorf("fold=%v: %d bytes: %#08x, want %#08x", wide, len(p), got, want)
			}
			if got := Update(Update(crc, p[:at]), p[at:]); got != want {
				t.Errorf("fold=%v: %d bytes, cut at %d: %#08x, want %#08x", wide, len(p), at, got, want)
			}
		}
	})
}

package crc32c

import (
	"fmt"
	"testing"
)

var sink uint32

// BenchmarkChecksum compares this package with hash/crc32; the data is in cache.
func BenchmarkChecksum(b *testing.B) {
	for _, size := range []int{64, 256, 512, 4 << 10, 64 << 10} {
		p := make([]byte, size)
		fills["count"](p, nil)
		for name, sum := range map[string]func(uint32, []byte) uint32{"this": Update, "standard": reference} {
			b.Run(fmt.Sprintf("%d/%s", size, name), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					sink = sum(0, p)
				}
			})
		}
	}
}

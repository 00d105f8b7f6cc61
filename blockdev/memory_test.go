package blockdev_test

import (
	"testing"

	"blkd/blockdev"
	"blkd/blockdev/devicetest"
)

func TestMemory(t *testing.T) {
	devicetest.Run(t, func(t *testing.T) blockdev.Device { return blockdev.NewMemory(48 << 20) })
}

// A size that chunks do not divide.
func TestMemoryOddSize(t *testing.T) {
	devicetest.Run(t, func(t *testing.T) blockdev.Device { return blockdev.NewMemory(16<<20 + 512) })
}

func TestMemoryGivesSpaceBack(t *testing.T) {
	m := blockdev.NewMemory(1<<20 + 512)
	p := make([]byte, 1<<20+512)
	if err := blockdev.WriteAt(m, p, 0, 0); err != nil {
		t.Fatal(err)
	}
	holes := func() (n int64) {
		err := m.Extents(0, m.Size(), func(e blockdev.Extent) bool {
			if e.Hole {
				n += e.Len
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := holes(); n != 0 {
		t.Errorf("written whole, %d bytes are holes", n)
	}
	if err := blockdev.Trim(m, 0, m.Size(), 0); err != nil {
		t.Fatal(err)
	}
	if n := holes(); n != m.Size() {
		t.Errorf("trimmed whole, %d bytes are holes", n)
	}
}

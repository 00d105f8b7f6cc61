package blockdev_test

import (
	"fmt"
	"testing"

	"blkd/blockdev"
)

// BenchmarkStoreChecksums shows what checksums cost in sequential transfers of
// 1 MiB from and to the page cache. The buffers together are larger than most
// caches of a core, as those of a busy connection are.
func BenchmarkStoreChecksums(b *testing.B) {
	for _, op := range []blockdev.Op{blockdev.OpWrite, blockdev.OpRead} {
		for _, plain := range []bool{false, true} {
			b.Run(fmt.Sprintf("op=%v/checksums=%v", op, !plain), func(b *testing.B) { benchSequential(b, op, plain) })
		}
	}
}

func benchSequential(b *testing.B, op blockdev.Op, plain bool) {
	const size, step, depth = 256 << 20, 1 << 20, 8
	s := openStore(b, blockdev.StoreOptions{NoChecksums: plain}, size)
	defer s.Close()
	var bufs [depth][]byte
	for i := range bufs {
		bufs[i] = make([]byte, step)
	}
	transfer := func(op blockdev.Op, i int) {
		buf, off := bufs[i%depth], int64(i%(size/step)*step)
		var err error
		if op == blockdev.OpRead {
			err = blockdev.ReadAt(s, buf, off)
		} else {
			err = blockdev.WriteAt(s, buf, off, 0)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	for i := range size / step {
		transfer(blockdev.OpWrite, i)
	}
	b.SetBytes(step)
	for i := 0; b.Loop(); i++ {
		transfer(op, i)
	}
}

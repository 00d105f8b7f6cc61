package blockdev_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"blkd/blockdev"
	"blkd/internal/env"
)

// TestStoreMemory touches a volume of 1 TiB in so many places that all of its
// map would be ten times the cache: memory stays below 0.4 GiB.
func TestStoreMemory(t *testing.T) {
	const size, cache, places = 1 << 40, 4 << 20, 10_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := openStore(t, blockdev.StoreOptions{CacheBytes: cache, LogBytes: 64 << 20}, size)
	defer s.Close()
	rng := rand.New(rand.NewPCG(3, 3))
	block := make([]byte, 4096)
	for range places {
		if err := blockdev.WriteAt(s, block, rng.Int64N(size/4096)*4096, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Destage(); err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("1 TiB, %d places written: %d MiB of heap, %d MiB by the store's own estimate", places, used>>20, s.Stats().MemoryBytes>>20)
	if used > 400<<20 || s.Stats().CachePages > 2*cache/4096 {
		t.Fatalf("%d bytes of heap, %d pages cached", used, s.Stats().CachePages)
	}
}

// BenchmarkStore measures the store without NBD: op=…/batch=N submits N requests
// of 4 KiB at once.
func BenchmarkStore(b *testing.B) {
	for _, op := range []blockdev.Op{blockdev.OpWrite, blockdev.OpRead} {
		for _, batch := range []int{1, 32} {
			for _, plain := range []bool{false, true} {
				name := fmt.Sprintf("op=%v/batch=%d/checksums=%v", op, batch, !plain)
				b.Run(name, func(b *testing.B) { benchStore(b, op, batch, plain) })
			}
		}
	}
}

func benchStore(b *testing.B, op blockdev.Op, batch int, plain bool) {
	const size = 256 << 20
	s := openStore(b, blockdev.StoreOptions{NoChecksums: plain}, size)
	defer s.Close()
	fill := make([]byte, 1<<20)
	for off := int64(0); off < size; off += 1 << 20 {
		if err := blockdev.WriteAt(s, fill, off, 0); err != nil {
			b.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 1))
	done := make(chan struct{}, batch)
	reqs := make([]*blockdev.Request, batch)
	for i := range reqs {
		reqs[i] = &blockdev.Request{Op: op, Len: 4096, Data: make([]byte, 4096), Done: func(r *blockdev.Request) {
			if r.Err != nil {
				b.Error(r.Err)
			}
			done <- struct{}{}
		}}
	}
	b.SetBytes(4096)
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += batch {
		for _, r := range reqs {
			r.Off = rng.Int64N(size/4096) * 4096
		}
		s.Submit(reqs)
		for range reqs {
			<-done
		}
	}
}

// BenchmarkStoreRecover opens a volume of 1 TiB after a crash, with a log full of
// 4 KiB writes.
func BenchmarkStoreRecover(b *testing.B) {
	o := blockdev.StoreOptions{FS: env.OS{}, Dir: b.TempDir() + "/v", Volume: "v", LogBytes: 256 << 20, Manual: true}
	if err := blockdev.CreateStore(o, 1<<40); err != nil {
		b.Fatal(err)
	}
	s, err := blockdev.OpenStore(o)
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	block := make([]byte, 4096)
	for range 60_000 {
		if err := blockdev.WriteAt(s, block, rng.Int64N(1<<28)*4096, 0); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() { // each opening is after a crash: nothing is ever closed
		s, err := blockdev.OpenStore(o)
		if err != nil {
			b.Fatal(err)
		}
		runtime.KeepAlive(s)
	}
}

// BenchmarkStoreVerifyEmpty scrubs a volume of 16 TiB that holds nothing.
func BenchmarkStoreVerifyEmpty(b *testing.B) {
	s := openStore(b, blockdev.StoreOptions{LogBytes: 1 << 20}, 16<<40)
	defer s.Close()
	for b.Loop() {
		if _, err := s.Verify(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
	}
}

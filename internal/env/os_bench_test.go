package env_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"blkd/internal/env"
)

// cpuTime is the processor time that this process has used. It says the same on a busy
// machine and on a quiet one.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// account adds up processor time by what it was used for.
type account struct {
	b    *testing.B
	last time.Duration
	by   map[string]time.Duration
}

func newAccount(b *testing.B) *account {
	return &account{b: b, last: cpuTime(b), by: map[string]time.Duration{}}
}

// charge charges everything since the last call.
func (a *account) charge(what string) {
	now := cpuTime(a.b)
	a.by[what] += now - a.last
	a.last = now
}

// report tells each sum per operation.
func (a *account) report(ops int) {
	for what, t := range a.by {
		a.b.ReportMetric(float64(t.Nanoseconds())/float64(ops), what+"-cpu-ns/op")
	}
	a.b.ReportMetric(0, "ns/op") // it depends on the disk
}

// roundBlocks is how many blocks a store pours at once from a log of 64 MiB.
const roundBlocks = 8192

// BenchmarkLog appends records of 4 KiB to a mapped ring, so many with a call, as a
// store does, and syncs them and lets them go each half of the ring.
func BenchmarkLog(b *testing.B) {
	const size, header = 64 << 20, 84
	for _, batch := range []int{1, 4, 16} {
		b.Run(fmt.Sprintf("batch=%d", batch), func(b *testing.B) {
			f := benchFile(b, size, 4096)
			must(b, f.Map(size))
			var bufs [][]byte
			for range batch {
				bufs = append(bufs, make([]byte, header), make([]byte, 4096))
			}
			a := newAccount(b)
			n, done := 0, int64(0)
			for b.Loop() {
				must(b, f.WritevAt(bufs, done%(size-1<<20)))
				n += batch
				done += int64(batch) * (header + 4096)
				if n%roundBlocks == 0 {
					a.charge("write")
					must(b, f.Sync())
					f.Forget(0, size)
					a.charge("sync")
				}
			}
			a.charge("write")
			a.report(n)
		})
	}
}

// BenchmarkImage writes blocks of 4 KiB here and there, in ascending order, to a file
// of 256 MiB, and syncs it, as pouring does. The file was written in steps of so many
// KiB before, which decides how large the folios of the page cache are.
func BenchmarkImage(b *testing.B) {
	for _, kib := range []int{4, 16, 64, 128} {
		b.Run(fmt.Sprintf("folio=%dK", kib), func(b *testing.B) { benchImage(b, kib<<10) })
	}
}

func benchImage(b *testing.B, step int) {
	const size = 256 << 20
	f := benchFile(b, size, step)
	rng := rand.New(rand.NewPCG(1, 1))
	block := make([]byte, 4096)
	a := newAccount(b)
	n := 0
	for b.Loop() {
		places := make([]int64, roundBlocks)
		for i := range places {
			places[i] = rng.Int64N(size/4096) * 4096
		}
		slices.Sort(places)
		a.charge("other")
		for _, off := range places {
			_, err := f.WriteAt(block, off)
			must(b, err)
		}
		a.charge("write")
		must(b, f.Sync())
		a.charge("sync")
		n += len(places)
	}
	delete(a.by, "other")
	a.report(n)
}

// benchFile is a file that was written in steps of so many bytes.
func benchFile(b *testing.B, size int64, step int) env.File {
	f, err := env.OS{}.Open(filepath.Join(b.TempDir(), "f"), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	must(b, err)
	b.Cleanup(func() { f.Close() })
	p := make([]byte, step)
	for i := range p {
		p[i] = byte(i)
	}
	for off := int64(0); off < size; off += int64(step) {
		_, err := f.WriteAt(p, off)
		must(b, err)
	}
	must(b, f.Sync())
	return f
}

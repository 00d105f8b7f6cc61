package blockdev_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"blkd/blockdev"
)

// BenchmarkReplicaAppend appends batches of 4 KiB entries as a member does, and
// commits each some batches later.
func BenchmarkReplicaAppend(b *testing.B) {
	for _, batch := range []int{1, 32} {
		for _, behind := range []int{1, 4096} {
			b.Run(fmt.Sprintf("batch=%d/pending=%d", batch, behind), func(b *testing.B) {
				benchAppend(b, batch, blockdev.Seq(behind))
			})
		}
	}
}

func benchAppend(b *testing.B, batch int, behind blockdev.Seq) {
	const size = 256 << 20
	s := openStore(b, blockdev.StoreOptions{Replica: true, LogBytes: 1 << 30}, size)
	defer s.Close()
	entries := make([]blockdev.Entry, batch)
	data := make([]byte, 4096)
	b.SetBytes(4096)
	b.ReportAllocs()
	seq := blockdev.Seq(0)
	begin := cpuTime(b)
	b.ResetTimer()
	for n := 0; n < b.N; n += batch {
		for i := range entries {
			seq++
			entries[i] = blockdev.Entry{
				Gen: 1, Seq: seq, Kind: blockdev.EntryWrite,
				Off: int64(seq) * 7919 % (size / 4096) * 4096, Len: 4096, Data: data,
				Origin: blockdev.Origin{Client: 1, Session: 1, Op: uint64(seq)},
			}
		}
		if err := s.Append(entries); err != nil {
			b.Fatal(err)
		}
		if seq > behind {
			if err := s.Commit(seq - behind); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-begin)/float64(b.N), "cpu-ns/op")
}

// cpuTime is what this process has used of the processor: it says more than the
// clock where others use the machine too.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

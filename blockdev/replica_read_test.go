package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"

	"blkd/internal/env/crashfs"
)

// newReplica makes a replica that a test drives by hand.
func newReplica(t *testing.T, o StoreOptions, size int64) (*scripted, StoreOptions) {
	t.Helper()
	o.Replica = true
	s, o, err := newStore(o, size)
	if err != nil {
		t.Fatal(err)
	}
	return &scripted{Store: s, o: o}, o
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestReadLogTrimmed laps the log while a member is away: nothing waits for it,
// and what the ring has lost is an ErrTrimmed.
func TestReadLogTrimmed(t *testing.T) {
	s, _ := newReplica(t, StoreOptions{Manual: true}, 4<<20)
	for range 200 {
		check(t, s.add(1, int64(s.last%64)*BlockSize, BlockSize), s.Commit(s.last))
	}
	if _, err := s.ReadLog(0, 1<<20); !errors.Is(err, ErrTrimmed) {
		t.Fatalf("the log after 0: %v", err)
	}
	if g, known := s.GenAt(1); !known || g != 1 {
		t.Fatal("the generation of an entry that is gone is not known")
	}
	first := s.last
	for ; ; first-- {
		entries, err := s.ReadLog(first, 1)
		if errors.Is(err, ErrTrimmed) {
			break
		}
		if want := min(1, int(s.last-first)); err != nil || len(entries) != want {
			t.Fatalf("the log after %d: %d entries, %v", first, len(entries), err)
		}
	}
	if kept := (s.last - first) * (BlockSize + 84); kept < MinLog*3/4 {
		t.Fatalf("of %d bytes of log only %d can be read", MinLog, kept)
	}
	check(t, s.Reset(4, 1000))
	if _, known := s.GenAt(999); known {
		t.Fatal("the generation of an entry that never was here is known")
	}
	if g, known := s.GenAt(1000); !known || g != 4 {
		t.Fatal("the generation of the last entry is not known")
	}
}

// TestReadLogPins overwrites the payload of a reference that a member lacks: the
// old one stays readable until Keep lets go of it.
func TestReadLogPins(t *testing.T) {
	s, o := newReplica(t, StoreOptions{Manual: true}, 4<<20)
	check(t, s.add(1, 0, chunkBytes), s.add(2, 0, BlockSize), s.add(3, chunkBytes, chunkBytes), s.add(0, chunkBytes, chunkBytes))
	check(t, s.Commit(s.last), s.Destage())
	wants := func() error {
		entries, err := s.ReadLog(0, 1<<20)
		if err != nil || len(entries) != 4 || !bytes.Equal(entries[0].Data, filled(1, chunkBytes)) || !bytes.Equal(entries[2].Data, filled(3, chunkBytes)) {
			return fmt.Errorf("%d entries, %w", len(entries), err)
		}
		return nil
	}
	check(t, wants(), holds(s.Store, 0, 2), holds(s.Store, BlockSize, 1), s.Close())
	var err error
	if s.Store, err = OpenStore(o); err != nil {
		t.Fatal(err)
	}
	check(t, wants(), holds(s.Store, 0, 2), holds(s.Store, BlockSize, 1), holds(s.Store, chunkBytes, 0))
	s.Keep(s.last)
	check(t, s.Destage())
	if n := len(s.pins.chunks); n != 0 || s.pins.count != 0 || s.Stats().AllocatedBytes != chunkBytes {
		t.Fatalf("%d chunks are pinned, %d bytes in use", n, s.Stats().AllocatedBytes)
	}
}

// TestReplicaHotPath asks what the protocol asks on every message: it allocates
// nothing.
func TestReplicaHotPath(t *testing.T) {
	s, _ := newReplica(t, StoreOptions{Manual: true}, 4<<20)
	check(t, s.add(1, 0, BlockSize), s.add(2, 3*BlockSize, BlockSize), s.Commit(s.last))
	aligned, odd := make([]byte, 4*BlockSize), make([]byte, 3*BlockSize-10)
	n := testing.AllocsPerRun(100, func() {
		_, seq := s.Last()
		s.GenAt(seq)
		s.Keep(s.Committed())
		if s.ReadCommitted(aligned, 0) != nil || s.ReadCommitted(odd, 2*BlockSize+5) != nil {
			t.Fatal("read failed")
		}
	})
	if n != 0 && !raceDetector {
		t.Errorf("%v allocations", n)
	}
	if aligned[0] != 1 || aligned[2*BlockSize] != 0 || aligned[3*BlockSize] != 2 || !bytes.Equal(odd[BlockSize-5:2*BlockSize-5], filled(2, BlockSize)) || odd[BlockSize-6] != 0 || odd[2*BlockSize-5] != 0 {
		t.Error("the content differs")
	}
	if err := s.ReadCommitted(aligned, 4<<20-BlockSize); !errors.Is(err, ErrRange) {
		t.Errorf("read beyond the end: %v", err)
	}
}

// TestNextData finds what is in the log and what is in the image.
func TestNextData(t *testing.T) {
	const size = 3*pageSpan + 1000
	s, _ := newReplica(t, StoreOptions{Manual: true}, size/512*512)
	walk := func() (runs [][2]int64) {
		for off := int64(0); ; {
			start, n, err := s.NextData(off)
			check(t, err)
			if n == 0 {
				return runs
			}
			runs = append(runs, [2]int64{start / BlockSize, n / BlockSize})
			off = start + n
		}
	}
	if got := walk(); got != nil {
		t.Fatalf("an empty replica holds %v", got)
	}
	end := int64(3 * pageBlocks) // the last block is a part of one
	check(t, s.add(1, 2*BlockSize, 3*BlockSize), s.add(1, chunkBytes, chunkBytes), s.add(1, end*BlockSize, BlockSize), s.add(0, 3*BlockSize, BlockSize))
	if got := walk(); got != nil {
		t.Fatalf("what is not committed is found: %v", got)
	}
	check(t, s.Commit(s.last))
	want := fmt.Sprint([][2]int64{{2, 1}, {4, 1}, {16, 16}, {end, 1}})
	if got := fmt.Sprint(walk()); got != want {
		t.Fatalf("in the log: %v, want %v", got, want)
	}
	check(t, s.Destage())
	if got := fmt.Sprint(walk()); got != want {
		t.Fatalf("in the image: %v, want %v", got, want)
	}
	if _, _, err := s.NextData(1); !errors.Is(err, ErrInvalid) {
		t.Fatalf("an offset within a block: %v", err)
	}
}

// TestDigest compares stores that hold the same in different ways.
func TestDigest(t *testing.T) {
	a, _ := newReplica(t, StoreOptions{Manual: true}, 4<<20)
	b, _ := newReplica(t, StoreOptions{Manual: true}, 4<<20)
	sums := func(off, n int64) (x, y uint64) {
		x, err := a.Digest(off, n)
		y, err2 := b.Digest(off, n)
		check(t, err, err2)
		return x, y
	}
	same := func(when string) {
		t.Helper()
		if x, y := sums(0, 4<<20); x != y {
			t.Fatalf("%s: %x and %x", when, x, y)
		}
	}
	same("empty")
	check(t, a.add(7, 5*BlockSize, BlockSize), a.add(8, 0, chunkBytes), a.add(8, chunkBytes, chunkBytes), a.add(0, 2*BlockSize, BlockSize), a.Commit(a.last), a.Destage())
	if x, y := sums(0, 4<<20); x == y {
		t.Fatal("a difference is not seen")
	}
	if x, y := sums(1<<20, 1<<20); x != y {
		t.Fatal("a range that is equal differs")
	}
	check(t, b.add(8, 0, chunkBytes), b.add(8, chunkBytes, chunkBytes))
	b.last++
	check(t, b.Append([]Entry{{Gen: 1, Seq: b.last, Kind: EntryWrite, Off: 2 * BlockSize, Len: BlockSize, Data: make([]byte, BlockSize)}}))
	b.last++
	check(t, b.Append([]Entry{{Gen: 1, Seq: b.last, Kind: EntryWrite, Off: 2 << 20, Len: BlockSize, Data: make([]byte, BlockSize)}}), b.Commit(b.last))
	same("zeros written and trimmed")
	check(t, b.Destage())
	same("poured")
	check(t, b.add(9, BlockSize, BlockSize), a.add(9, 2*BlockSize, BlockSize), a.Commit(a.last), b.Commit(b.last))
	if x, y := sums(0, 4<<20); x == y {
		t.Fatal("the same blocks in another order are not seen")
	}
}

// TestNextChange finds what was changed behind an entry: written, trimmed, in the
// image or in the log.
func TestNextChange(t *testing.T) {
	const unit = 1 << stampShift
	s, o := newReplica(t, StoreOptions{LogBytes: 1 << 20, Manual: true}, 3*pageSpan)
	marks := func(until Seq) {
		var entries []Entry
		for ; s.last < until; s.last++ {
			entries = append(entries, Entry{Gen: 1, Seq: s.last + 1, Kind: EntryMark})
		}
		check(t, s.Append(entries), s.Commit(s.last))
	}
	chunks := func(since Seq) (found []int64) {
		for off := int64(0); ; {
			start, n, err := s.NextChange(since, off)
			check(t, err)
			if n == 0 {
				return found
			}
			for off = start; off < start+n; off += chunkBytes {
				found = append(found, off/chunkBytes)
			}
		}
	}
	expect := func(since Seq, want ...int64) {
		t.Helper()
		if got := chunks(since); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("changed behind %d: %v, want %v", since, got, want)
		}
	}
	expect(0)
	check(t, s.add(1, 0, chunkBytes), s.add(1, pageSpan, 2*BlockSize), s.add(1, 9*chunkBytes, BlockSize), s.Commit(s.last))
	expect(0, 0, 9, pageChunks)
	check(t, s.Destage())
	marks(2*unit + 1)
	check(t, s.add(2, 3*chunkBytes, BlockSize), s.add(0, 0, chunkBytes), s.Commit(s.last), s.Destage())
	check(t, s.add(3, 5*chunkBytes, BlockSize), s.add(0, 5*chunkBytes, chunkBytes), s.Commit(s.last)) // nothing is left of it
	expect(0, 0, 3, 5, 9, pageChunks)
	expect(2*unit, 0, 3, 5)
	check(t, s.Destage(), s.Close())
	var err error
	s.Store, err = OpenStore(o)
	check(t, err)
	expect(2*unit, 0, 3, 5)
	check(t, s.Reset(1, s.last), s.Complete())
	if _, _, err := s.NextChange(s.last-1, 0); !errors.Is(err, ErrTrimmed) {
		t.Fatalf("what was changed before a copy: %v", err)
	}
	expect(s.last)
}

// TestStamp makes the 16 bits of a chunk whole with what its page knows.
func TestStamp(t *testing.T) {
	for _, c := range []struct{ touched, later, least Seq }{
		{1, 1, 1}, {5000, 5000, 5000}, {5000, 5 << stampShift, 5000}, {1 << 40, 1<<40 + 1<<27, 1 << 40}, {7 << stampShift, stampUnits<<stampShift + 3, 7 << stampShift},
		{3, (stampUnits + 2) << stampShift, 3},
	} {
		var p page
		e := p.entry(1)
		p.touch(e, c.touched)
		p.touch(p.entry(2), c.later)
		got := p.changed(e)
		if far := c.later-c.touched >= stampUnits<<stampShift; got < c.least || !far && got >= c.touched+1<<stampShift || got > c.later {
			t.Errorf("changed at %d, the page at %d: read as %d", c.touched, c.later, got)
		}
	}
}

// TestCopyRace imports while the background pours and readers read.
func TestCopyRace(t *testing.T) {
	s, _ := newReplica(t, StoreOptions{}, 8<<20)
	check(t, s.add(1, 0, 8*BlockSize), s.Commit(s.last), s.Reset(3, 100))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for off := range int64(2) {
		readers.Go(func() {
			p := make([]byte, 4*chunkBytes)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.ReadCommitted(p, off*chunkBytes); err != nil {
					t.Error(err)
					return
				}
				if _, _, err := s.NextData(0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for seq := Seq(101); seq < 400; seq++ {
		off := int64(seq%120) * BlockSize
		e := Entry{Gen: 3, Seq: seq, Kind: EntryWrite, Off: off, Len: BlockSize, Data: filled(byte(seq), BlockSize)}
		check(t, s.Append([]Entry{e}), s.Import(1<<20+off, 2*BlockSize, filled(byte(seq), 2*BlockSize)), s.Commit(seq-5))
		s.kick()
	}
	check(t, s.Complete(), s.Commit(399))
	close(stop)
	readers.Wait()
	check(t, holds(s.Store, 100*BlockSize, 340%256), holds(s.Store, 1<<20+100*BlockSize, 340%256), s.Close())
}

// TestOpenVersion1 opens a store as version 1 has left it.
func TestOpenVersion1(t *testing.T) {
	fs := crashfs.New()
	s, o, err := newStore(StoreOptions{FS: fs, Manual: true}, 4<<20)
	check(t, err, WriteAt(s, filled(1, BlockSize), 0, 0), WriteAt(s, filled(2, chunkBytes), chunkBytes, 0), s.Sync(), s.saveSuper(func(*superblock) {}))
	var b [2 * superBytes]byte
	s.super.superblock.encode(b[:])
	le.PutUint32(b[12:], 1)
	clear(b[120:superBytes])
	le.PutUint32(b[8:], checksum(b[12:superBytes]))
	copy(b[superBytes:], b[:superBytes])
	_, err = s.super.f.WriteAt(b[:], int64(s.super.serial%2)*int64(len(b)))
	fs.Kill()
	check(t, err)
	o.Replica = true
	s, err = OpenStore(o)
	check(t, err)
	_, last := s.Last()
	check(t, s.Commit(last), holds(s, 0, 1), holds(s, chunkBytes, 2), s.Append([]Entry{{Gen: 2, Seq: last + 1, Kind: EntryMark}}), s.Close())
}

package blockdev

import (
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"blkd/internal/env/crashfs"
)

// fillLog appends entries that are never committed until the store refuses, and
// returns why.
func fillLog(s *Store) error {
	for seq := Seq(1); ; seq++ {
		e := Entry{Gen: 1, Seq: seq, Kind: EntryWrite, Len: BlockSize, Data: filled(1, BlockSize)}
		if err := s.Append([]Entry{e}); err != nil {
			return err
		}
	}
}

// TestStoreRaceWakeup ends, in every way there is, the wait of an appender for
// space in a log that is full of uncommitted entries.
func TestStoreRaceWakeup(t *testing.T) {
	for what, c := range map[string]struct {
		end  func(s *Store) error
		want error
	}{
		"close":    {(*Store).Close, ErrClosed},
		"truncate": {func(s *Store) error { return s.Truncate(0) }, ErrNotNext},
	} {
		for range 300 {
			s, _, err := newStore(StoreOptions{Replica: true}, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error)
			go func() { done <- fillLog(s) }()
			for s.Stats().LogStalls == 0 {
				runtime.Gosched()
			}
			err = c.end(s)
			if got := <-done; !errors.Is(got, c.want) || err != nil {
				t.Fatalf("%s: %v; append: %v", what, err, got)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestStoreRaceCommitKicks commits a log that is full: pouring must begin at
// once, an appender may be waiting for it.
func TestStoreRaceCommitKicks(t *testing.T) {
	s, _, err := newStore(StoreOptions{Replica: true, Manual: true}, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := fillLog(s); !errors.Is(err, ErrNoSpace) { // without background work it cannot wait
		t.Fatalf("append to a full log: %v", err)
	}
	for len(s.pourNow) > 0 {
		<-s.pourNow
	}
	_, last := s.Last()
	if err := s.Commit(last); err != nil || len(s.pourNow) == 0 {
		t.Fatalf("commit: %v, kicks %d", err, len(s.pourNow))
	}
}

// TestStoreRaceClose closes a store while large writes are in flight: no file may
// be closed while it is written to.
func TestStoreRaceClose(t *testing.T) {
	var inside, torn atomic.Int32
	hook := func(op, name string, _ int64, do func() error) error {
		switch {
		case op == "write" && name == imageFile:
			inside.Add(1)
			defer inside.Add(-1)
			for range 50 {
				runtime.Gosched()
			}
		case op == "close" && name == imageFile:
			torn.Add(inside.Load())
		}
		return do()
	}
	for range 100 {
		s, _, err := newStore(StoreOptions{FS: &hookFS{crashfs.New(), hook}}, 8<<20)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var started atomic.Int32
		for w := range int64(3) {
			wg.Go(func() {
				for err := error(nil); err == nil; {
					err = WriteAt(s, filled(1, chunkBytes), w*chunkBytes, 0)
					started.Add(1)
				}
			})
		}
		for started.Load() < 3 {
			runtime.Gosched()
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
	}
	if n := torn.Load(); n > 0 {
		t.Fatalf("%d writes were under way when their file was closed", n)
	}
}

// TestStoreRaceResize resizes from two sides: what is saved is what is served.
func TestStoreRaceResize(t *testing.T) {
	hook := func(op, name string, _ int64, do func() error) error {
		if op == "write" && name == logFile { // the trim of what is cut off
			for range 50 {
				runtime.Gosched()
			}
		}
		return do()
	}
	s, _, err := newStore(StoreOptions{FS: &hookFS{crashfs.New(), hook}}, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 200 {
		var wg sync.WaitGroup
		for _, size := range []int64{16 << 20, 1 << 20} {
			wg.Go(func() {
				if err := s.Resize(size); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		s.pourMu.Lock()
		saved := s.super.size
		s.pourMu.Unlock()
		if saved != s.Size() {
			t.Fatalf("%d bytes saved, %d served", saved, s.Size())
		}
	}
}

// TestReplicaResize grows a replica; to shrink one would append to its log, which
// is not its own to write.
func TestReplicaResize(t *testing.T) {
	s, _, err := newStore(StoreOptions{Replica: true, Manual: true}, 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Resize(1 << 20); !errors.Is(err, ErrNotSupported) || s.Size() != 2<<20 {
		t.Fatalf("shrink: %v", err)
	}
	if err := errors.Join(s.Resize(4<<20), s.Close()); err != nil || s.Size() != 4<<20 {
		t.Fatalf("grow: %v", err)
	}
}

package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"blkd/internal/env/crashfs"
)

// edges are situations that random runs meet too seldom. TestStoreMutants plants
// bugs in them too.
var edges = []struct {
	name string
	run  func() error
}{
	{"batch ends a lap exactly", batchEndsLap},
	{"crash after shrinking", crashAfterShrinking},
	{"write while the volume shrinks", writeWhileShrinking},
	{"append while another waits in vain", appendWhileWaiting},
	{"checkpoint during the read of a map page", checkpointDuringRead},
	{"power loss after a failed sync of the log", func() error { return failedSync(logFile) }},
	{"power loss after a failed sync of the image", func() error { return failedSync(imageFile) }},
	{"crash in a checkpoint with a fresh commit", crashWithFreshCommit},
	{"checkpoint while a reference is applied", checkpointDuringApply},
	{"crash while a trim is applied", crashDuringTrim},
	{"trim of what is only in the log", trimOfLog},
}

func TestStoreEdges(t *testing.T) {
	for _, e := range edges {
		t.Run(e.name, func(t *testing.T) {
			if err := e.run(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// newStore makes and opens a small store that a test drives by hand.
func newStore(o StoreOptions, size int64) (*Store, StoreOptions, error) {
	if o.FS == nil {
		o.FS = crashfs.New()
	}
	o.Dir, o.Volume, o.LogBytes = "/v", "v", max(o.LogBytes, MinLog)
	if err := CreateStore(o, size); err != nil {
		return nil, o, err
	}
	s, err := OpenStore(o)
	return s, o, err
}

// submit submits a batch, answers flushes, and returns what failed.
func submit(s *Store, batch ...*Request) error {
	for _, r := range batch {
		r.Done = func(*Request) {}
		r.Len = max(r.Len, int64(len(r.Data)))
	}
	s.Submit(batch)
	s.answerFlushes()
	var errs []error
	for _, r := range batch {
		errs = append(errs, r.Err)
	}
	return errors.Join(errs...)
}

func filled(v byte, n int) []byte { return bytes.Repeat([]byte{v}, n) }

// holds checks that the block at off is filled with v.
func holds(s *Store, off int64, v byte) error {
	p := make([]byte, BlockSize)
	if err := ReadAt(s, p, off); err != nil {
		return err
	}
	if !bytes.Equal(p, filled(v, BlockSize)) {
		return fmt.Errorf("the block at %d begins with %d, not %d", off, p[0], v)
	}
	return nil
}

// batchEndsLap submits two blocks when the rest of the ring holds exactly one:
// the other one belongs at the ring's start, not behind its end.
func batchEndsLap() error {
	s, o, err := newStore(StoreOptions{Manual: true}, 4<<20)
	if err != nil {
		return err
	}
	const record = recHeader + 4 + BlockSize
	// References make the lap's length a sum of records.
	for range 2 {
		if err := WriteAt(s, filled(9, chunkBytes), 0, 0); err != nil {
			return err
		}
	}
	for left := s.log.lapLeft(s.log.head); left != record; left = s.log.lapLeft(s.log.head) {
		err := errors.New("the lap's end was missed")
		if left%record != 0 {
			err = Trim(s, 1<<20, BlockSize, 0)
		} else if left > record {
			err = WriteAt(s, filled(8, BlockSize), 1<<20, 0)
		}
		if err = errors.Join(err, s.Destage()); err != nil {
			return err
		}
	}
	if err := submit(s, &Request{Op: OpWrite, Off: 2 << 20, Data: filled(1, BlockSize)}, &Request{Op: OpWrite, Off: 3 << 20, Data: filled(2, BlockSize)}); err != nil {
		return err
	}
	if err := errors.Join(holds(s, 2<<20, 1), holds(s, 3<<20, 2), s.Close()); err != nil {
		return err
	}
	if s, err = OpenStore(o); err != nil {
		return err
	}
	return errors.Join(holds(s, 2<<20, 1), holds(s, 3<<20, 2))
}

// crashAfterShrinking replays a log with entries beyond the volume's end.
func crashAfterShrinking() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	fs := crashfs.New()
	s, o, err := newStore(StoreOptions{FS: fs, Manual: true}, 32<<20)
	if err != nil {
		return err
	}
	err = errors.Join(WriteAt(s, filled(1, BlockSize), 1<<20-BlockSize, 0), WriteAt(s, filled(1, BlockSize), 30<<20, 0),
		WriteAt(s, filled(1, chunkBytes), 31<<20, 0), s.Resize(1<<20))
	if err != nil {
		return err
	}
	fs.Kill()
	if s, err = OpenStore(o); err != nil {
		return err
	}
	if err := errors.Join(s.Resize(32<<20), holds(s, 1<<20-BlockSize, 1), holds(s, 30<<20, 0), holds(s, 31<<20, 0), s.Close()); err != nil {
		return err
	}
	if s, err = OpenStore(o); err != nil {
		return err
	}
	return errors.Join(holds(s, 30<<20, 0), holds(s, 31<<20, 0))
}

// appendWhileWaiting has a batch whose first entry waits for log space until the
// disk turns out to be full. Meanwhile another writer appends; what is left of
// the batch must go behind it.
func appendWhileWaiting() error {
	fs, hooked := crashfs.New(), false
	var s *Store
	var inner error
	hook := func(op, name string, _ int64, do func() error) error {
		if op == "write" && name == imageFile && !hooked {
			hooked = true
			inner = Trim(s, 1<<20, BlockSize, 0)
		}
		return do()
	}
	s, o, err := newStore(StoreOptions{FS: &hookFS{fs, hook}, Manual: true, FailOnFull: true}, 4<<20)
	if err != nil {
		return err
	}
	if err := errors.Join(WriteAt(s, filled(1, 2*BlockSize), 1<<20, 0), s.Sync()); err != nil {
		return err
	}
	for i := int64(0); s.log.room(s.log.head, s.log.size/8+recHeader+4+BlockSize); i++ {
		if err := WriteAt(s, filled(2, BlockSize), i*BlockSize, 0); err != nil {
			return err
		}
	}
	fs.SetBudget(0)
	err = submit(s, &Request{Op: OpWrite, Data: filled(3, BlockSize)}, &Request{Op: OpTrim, Off: 1<<20 + BlockSize, Len: BlockSize})
	if !hooked || inner != nil || !errors.Is(err, ErrNoSpace) {
		return fmt.Errorf("the log was not full: %w", errors.Join(inner, err))
	}
	fs.Kill()
	if s, err = OpenStore(o); err != nil {
		return err
	}
	return errors.Join(holds(s, 0, 2), holds(s, 1<<20, 0), holds(s, 1<<20+BlockSize, 0))
}

// checkpointDuringRead holds up the read of a map page until the page was
// changed, written by a checkpoint, and evicted.
func checkpointDuringRead() error {
	const pageSpan = pageChunks * chunkBytes
	var held func() error
	hook := func(op, name string, off int64, do func() error) error {
		err := do()
		if h := held; op == "read" && name == mapFile && off == 0 && h != nil {
			held = nil
			err = errors.Join(err, h())
		}
		return err
	}
	s, o, err := newStore(StoreOptions{FS: &hookFS{crashfs.New(), hook}, Manual: true, CacheBytes: 1}, 200*pageSpan)
	if err != nil {
		return err
	}
	touch := func() error { // every page but the first, so that the cache turns over
		for i := range int64(199) {
			if err := WriteAt(s, filled(7, BlockSize), (i+1)*pageSpan, 0); err != nil {
				return err
			}
		}
		return s.Destage()
	}
	err = errors.Join(WriteAt(s, filled(1, chunkBytes), 0, 0), s.Destage(), touch(), s.Close())
	if err != nil {
		return err
	}
	if s, err = OpenStore(o); err != nil {
		return err
	}
	held = func() error {
		return errors.Join(WriteAt(s, filled(2, chunkBytes), 0, 0), s.Destage(), touch())
	}
	if err := s.Extents(0, BlockSize, func(Extent) bool { return true }); err != nil { // takes no stripe: a checkpoint does not wait for it
		return err
	}
	if held != nil {
		return errors.New("the page was not read")
	}
	return errors.Join(holds(s, 0, 2), s.Close())
}

// writeWhileShrinking shrinks the volume between the check of a write and its
// entry in the log. What is cut off must stay zero.
func writeWhileShrinking() error {
	const end = 2*chunkBytes + BlockSize/2
	var s *Store
	var inner error
	hooked := false
	hook := func(op, name string, _ int64, do func() error) error {
		if op == "write" && name == imageFile && !hooked {
			hooked = true
			inner = s.Resize(end)
		}
		return do()
	}
	s, _, err := newStore(StoreOptions{FS: &hookFS{crashfs.New(), hook}, Manual: true}, 1<<20)
	if err != nil {
		return err
	}
	if err := WriteAt(s, filled(1, 4*chunkBytes), 0, 0); !errors.Is(err, ErrRange) || inner != nil {
		return fmt.Errorf("write beyond the new end: %v (%v)", err, inner)
	}
	if err := s.Resize(1 << 20); err != nil {
		return err
	}
	return errors.Join(holds(s, 2*chunkBytes, 0), holds(s, 3*chunkBytes, 0), s.Close())
}

// failedSync fails a sync, so that the page cache holds what the disk does not.
// The store is opened again, serves, flushes, and then the power goes.
func failedSync(file string) error {
	fs := crashfs.New()
	s, o, err := newStore(StoreOptions{FS: fs, Manual: true}, 1<<20)
	if err != nil {
		return err
	}
	// A place before the image's end is free, so that the file need not grow.
	err = errors.Join(WriteAt(s, filled(9, 2*chunkBytes), 8*chunkBytes, 0), s.Sync(), Trim(s, 8*chunkBytes, chunkBytes, 0), s.Destage(),
		WriteAt(s, filled(1, BlockSize), 0, 0), WriteAt(s, filled(2, chunkBytes), 4*chunkBytes, 0))
	if err != nil {
		return err
	}
	fs.Inject(crashfs.Rule{Ops: crashfs.OpSync, Name: file})
	if err := s.Sync(); !errors.Is(err, ErrIO) {
		return fmt.Errorf("a sync that failed: %w", err)
	}
	fs.Kill()
	fs.ClearRules()
	if s, err = OpenStore(o); err != nil {
		return err
	}
	err = errors.Join(holds(s, 0, 1), holds(s, 4*chunkBytes, 2), WriteAt(s, filled(3, BlockSize), BlockSize, 0), s.Sync())
	if err != nil {
		return err
	}
	o.FS = fs.CrashMode(crashfs.AllLost, 1)
	if s, err = OpenStore(o); err != nil {
		return err
	}
	return errors.Join(holds(s, 0, 1), holds(s, BlockSize, 3), holds(s, 4*chunkBytes, 2))
}

package blockdev_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"blkd/blockdev"
	"blkd/blockdev/devicetest"
	"blkd/internal/env"
	"blkd/internal/env/crashfs"
)

func TestStoreDevice(t *testing.T) {
	devicetest.Run(t, func(t *testing.T) blockdev.Device {
		return openStore(t, blockdev.StoreOptions{LogBytes: 8 << 20}, 64<<20)
	})
}

// TestStoreConcurrent mixes writers, readers, trims and flushes on overlapping
// ranges with a log so small that pouring never rests; -race watches.
func TestStoreConcurrent(t *testing.T) {
	const size, workers = 16 << 20, 6
	s := openStore(t, blockdev.StoreOptions{LogBytes: 1 << 20, CacheBytes: 1}, size)
	defer s.Close()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 9))
			buf := make([]byte, 256<<10)
			for range 300 {
				n := 4096 * (1 + rng.Int64N(int64([]int{1, 4, 64}[rng.IntN(3)])))
				off := rng.Int64N((size-n)/4096+1) * 4096
				if err := concurrentStep(s, rng, buf[:n], off); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if r, err := s.Verify(context.Background(), nil); err != nil || r.BadTotal != 0 {
		t.Fatalf("verify: %v, %+v", err, r)
	}
}

// concurrentStep writes whole blocks of one value, or reads blocks and checks
// that each has one value: a block is never half of one write and half of another.
func concurrentStep(s *blockdev.Store, rng *rand.Rand, p []byte, off int64) error {
	switch rng.IntN(8) {
	case 0:
		return blockdev.Trim(s, off, int64(len(p)), 0)
	case 1:
		return blockdev.Flush(s)
	case 2, 3, 4:
		for i := 0; i < len(p); i += 4096 {
			v := byte(rng.Uint32())
			for j := range 4096 {
				p[i+j] = v
			}
		}
		return blockdev.WriteAt(s, p, off, 0)
	}
	if err := blockdev.ReadAt(s, p, off); err != nil {
		return err
	}
	for i := 0; i < len(p); i += 4096 {
		if b := p[i : i+4096]; !bytes.Equal(b, bytes.Repeat(b[:1], 4096)) {
			return errors.New("a block holds parts of two writes")
		}
	}
	return nil
}

// TestStoreBitRot flips a bit in the image, and one in the log: the reads of
// those blocks fail and say where, every other read goes on, verify lists them.
func TestStoreBitRot(t *testing.T) {
	fs := crashfs.New()
	var events []*blockdev.ChecksumError
	o := blockdev.StoreOptions{FS: fs, Dir: "/v", Volume: "pg", LogBytes: blockdev.MinLog, Manual: true,
		Events: blockdev.StoreEvents{BadBlock: func(e *blockdev.ChecksumError) { events = append(events, e) }}}
	s := openStore(t, o, 1<<20)
	defer s.Close()
	data := bytes.Repeat([]byte{7}, 64<<10)
	if err := errors.Join(blockdev.WriteAt(s, data, 0, 0), blockdev.WriteAt(s, data[:8192], 128<<10, 0)); err != nil {
		t.Fatal(err)
	}
	if err := fs.Corrupt("/v/image", 8192+17, 3); err != nil {
		t.Fatal(err)
	}
	err := blockdev.ReadAt(s, make([]byte, 64<<10), 0)
	var bad *blockdev.ChecksumError
	if !errors.As(err, &bad) || !errors.Is(err, blockdev.ErrIO) || bad.Off != 8192 || bad.File != "/v/image" || bad.FileOff != 8192 || bad.Volume != "pg" {
		t.Fatalf("read of a rotten block: %v (%+v)", err, bad)
	}
	if err := blockdev.ReadAt(s, make([]byte, 8192), 0); err != nil {
		t.Fatalf("its neighbours: %v", err)
	}
	corruptLog(t, fs, s)
	report, err := s.Verify(context.Background(), nil)
	if err != nil || report.BadTotal != 2 || len(report.Bad) != 2 || report.Bad[1].Off != 128<<10 || report.Bad[1].File != "/v/log" {
		t.Fatalf("verify: %v %+v", err, report)
	}
	if err := s.Destage(); err != nil { // pouring must not bless the bad block
		t.Fatal(err)
	}
	if err := blockdev.ReadAt(s, make([]byte, 4096), 128<<10); !errors.Is(err, blockdev.ErrIO) {
		t.Fatalf("read of a block that was rotten in the log: %v", err)
	}
	if err := blockdev.WriteAt(s, data, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.ReadAt(s, data, 0); err != nil {
		t.Fatalf("a rewritten block: %v", err)
	}
	if len(events) == 0 || s.Stats().BadBlocks == 0 {
		t.Fatal("no event, no count")
	}
}

// corruptLog flips a bit of the block at 128 KiB, which is only in the log.
func corruptLog(t *testing.T, fs *crashfs.FS, s *blockdev.Store) {
	f, err := fs.Open("/v/log", os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw := make([]byte, blockdev.MinLog)
	if _, err := f.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, bytes.Repeat([]byte{7}, 4096))
	if at < 0 {
		t.Fatal("the block is not in the log")
	}
	if err := fs.Corrupt("/v/log", int64(at+5), 0); err != nil {
		t.Fatal(err)
	}
}

// TestStoreLogDamage breaks a record that was flushed: opening refuses instead
// of dropping acknowledged writes.
func TestStoreLogDamage(t *testing.T) {
	fs := crashfs.New()
	o := blockdev.StoreOptions{FS: fs, Dir: "/v", Volume: "pg", LogBytes: blockdev.MinLog, Manual: true}
	s := openStore(t, o, 1<<20)
	for i := range int64(8) {
		if err := errors.Join(blockdev.WriteAt(s, make([]byte, 4096), i*4096, 0), s.Sync()); err != nil {
			t.Fatal(err)
		}
	}
	fs.Kill()
	if err := fs.Corrupt("/v/log", 4096+20, 0); err != nil { // the first record's header
		t.Fatal(err)
	}
	if _, err := blockdev.OpenStore(o); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Fatalf("open with a damaged log: %v", err)
	}
}

// TestStoreFull fills the disk: nothing acknowledged is lost, reads go on,
// writes fail (or wait) once the log is full, and go on when there is space.
func TestStoreFull(t *testing.T) {
	fs := crashfs.New()
	o := blockdev.StoreOptions{FS: fs, Dir: "/v", Volume: "pg", LogBytes: blockdev.MinLog, FailOnFull: true}
	s := openStore(t, o, 8<<20)
	defer s.Close()
	fs.SetBudget(600 << 10)
	written := int64(0)
	var err error
	for ; written < 8<<20; written += 4096 {
		if err = blockdev.WriteAt(s, bytes.Repeat([]byte{byte(written>>12) | 1}, 4096), written, 0); err != nil {
			break
		}
	}
	if !errors.Is(err, blockdev.ErrNoSpace) {
		t.Fatalf("after %d bytes: %v", written, err)
	}
	check := func() {
		t.Helper()
		p := make([]byte, 4096)
		for off := int64(0); off < written; off += 4096 {
			if err := blockdev.ReadAt(s, p, off); err != nil || p[0] != byte(off>>12)|1 {
				t.Fatalf("block at %d: %v, value %d", off, err, p[0])
			}
		}
	}
	check()
	if err := blockdev.Trim(s, 4<<20, 4<<20, 0); err != nil {
		t.Fatalf("trim on a full disk: %v", err)
	}
	fs.SetBudget(-1)
	deadline := time.Now().Add(time.Minute)
	for {
		err := blockdev.WriteAt(s, bytes.Repeat([]byte{byte(written>>12) | 1}, 4096), written, 0)
		if err == nil {
			break
		}
		if !errors.Is(err, blockdev.ErrNoSpace) || time.Now().After(deadline) {
			t.Fatalf("write after space came back: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	written += 4096
	check()
}

// TestStoreFullTrim: when the disk and the log are full, trimming gives back the
// space that lets writes go on.
func TestStoreFullTrim(t *testing.T) {
	fs := crashfs.New()
	o := blockdev.StoreOptions{FS: fs, Dir: "/v", Volume: "pg", LogBytes: blockdev.MinLog}
	s := openStore(t, o, 8<<20)
	defer s.Close()
	fs.SetBudget(1 << 20)
	big := make([]byte, 64<<10)
	for off := int64(4 << 20); off < 4<<20+512<<10; off += 64 << 10 { // half a MiB, in the image
		if err := blockdev.WriteAt(s, big, off, 0); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() { // these need more than there is, and wait
		for off := int64(0); off < 700<<10; off += 4096 {
			if err := blockdev.WriteAt(s, big[:4096], off, 0); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for !s.Stats().Full {
		time.Sleep(time.Millisecond)
	}
	if err := blockdev.Trim(s, 4<<20, 4<<20, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestStoreTrimMemory trims a volume of which many map pages exist: no more of
// them than half the cache are dirty for long.
func TestStoreTrimMemory(t *testing.T) {
	const size, region = 64 << 30, 56 * 64 << 10
	s := openStore(t, blockdev.StoreOptions{LogBytes: 4 << 20, CacheBytes: 1}, size)
	defer s.Close()
	block := make([]byte, 4096)
	for off := int64(0); off < size; off += 2 * region {
		if err := blockdev.WriteAt(s, block, off, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Destage(); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.Trim(s, 0, size, 0); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.CachePages > 1000 {
		t.Fatalf("%d pages cached after a trim", st.CachePages)
	}
	if err := s.Destage(); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.AllocatedBytes != 0 {
		t.Fatalf("%d bytes are allocated", st.AllocatedBytes)
	}
}

// TestStoreFullWaits: without FailOnFull the write that finds no room waits.
func TestStoreFullWaits(t *testing.T) {
	fs := crashfs.New()
	full := make(chan bool, 100)
	o := blockdev.StoreOptions{FS: fs, Dir: "/v", Volume: "pg", LogBytes: blockdev.MinLog,
		Events: blockdev.StoreEvents{Full: func(on bool) { full <- on }}}
	s := openStore(t, o, 8<<20)
	defer s.Close()
	fs.SetBudget(600 << 10)
	done := make(chan error, 1)
	go func() {
		for off := int64(0); off < 8<<20; off += 4096 {
			if err := blockdev.WriteAt(s, make([]byte, 4096), off, 0); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	if on := <-full; !on {
		t.Fatal("the first event says there is space")
	}
	fs.SetBudget(-1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestStoreFailStop: after a failed sync nothing is acknowledged any more.
func TestStoreFailStop(t *testing.T) {
	fs := crashfs.New()
	var failed error
	o := blockdev.StoreOptions{FS: fs, Dir: "/v", Volume: "pg", LogBytes: blockdev.MinLog, Manual: true,
		Events: blockdev.StoreEvents{Failed: func(err error) { failed = err }}}
	s := openStore(t, o, 1<<20)
	defer s.Close()
	if err := blockdev.WriteAt(s, make([]byte, 4096), 0, 0); err != nil {
		t.Fatal(err)
	}
	fs.Inject(crashfs.Rule{Ops: crashfs.OpSync, Err: syscall.EIO})
	if err := s.Sync(); !errors.Is(err, blockdev.ErrIO) || failed == nil {
		t.Fatalf("sync on a failing disk: %v, event %v", err, failed)
	}
	fs.ClearRules()
	if err := blockdev.WriteAt(s, make([]byte, 4096), 0, 0); err == nil {
		t.Fatal("a failed store accepted a write")
	}
}

// TestStoreAmplification: large aligned writes are not written twice.
func TestStoreAmplification(t *testing.T) {
	s := openStore(t, blockdev.StoreOptions{LogBytes: 8 << 20}, 256<<20)
	defer s.Close()
	buf := bytes.Repeat([]byte{1}, 1<<20)
	for pass := range 2 {
		for off := int64(0); off < 256<<20; off += 1 << 20 {
			buf[0] = byte(pass)
			if err := blockdev.WriteAt(s, buf, off, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Destage(); err != nil {
		t.Fatal(err)
	}
	st := s.Stats()
	if wa := st.WriteAmplification(); wa > 1.01 {
		t.Fatalf("write amplification %.3f: %+v", wa, st)
	}
}

// TestStoreSpace: trim gives space back, also of what was poured.
func TestStoreSpace(t *testing.T) {
	dir := t.TempDir() + "/v"
	s := openStore(t, blockdev.StoreOptions{Dir: dir, LogBytes: 1 << 20}, 64<<20)
	defer s.Close()
	buf := bytes.Repeat([]byte{1}, 60<<10) // not whole chunks: through the log
	for off := int64(0); off+64<<10 <= 64<<20; off += 64 << 10 {
		if err := blockdev.WriteAt(s, buf, off, 0); err != nil {
			t.Fatal(err)
		}
	}
	image := func() int64 {
		if err := s.Destage(); err != nil {
			t.Fatal(err)
		}
		var st syscall.Stat_t
		if err := syscall.Stat(dir+"/image", &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	if n := image(); n < 50<<20 {
		t.Fatalf("image takes %d bytes after 60 MiB were written", n)
	}
	if err := blockdev.Trim(s, 0, 64<<20, 0); err != nil {
		t.Fatal(err)
	}
	if n := image(); n > 1<<20 {
		t.Fatalf("image takes %d bytes after all was trimmed", n)
	}
	if n := s.Stats().AllocatedBytes; n != 0 {
		t.Fatalf("%d bytes are allocated", n)
	}
}

// TestStoreResize grows and shrinks; what was cut off never comes back.
func TestStoreResize(t *testing.T) {
	o := blockdev.StoreOptions{FS: env.OS{}, Dir: t.TempDir() + "/v", Volume: "pg", LogBytes: 1 << 20}
	s := openStore(t, o, 4<<20)
	data := bytes.Repeat([]byte{9}, 4<<20)
	steps := errors.Join(
		blockdev.WriteAt(s, data, 0, 0), s.Resize(1<<20+512), s.Resize(32<<20), s.Close())
	if steps != nil {
		t.Fatal(steps)
	}
	s, err := blockdev.OpenStore(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := make([]byte, 8<<20)
	if err := blockdev.ReadAt(s, got, 0); err != nil || s.Size() != 32<<20 {
		t.Fatalf("size %d, %v", s.Size(), err)
	}
	want := append(append([]byte(nil), data[:1<<20+512]...), make([]byte, 7<<20-512)...)
	if !bytes.Equal(got, want) {
		t.Fatal("contents differ")
	}
	if err := s.Resize(1000); !errors.Is(err, blockdev.ErrInvalid) {
		t.Fatalf("resize to 1000 bytes: %v", err)
	}
	if err := s.Resize(2 << 20); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.WriteAt(s, data[:4096], 2<<20, 0); !errors.Is(err, blockdev.ErrRange) {
		t.Fatalf("write beyond the new end: %v", err)
	}
}

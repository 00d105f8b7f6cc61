package crashfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"blkd/internal/env"
)

var _ env.FS = (*FS)(nil)

// TestAgreesWithTheKernel runs random operations on a real file system too.
func TestAgreesWithTheKernel(t *testing.T) {
	for run := range uint64(20) {
		r := rand.New(rand.NewPCG(run, 2))
		dir := t.TempDir()
		fs := New()
		fs.MkdirAll(dir)
		name := filepath.Join(dir, "f")
		mine, theirs := open(t, fs, name), open(t, env.OS{}, name)
		for step := range 60 {
			seed := r.Uint64()
			randomStep(t, rand.New(rand.NewPCG(seed, 0)), []env.File{mine}, step)
			randomStep(t, rand.New(rand.NewPCG(seed, 0)), []env.File{theirs}, step)
			a, _ := contents(t, fs, name)
			b, _ := contents(t, env.OS{}, name)
			if !bytes.Equal(a, b) {
				t.Fatalf("run %d step %d: %d and %d bytes that differ", run, step, len(a), len(b))
			}
			off, n := r.Int64N(50<<10), r.IntN(9000)
			p, q := make([]byte, n), make([]byte, n)
			na, errA := mine.ReadAt(p, off)
			nb, errB := theirs.ReadAt(q, off)
			if na != nb || errA != errB || !bytes.Equal(p, q) {
				t.Fatalf("run %d step %d: read %d at %d: %d %v, kernel %d %v", run, step, n, off, na, errA, nb, errB)
			}
		}
		must(t, theirs.Close())
	}
}

// TestNamesAgreeWithTheKernel runs random name operations on both.
func TestNamesAgreeWithTheKernel(t *testing.T) {
	names := []string{"a", "b", "d", "d/a", "d/b", "d/e", "d/e/a", "nope/a"}
	for run := range uint64(20) {
		r := rand.New(rand.NewPCG(run, 3))
		dir := t.TempDir()
		fs := New()
		fs.MkdirAll(dir)
		for step := range 100 {
			x, y := filepath.Join(dir, names[r.IntN(len(names))]), filepath.Join(dir, names[r.IntN(len(names))])
			kind, flags := r.IntN(6), []int{0, os.O_CREATE, os.O_CREATE | os.O_EXCL, os.O_CREATE | os.O_TRUNC}[r.IntN(4)]
			mine, theirs := nameStep(fs, kind, flags, x, y), nameStep(env.OS{}, kind, flags, x, y)
			if mine != theirs {
				t.Fatalf("run %d step %d: kind %d flags %#x on %s, %s: %s, kernel says %s", run, step, kind, flags, x, y, mine, theirs)
			}
		}
	}
}

func nameStep(fs env.FS, kind, flags int, x, y string) string {
	switch kind {
	case 0:
		return errno(fs.Remove(x))
	case 1:
		return errno(fs.Rename(x, y))
	case 2:
		return errno(fs.MkdirAll(x))
	case 3:
		list, err := fs.ReadDir(x)
		return fmt.Sprint(list, errno(err))
	case 4:
		fs.SyncDir(filepath.Dir(x)) // the kernel syncs a plain file here as well
		return ""
	}
	f, err := fs.Open(x, os.O_RDWR|flags)
	if err != nil {
		return errno(err)
	}
	size, _ := f.Size()
	_, err = f.WriteAt([]byte(x), 0)
	return fmt.Sprint(size, errno(err), errno(f.Close()))
}

func errno(err error) string {
	var no syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &no):
		return no.Error()
	}
	return err.Error()
}

func TestErrorsMatchTheOperatingSystems(t *testing.T) {
	fs := New()
	_, err := fs.Open("missing", os.O_RDWR)
	if !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	must(t, open(t, fs, "f").Close())
	_, err = fs.Open("f", os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if !errors.Is(err, iofs.ErrExist) {
		t.Errorf("existing file: %v", err)
	}
	f, err := fs.Open("f", os.O_RDONLY)
	must(t, err)
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EBADF) {
		t.Errorf("write to a file opened for reading: %v", err)
	}
	if n, err := f.ReadAt(make([]byte, 1), 0); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if err := open(t, fs, "f").Truncate(-1); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("negative size: %v", err)
	}
	must(t, f.Close())
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read from a closed file: %v", err)
	}
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
}

func TestLock(t *testing.T) {
	fs := New()
	l, err := fs.Lock("lock")
	must(t, err)
	if _, err := fs.Lock("lock"); err == nil {
		t.Error("locked twice")
	}
	must(t, l.Close())
	l, err = fs.Lock("lock")
	must(t, err)
	if l.Close() != nil || l.Close() == nil {
		t.Error("a lock closes once")
	}
	_, err = fs.Lock("lock")
	must(t, err)
	must(t, fs.SyncDir("/"))
	if l.Close() == nil {
		t.Error("a closed lock released another's")
	}
	if _, err := fs.Lock("lock"); err == nil {
		t.Error("locked twice")
	}
	if _, err := fs.Crash(1).Lock("lock"); err != nil {
		t.Errorf("after a crash: %v", err)
	}
	fs.Kill()
	if _, err := fs.Lock("lock"); err != nil {
		t.Errorf("after Kill: %v", err)
	}
}

func TestRules(t *testing.T) {
	fs := New()
	log, img := durable(t, fs, "v.log", fill('a', 4096)), durable(t, fs, "v.img", fill('a', 4096))
	fs.Inject(Rule{Ops: OpRead | OpWrite, Name: "*.log", Skip: 1, Times: 2})
	buf := make([]byte, 8)
	for i, want := range []error{nil, syscall.EIO, syscall.EIO, nil} {
		if _, err := log.ReadAt(buf, 0); !errors.Is(err, want) {
			t.Errorf("read %d: %v, want %v", i, err, want)
		}
		if _, err := img.ReadAt(buf, 0); err != nil {
			t.Errorf("other file: %v", err)
		}
	}
	fs.Inject(Rule{Ops: OpWrite, Name: "/v.img", Err: syscall.EROFS, Short: 3})
	n, err := img.WriteAt([]byte("hello"), 0)
	if n != 3 || !errors.Is(err, syscall.EROFS) {
		t.Errorf("short write: %d, %v", n, err)
	}
	if err := img.WritevAt([][]byte{[]byte("w"), []byte("orld")}, 8); !errors.Is(err, syscall.EROFS) {
		t.Errorf("short writev: %v", err)
	}
	img.ReadAt(buf, 0)
	if string(buf) != "helaaaaa" {
		t.Errorf("short write left %q", buf)
	}
	img.ReadAt(buf, 8)
	if string(buf) != "woraaaaa" {
		t.Errorf("short writev left %q", buf)
	}
	fs.ClearRules()
	write(t, img, []byte("hello"), 0)
	for _, op := range []Op{OpCreate, OpOpen, OpMkdir, OpRemove, OpRename, OpReadDir, OpSyncDir, OpSync, OpTruncate, OpAllocate, OpPunch} {
		fs.ClearRules()
		fs.Inject(Rule{Ops: op})
		if err := everyOp(fs)[op]; !errors.Is(err, syscall.EIO) {
			t.Errorf("%v: %v", op, err)
		}
	}
	if got := Op(3).String(); got != "op(0x3)" {
		t.Error(got)
	}
}

func everyOp(fs *FS) map[Op]error {
	out := map[Op]error{}
	_, out[OpCreate] = fs.Open("new", os.O_CREATE)
	_, out[OpOpen] = fs.Open("v.log", os.O_RDWR)
	out[OpMkdir] = fs.MkdirAll(fmt.Sprint("dir", fs.Ops()))
	_, out[OpReadDir] = fs.ReadDir("/")
	out[OpSyncDir] = fs.SyncDir("/")
	out[OpRename] = fs.Rename("v.log", "v.log2")
	if out[OpRename] == nil {
		fs.Rename("v.log2", "v.log")
	}
	if f, err := fs.Open("v.img", os.O_RDWR); err == nil {
		out[OpSync], out[OpTruncate] = f.Sync(), f.Truncate(100)
		out[OpAllocate], out[OpPunch] = f.Allocate(0, 100), f.PunchHole(0, 100)
		f.Close()
	}
	out[OpRemove] = fs.Remove("new")
	return out
}

func TestBudget(t *testing.T) {
	fs := New()
	fs.SetBudget(4 * pageSize)
	f, g := open(t, fs, "f"), open(t, fs, "g")
	write(t, f, fill('a', 100), 0)
	must(t, g.Allocate(0, 2*pageSize))
	if err := g.Allocate(0, 4*pageSize); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("allocate: %v", err)
	}
	n, err := f.WriteAt(fill('b', 3*pageSize), 100)
	if want := 2*pageSize - 100; n != want || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write: %d of %d, %v", n, want, err)
	}
	if fs.Used() != 4*pageSize {
		t.Errorf("%d bytes used", fs.Used())
	}
	if n, err := f.WriteAt(fill('c', 10), 1<<20); n != 0 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write into a hole: %d, %v", n, err)
	}
	write(t, f, fill('c', 2*pageSize), 0) // in place
	write(t, g, fill('d', 2*pageSize), 0) // allocated before
	must(t, f.PunchHole(0, pageSize))
	write(t, g, fill('e', 1), 5*pageSize)
	must(t, g.Truncate(0))
	must(t, fs.Remove("f"))
	if fs.Used() != pageSize {
		t.Errorf("an open file without a name uses %d bytes", fs.Used())
	}
	must(t, f.Close())
	if fs.Used() != 0 {
		t.Errorf("%d bytes used in the end", fs.Used())
	}
	must(t, g.Allocate(0, 4*pageSize))
	crashed := fs.Crash(0)
	if err := open(t, crashed, "h").Allocate(0, 5*pageSize); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("after a crash: %v", err)
	}
}

func TestCorrupt(t *testing.T) {
	fs := New()
	f := durable(t, fs, "f", fill('a', 512))
	must(t, fs.Corrupt("f", 3, 1))
	check := func(fs *FS, want string) {
		t.Helper()
		if got, _ := contents(t, fs, "f"); string(got[:5]) != want {
			t.Errorf("%q, want %q", got[:5], want)
		}
	}
	check(fs, "aaaca")
	for seed := range uint64(seeds) {
		check(fs.Crash(seed), "aaaca")
	}
	must(t, f.Sync())
	check(fs.CrashMode(AllLost, 0), "aaaca")
	write(t, f, fill('b', 512), 0)
	check(fs, "bbbbb")
	check(fs.CrashMode(AllLost, 0), "aaaca")
	if fs.Corrupt("f", 512, 0) == nil || fs.Corrupt("g", 0, 0) == nil || fs.Corrupt("f", 0, 8) == nil {
		t.Error("corrupted what is not there")
	}
}

func TestTraceAndStats(t *testing.T) {
	fs := New()
	var got []string
	fs.SetTrace(func(e Event) { got = append(got, fmt.Sprint(e.N, e.Op, e.Name, e.Off, e.Len, e.Err)) })
	f := open(t, fs, "f")
	write(t, f, []byte("abc"), 5)
	must(t, f.Sync())
	must(t, fs.SyncDir("."))
	fs.PowerOff()
	f.WriteAt(nil, 0)
	want := "[1 create/f0 0 <nil> 2 write/f5 3 <nil> 3 sync/f0 0 <nil> 4 syncdir/0 0 <nil>]"
	if fmt.Sprint(got) != want {
		t.Errorf("trace %q", got)
	}
	if s := fs.Stats(); s != (Stats{Writes: 1, WrittenBytes: 3, Syncs: 1, DirSyncs: 1}) {
		t.Errorf("%+v", s)
	}
}

// BenchmarkCrashRun is one run of a store's crash test without the store: three
// files, 200 operations, one crash, one read of everything.
func BenchmarkCrashRun(b *testing.B) {
	b.ReportAllocs()
	buf, big := make([]byte, 4096+512), make([]byte, 1<<20)
	for i := 0; b.Loop(); i++ {
		r := rng(i)
		fs := New()
		var files [3]env.File
		for k := range files {
			files[k] = durable(b, fs, fmt.Sprint(k), nil)
			must(b, files[k].Allocate(0, 4<<20))
		}
		for op := range 200 {
			f := files[r.below(3)]
			if op%10 == 9 {
				f.Sync()
			} else {
				f.WriteAt(buf[:512+r.below(8)*512], int64(r.below(1000))*4096)
			}
		}
		after := fs.Crash(uint64(i))
		f := open(b, after, "0")
		for off := int64(0); off < 4<<20; off += 1 << 20 {
			f.ReadAt(big, off)
		}
	}
}

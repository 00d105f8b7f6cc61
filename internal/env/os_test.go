package env_test

import (
	"bytes"
	"errors"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"blkd/internal/env"
)

func create(t *testing.T, name string) env.File {
	t.Helper()
	f, err := env.OS{}.Open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestWritevAt gathers more buffers than one system call takes, of odd sizes and
// some of them empty.
func TestWritevAt(t *testing.T) {
	f := create(t, filepath.Join(t.TempDir(), "f"))
	for _, count := range []int{0, 1, 2, 1023, 1024, 1025, 3000} {
		var bufs [][]byte
		var want []byte
		for i := range count {
			b := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, i%40)
			bufs = append(bufs, b)
			want = append(want, b...)
		}
		must(t, f.WritevAt(bufs, 777))
		got := make([]byte, len(want))
		if n, err := f.ReadAt(got, 777); n != len(got) || err != nil {
			t.Fatalf("%d buffers: read %d of %d, %v", count, n, len(got), err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%d buffers: other bytes", count)
		}
	}
	must(t, f.Sync())
}

func TestReadEndsWithTheFile(t *testing.T) {
	f := create(t, filepath.Join(t.TempDir(), "f"))
	if n, err := f.WriteAt([]byte("hello"), 10); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	for _, c := range []struct {
		off  int64
		n    int
		want string
		err  error
	}{{10, 5, "hello", nil}, {8, 4, "\x00\x00he", nil}, {12, 10, "llo", io.EOF}, {15, 1, "", io.EOF}, {99, 1, "", io.EOF}, {99, 0, "", nil}} {
		p := make([]byte, c.n)
		n, err := f.ReadAt(p, c.off)
		if string(p[:n]) != c.want || err != c.err {
			t.Errorf("read of %d bytes at %d: %q, %v", c.n, c.off, p[:n], err)
		}
	}
}

// blocks is the space that a file takes, in bytes.
func blocks(t *testing.T, name string) int64 {
	t.Helper()
	var st syscall.Stat_t
	must(t, syscall.Stat(name, &st))
	return st.Blocks * 512
}

// TestReadWhatIsPartlyCached reads a range of which the page cache holds the first
// half: one part comes without waiting, the other from the disk.
func TestReadWhatIsPartlyCached(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f := create(t, name)
	want := bytes.Repeat([]byte("0123456"), 100_000)
	_, err := f.WriteAt(want, 0)
	must(t, err)
	must(t, f.Sync())
	o, err := os.Open(name)
	must(t, err)
	defer o.Close()
	must(t, unix.Fadvise(int(o.Fd()), int64(len(want)/2), 0, unix.FADV_DONTNEED))
	got := make([]byte, len(want)-5)
	if n, err := f.ReadAt(got, 5); n != len(got) || err != nil || !bytes.Equal(got, want[5:]) {
		t.Fatalf("read %d of %d bytes, %v; as written: %v", n, len(got), err, bytes.Equal(got, want[5:]))
	}
}

func TestSpace(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f := create(t, name)
	size := func() int64 {
		n, err := f.Size()
		must(t, err)
		return n
	}
	must(t, f.Truncate(1<<20))
	if size() != 1<<20 || blocks(t, name) != 0 {
		t.Errorf("sparse: %d bytes that take %d", size(), blocks(t, name))
	}
	must(t, f.Allocate(0, 2<<20))
	if size() != 2<<20 || blocks(t, name) < 2<<20 {
		t.Errorf("allocated: %d bytes that take %d", size(), blocks(t, name))
	}
	_, err := f.WriteAt(bytes.Repeat([]byte("x"), 2<<20), 0)
	must(t, err)
	must(t, f.PunchHole(100, 1<<20))
	p := make([]byte, 1<<20+200)
	_, err = f.ReadAt(p, 0)
	must(t, err)
	if p[99] != 'x' || p[100] != 0 || p[1<<20+99] != 0 || p[1<<20+100] != 'x' {
		t.Error("the hole has other borders")
	}
	if got := blocks(t, name); got > 1<<20+64<<10 {
		t.Errorf("after a hole of 1 MiB, 2 MiB take %d", got)
	}
	must(t, f.Truncate(5))
	if size() != 5 {
		t.Errorf("cut to 5 bytes: %d", size())
	}
}

func TestNames(t *testing.T) {
	fs := env.OS{}
	dir := filepath.Join(t.TempDir(), "a", "b")
	must(t, fs.MkdirAll(dir))
	must(t, fs.MkdirAll(dir))
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", fi.Mode(), err)
	}
	for _, name := range []string{"z", "a", "m"} {
		must(t, create(t, filepath.Join(dir, name)).Close())
	}
	must(t, fs.Rename(filepath.Join(dir, "z"), filepath.Join(dir, "b")))
	must(t, fs.Remove(filepath.Join(dir, "m")))
	must(t, fs.SyncDir(dir))
	if names, err := fs.ReadDir(dir); err != nil || !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("names: %v, %v", names, err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "a")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", fi.Mode(), err)
	}
	missing := filepath.Join(dir, "missing")
	_, openErr := fs.Open(missing, os.O_RDWR)
	_, readErr := fs.ReadDir(missing)
	for what, err := range map[string]error{
		"open": openErr, "readdir": readErr, "remove": fs.Remove(missing), "rename": fs.Rename(missing, dir+"/x"), "syncdir": fs.SyncDir(missing),
	} {
		if !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("%s of what is missing: %v", what, err)
		}
	}
}

func TestErrorsSayWhatAndWhere(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	must(t, create(t, name).Close())
	f, err := env.OS{}.Open(name, os.O_RDONLY)
	must(t, err)
	defer f.Close()
	_, writeErr := f.WriteAt([]byte("x"), 4096)
	for _, c := range []struct {
		err   error
		what  string
		cause error
	}{
		{writeErr, "write at 4096", syscall.EBADF},
		{f.WritevAt([][]byte{{1}}, 8192), "write at 8192", syscall.EBADF},
		{f.Allocate(100, 10), "allocate at 100", syscall.EBADF},
		{f.PunchHole(200, 10), "punch hole at 200", syscall.EBADF},
	} {
		if !errors.Is(c.err, c.cause) || !strings.Contains(c.err.Error(), c.what) || !strings.Contains(c.err.Error(), name) {
			t.Errorf("%v: want %q, the file's name and %v", c.err, c.what, c.cause)
		}
	}
}

func TestLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	l, err := env.OS{}.Lock(name)
	must(t, err)
	if _, err := (env.OS{}).Lock(name); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("second lock: %v", err)
	}
	must(t, l.Close())
	l, err = env.OS{}.Lock(name)
	must(t, err)
	must(t, l.Close())
	if _, err := (env.OS{}).Lock(filepath.Join(name, "x")); err == nil {
		t.Error("locked a file in a file")
	}
}

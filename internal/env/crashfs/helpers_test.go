package crashfs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"testing"

	"blkd/internal/env"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, fs env.FS, name string) env.File {
	t.Helper()
	f, err := fs.Open(name, os.O_RDWR|os.O_CREATE)
	must(t, err)
	return f
}

// durable makes a file with the given contents that a crash keeps.
func durable(t testing.TB, fs *FS, name string, data []byte) env.File {
	t.Helper()
	f := open(t, fs, name)
	write(t, f, data, 0)
	must(t, f.Sync())
	must(t, fs.SyncDir("/"))
	return f
}

func write(t testing.TB, f env.File, p []byte, off int64) {
	t.Helper()
	n, err := f.WriteAt(p, off)
	if err != nil || n != len(p) {
		t.Fatalf("write of %d bytes at %d: %d, %v", len(p), off, n, err)
	}
}

// contents reads a whole file; ok is false if there is none.
func contents(t testing.TB, fs env.FS, name string) (data []byte, ok bool) {
	t.Helper()
	f, err := fs.Open(name, os.O_RDWR)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	data = make([]byte, size)
	if n, err := f.ReadAt(data, 0); n != len(data) || (err != nil && err != io.EOF) {
		t.Fatalf("read %s: %d of %d, %v", name, n, len(data), err)
	}
	return data, true
}

func fill(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// dump describes everything in a file system.
func dump(t testing.TB, fs *FS, dir string) string {
	t.Helper()
	names, err := fs.ReadDir(dir)
	must(t, err)
	out := ""
	for _, name := range names {
		path := dir + "/" + name
		if data, ok := contents(t, fs, path); ok {
			out += fmt.Sprintf("%s %d %x\n", path, len(data), data)
		} else {
			out += path + "/\n" + dump(t, fs, path)
		}
	}
	return out
}

// seen counts, over seeds, which outcomes of a crash occur.
func seen(t testing.TB, fs *FS, seeds uint64, outcome func(*FS) string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for seed := range seeds {
		counts[outcome(fs.Crash(seed))]++
	}
	return counts
}

// wantOutcomes fails unless exactly the given outcomes occurred.
func wantOutcomes(t *testing.T, got map[string]int, want ...string) {
	t.Helper()
	for _, w := range want {
		if got[w] == 0 {
			t.Errorf("%q never happened: %v", w, got)
		}
		delete(got, w)
	}
	if len(got) > 0 {
		t.Errorf("must not happen: %v", got)
	}
}

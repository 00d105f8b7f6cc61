package env_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"blkd/internal/env"
)

// TestMap checks that a mapped file reads and writes like one that is not, and
// that a fault is an error: a page beyond the end of the file stands for one
// that the disk fails to bring.
func TestMap(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	open := func() env.File {
		f, err := env.OS{}.Open(name, os.O_RDWR|os.O_CREATE)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	mapped, plain := open(), open()
	const size = 1 << 20
	if err := mapped.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := mapped.Map(size); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456"), 10000)
	for off, want := range map[int64][]byte{12345: want[:7000], 123456: want} { // a long write goes past the mapping
		if err := mapped.WritevAt([][]byte{want[:100], want[100:5000], want[5000:]}, off); err != nil {
			t.Fatal(err)
		}
		for _, f := range []env.File{plain, mapped} {
			got := make([]byte, len(want))
			if n, err := f.ReadAt(got, off); err != nil || n != len(want) || !bytes.Equal(got, want) {
				t.Fatalf("read %d bytes, %v", n, err)
			}
		}
	}
	if err := mapped.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := plain.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := mapped.ReadAt(make([]byte, 10), 512<<10); !errors.Is(err, syscall.EIO) {
		t.Fatalf("read of a page that is gone: %v", err)
	}
	if err := mapped.WritevAt([][]byte{want[:10]}, 512<<10); !errors.Is(err, syscall.EIO) {
		t.Fatalf("write to a page that is gone: %v", err)
	}
}

// TestForget checks that a mapped file leaves this process's memory, and that
// nothing is lost by it.
func TestForget(t *testing.T) {
	const size = 32 << 20
	f, err := env.OS{}.Open(filepath.Join(t.TempDir(), "f"), os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Forget(0, size) // not mapped yet: nothing happens
	if err := errors.Join(f.Truncate(size), f.Map(size)); err != nil {
		t.Fatal(err)
	}
	want, got := bytes.Repeat([]byte("0123456789abcdef"), size/16), make([]byte, size)
	if _, err := f.WriteAt(want, 0); err != nil {
		t.Fatal(err)
	}
	before := mappedMemory(t)
	f.Forget(0, size)
	if freed := before - mappedMemory(t); freed < size/2 {
		t.Errorf("%d bytes less of files are in memory, of %d forgotten", freed, size)
	}
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what was forgotten is not what was written: %v", err)
	}
}

// mappedMemory is how many bytes of files this process has in memory.
func mappedMemory(t *testing.T) (n int64) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "RssFile: %d kB", &kib); err == nil {
			n += kib << 10
		}
		if _, err := fmt.Sscanf(line, "RssShmem: %d kB", &kib); err == nil { // a tmpfs
			n += kib << 10
		}
	}
	return n
}

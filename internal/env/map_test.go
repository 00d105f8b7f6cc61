package env_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
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
	want := bytes.Repeat([]byte("0123456"), 1000)
	if err := mapped.WritevAt([][]byte{want[:100], want[100:5000], want[5000:]}, 12345); err != nil {
		t.Fatal(err)
	}
	for _, f := range []env.File{plain, mapped} {
		got := make([]byte, len(want))
		if n, err := f.ReadAt(got, 12345); err != nil || n != len(want) || !bytes.Equal(got, want) {
			t.Fatalf("read %d bytes, %v", n, err)
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

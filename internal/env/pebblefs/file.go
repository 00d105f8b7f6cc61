package pebblefs

import (
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"blkd/internal/env"
)

// file gives an env.File the place where sequential reads and writes go on. Like
// every vfs.File it takes one sequential call at a time.
type file struct {
	f    env.File
	name string // last element
	at   int64
}

func opened(name string, f env.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &file{f: f, name: path.Base(name)}, nil
}

// Read implements io.Reader.
func (f *file) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := f.f.ReadAt(p, f.at)
	f.at += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// Write implements io.Writer.
func (f *file) Write(p []byte) (int, error) {
	n, err := f.f.WriteAt(p, f.at)
	f.at += int64(n)
	return n, err
}

// WriteAt implements io.WriterAt.
func (f *file) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }

// Preallocate implements vfs.File. The file grows: a log that already has its
// size is synced without the file system's journal, several times faster. Pebble
// takes zeros at the end of its last log for a crash's traces, and closes a log
// with a mark before it begins the next.
func (f *file) Preallocate(off, n int64) error { return f.f.Allocate(off, n) }

// Stat implements vfs.File.
func (f *file) Stat() (vfs.FileInfo, error) {
	size, err := f.f.Size()
	if err != nil {
		return nil, err
	}
	return info{name: f.name, size: size}, nil
}

// Sync implements vfs.File.
func (f *file) Sync() error { return f.f.Sync() }

// SyncData implements vfs.File.
func (f *file) SyncData() error { return f.f.Sync() }

// SyncTo implements vfs.File. It is a hint to begin writing, without a promise.
func (f *file) SyncTo(int64) (fullSync bool, err error) { return false, nil }

// Prefetch implements vfs.File: a hint.
func (f *file) Prefetch(int64, int64) error { return nil }

// Fd implements vfs.File.
func (f *file) Fd() uintptr { return vfs.InvalidFd }

// Close implements io.Closer.
func (f *file) Close() error { return f.f.Close() }

// directory is an open directory: all that it can do is sync its names.
type directory struct {
	fs   env.FS
	name string
}

func (d *directory) fail(what string) error {
	return fmt.Errorf("%s %s: it is a directory", what, d.name)
}

// Read implements io.Reader.
func (d *directory) Read([]byte) (int, error) { return 0, d.fail("read") }

// ReadAt implements io.ReaderAt.
func (d *directory) ReadAt([]byte, int64) (int, error) { return 0, d.fail("read") }

// Write implements io.Writer.
func (d *directory) Write([]byte) (int, error) { return 0, d.fail("write") }

// WriteAt implements io.WriterAt.
func (d *directory) WriteAt([]byte, int64) (int, error) { return 0, d.fail("write") }

// Preallocate implements vfs.File.
func (d *directory) Preallocate(int64, int64) error { return d.fail("allocate in") }

// Stat implements vfs.File.
func (d *directory) Stat() (vfs.FileInfo, error) {
	return info{name: path.Base(d.name), dir: true}, nil
}

// Sync implements vfs.File.
func (d *directory) Sync() error { return d.fs.SyncDir(d.name) }

// SyncData implements vfs.File.
func (d *directory) SyncData() error { return d.fs.SyncDir(d.name) }

// SyncTo implements vfs.File.
func (d *directory) SyncTo(int64) (fullSync bool, err error) { return false, nil }

// Prefetch implements vfs.File.
func (d *directory) Prefetch(int64, int64) error { return nil }

// Fd implements vfs.File.
func (d *directory) Fd() uintptr { return vfs.InvalidFd }

// Close implements io.Closer.
func (d *directory) Close() error { return nil }

// info is what an env.FS knows of a file: no times and no device.
type info struct {
	name string
	size int64
	dir  bool
}

// Name implements os.FileInfo.
func (i info) Name() string { return i.name }

// Size implements os.FileInfo.
func (i info) Size() int64 { return i.size }

// Mode implements os.FileInfo.
func (i info) Mode() os.FileMode {
	if i.dir {
		return os.ModeDir | 0o700
	}
	return 0o600
}

// ModTime implements os.FileInfo.
func (i info) ModTime() time.Time { return time.Time{} }

// IsDir implements os.FileInfo.
func (i info) IsDir() bool { return i.dir }

// Sys implements os.FileInfo.
func (i info) Sys() any { return nil }

// DeviceID implements vfs.FileInfo.
func (i info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

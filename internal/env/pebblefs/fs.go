// Package pebblefs lets Pebble work on an [env.FS], so that what is kept in
// Pebble runs under crash tests and in the simulator like everything else.
//
// What an env.FS has no word for: hard links, times and the space that is free.
// Link and GetDiskUsage return vfs.ErrUnsupported, on which Pebble copies, and
// paces its deletions without looking at free space.
package pebblefs

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"

	"github.com/cockroachdb/pebble/v2/vfs"

	"blkd/internal/env"
)

// New returns Pebble's view of a file system.
func New(fs env.FS) vfs.FS { return &fileSystem{fs} }

type fileSystem struct{ env env.FS }

// Create implements vfs.FS: always a new file, in place of an older one.
func (s *fileSystem) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	f, err := s.env.Open(name, flags)
	if errors.Is(err, iofs.ErrExist) {
		if err := s.env.Remove(name); err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return nil, err
		}
		f, err = s.env.Open(name, flags)
	}
	return opened(name, f, err)
}

// Link implements vfs.FS.
func (s *fileSystem) Link(oldName, newName string) error {
	return fmt.Errorf("link %s to %s: %w", newName, oldName, vfs.ErrUnsupported)
}

// Open implements vfs.FS.
func (s *fileSystem) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	return s.open(name, os.O_RDONLY, opts)
}

// OpenReadWrite implements vfs.FS.
func (s *fileSystem) OpenReadWrite(name string, _ vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return s.open(name, os.O_RDWR|os.O_CREATE, opts)
}

func (s *fileSystem) open(name string, flags int, opts []vfs.OpenOption) (vfs.File, error) {
	f, err := s.env.Open(name, flags)
	if err != nil {
		return nil, err
	}
	file := &file{f: f, name: path.Base(name)}
	for _, o := range opts {
		o.Apply(file)
	}
	return file, nil
}

// OpenDir implements vfs.FS. What it returns serves to sync the directory.
func (s *fileSystem) OpenDir(name string) (vfs.File, error) {
	if _, err := s.env.ReadDir(name); err != nil {
		return nil, err
	}
	return &directory{s.env, name}, nil
}

// Remove implements vfs.FS.
func (s *fileSystem) Remove(name string) error { return s.env.Remove(name) }

// RemoveAll implements vfs.FS.
func (s *fileSystem) RemoveAll(name string) error {
	var first error
	if names, err := s.env.ReadDir(name); err == nil {
		for _, n := range names {
			if err := s.RemoveAll(path.Join(name, n)); err != nil && first == nil {
				first = err
			}
		}
	}
	if err := s.env.Remove(name); err != nil && first == nil && !errors.Is(err, iofs.ErrNotExist) {
		first = err
	}
	return first
}

// Rename implements vfs.FS.
func (s *fileSystem) Rename(oldName, newName string) error { return s.env.Rename(oldName, newName) }

// ReuseForWrite implements vfs.FS.
func (s *fileSystem) ReuseForWrite(oldName, newName string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	if err := s.env.Rename(oldName, newName); err != nil {
		return nil, err
	}
	f, err := s.env.Open(newName, os.O_RDWR)
	return opened(newName, f, err)
}

// MkdirAll implements vfs.FS; the env.FS decides on permissions.
func (s *fileSystem) MkdirAll(dir string, _ os.FileMode) error { return s.env.MkdirAll(dir) }

// Lock implements vfs.FS.
func (s *fileSystem) Lock(name string) (io.Closer, error) { return s.env.Lock(name) }

// List implements vfs.FS.
func (s *fileSystem) List(dir string) ([]string, error) { return s.env.ReadDir(dir) }

// Stat implements vfs.FS.
func (s *fileSystem) Stat(name string) (vfs.FileInfo, error) {
	if _, err := s.env.ReadDir(name); err == nil {
		return info{name: path.Base(name), dir: true}, nil
	}
	f, err := s.env.Open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return info{name: path.Base(name), size: size}, nil
}

// PathBase implements vfs.FS.
func (s *fileSystem) PathBase(name string) string { return path.Base(name) }

// PathJoin implements vfs.FS.
func (s *fileSystem) PathJoin(elem ...string) string { return path.Join(elem...) }

// PathDir implements vfs.FS.
func (s *fileSystem) PathDir(name string) string { return path.Dir(name) }

// GetDiskUsage implements vfs.FS.
func (s *fileSystem) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{}, vfs.ErrUnsupported
}

// Unwrap implements vfs.FS: it wraps no other vfs.FS.
func (s *fileSystem) Unwrap() vfs.FS { return nil }

package metadata

import (
	"errors"
	"io"
	"io/fs"
	"syscall"

	"blkd/internal/env"
)

// stopFS is a file system that after the first failure of its Log changes nothing
// any more, and says that it has. Whatever changes the disk and fails is such a
// failure, and is recorded here, but for the removal of files that nobody needs. So
// the disk stays as the failure left it, whatever Pebble still does on its way out;
// and Pebble comes to its end: by itself it repeats a flush that fails for ever, in
// Open and Close as well, and panics when it cannot make a file or sync a directory.
type stopFS struct {
	env.FS
	log *Log
}

// change does what changes the disk.
func (s stopFS) change(op, name string, f func() error) error {
	if s.log.Err() != nil {
		return nil
	}
	if err := f(); err != nil {
		s.log.fail(op+" "+name, err) //nolint:errcheck // recorded
	}
	return nil
}

// Open implements env.FS.
func (s stopFS) Open(name string, flag int) (file env.File, err error) {
	if flag&(syscall.O_RDWR|syscall.O_CREAT|syscall.O_TRUNC) == 0 {
		return s.FS.Open(name, flag)
	}
	s.change("open", name, func() error { //nolint:errcheck // nil
		file, err = s.FS.Open(name, flag)
		if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
			return nil // an answer
		}
		return err
	})
	switch {
	case s.log.Err() != nil:
		return stopFile{nothing{}, s.log, name}, nil
	case err != nil:
		return nil, err
	}
	return stopFile{file, s.log, name}, nil
}

// MkdirAll implements env.FS.
func (s stopFS) MkdirAll(name string) error {
	return s.change("make", name, func() error { return s.FS.MkdirAll(name) })
}

// Remove implements env.FS.
func (s stopFS) Remove(name string) (err error) {
	s.change("remove", name, func() error { //nolint:errcheck // nil
		err = s.FS.Remove(name)
		return nil
	})
	return err
}

// Rename implements env.FS.
func (s stopFS) Rename(oldName, newName string) error {
	return s.change("rename", oldName, func() error { return s.FS.Rename(oldName, newName) })
}

// SyncDir implements env.FS.
func (s stopFS) SyncDir(name string) error {
	return s.change("sync", name, func() error { return s.FS.SyncDir(name) })
}

// stopFile is a file of a stopFS that is open for writing. Pebble uses no other
// methods that change one.
type stopFile struct {
	env.File
	log  *Log
	name string
}

// WriteAt implements env.File.
func (f stopFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), stopFS{log: f.log}.change("write", f.name, func() error {
		_, err := f.File.WriteAt(p, off)
		return err
	})
}

// Sync implements env.File.
func (f stopFile) Sync() error { return stopFS{log: f.log}.change("sync", f.name, f.File.Sync) }

// Close implements env.File.
func (f stopFile) Close() error {
	if err := f.File.Close(); err != nil {
		f.log.fail("close "+f.name, err) //nolint:errcheck // recorded
	}
	return nil
}

// nothing is a file that was made after everything had stopped.
type nothing struct{ env.File }

// ReadAt implements env.File.
func (nothing) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }

// Size implements env.File.
func (nothing) Size() (int64, error) { return 0, nil }

// Close implements env.File.
func (nothing) Close() error { return nil }

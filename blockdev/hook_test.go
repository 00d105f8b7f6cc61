package blockdev

import (
	"path"

	"blkd/internal/env"
)

// hookFS calls hook around operations on files, so that a test can hold one of
// them up while others go on. What happens between before and after lies inside
// the call that the store makes.
type hookFS struct {
	env.FS
	hook func(op, name string, off int64, do func() error) error
}

func (h *hookFS) Open(name string, flag int) (env.File, error) {
	f, err := h.FS.Open(name, flag)
	if err != nil {
		return nil, err
	}
	return &hookFile{File: f, fs: h, name: path.Base(name)}, nil
}

type hookFile struct {
	env.File
	fs   *hookFS
	name string
}

func (f *hookFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.fs.hook("read", f.name, off, func() error {
		n, err = f.File.ReadAt(p, off)
		return err
	})
	return n, err
}

func (f *hookFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.hook("write", f.name, off, func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *hookFile) WritevAt(bufs [][]byte, off int64) error {
	return f.fs.hook("write", f.name, off, func() error { return f.File.WritevAt(bufs, off) })
}

// PunchHole tells the hook the length of the hole.
func (f *hookFile) PunchHole(off, n int64) error {
	return f.fs.hook("punch", f.name, n, func() error { return f.File.PunchHole(off, n) })
}

func (f *hookFile) Close() error {
	return f.fs.hook("close", f.name, 0, f.File.Close)
}

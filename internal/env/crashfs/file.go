package crashfs

import (
	"io"
	"os"
	"syscall"
)

// file is an open file; fs.mu guards it.
type file struct {
	fs     *FS
	node   *inode
	name   string // as it was opened
	path   string // the same, clean
	life   uint64
	mode   int // os.O_RDONLY, O_WRONLY or O_RDWR
	closed bool
	mapped bool
}

// usable reports why the file cannot be used.
func (f *file) usable() error {
	switch {
	case f.life != f.fs.life:
		return ErrKilled
	case f.closed:
		return os.ErrClosed
	case f.fs.off:
		return ErrPowerLoss
	}
	return nil
}

// mutate runs a change of the file's contents.
func (f *file) mutate(op Op, off, n int64, apply func(seq uint64, limit int64) error) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.usable()
	switch {
	case err != nil:
	case f.mode == os.O_RDONLY:
		err = syscall.EBADF
	case off < 0 || n < 0 || off+n < off:
		err = syscall.EINVAL
	default:
		err = f.fs.changeFile(op, f.node, f.path, off, n, apply)
	}
	return fail(op, f.name, err)
}

// changeFile is mutate for one file, keeping account of its space.
func (fs *FS) changeFile(op Op, n *inode, path string, off, length int64, apply func(seq uint64, limit int64) error) error {
	before := n.now.used
	err := fs.mutate(op, path, off, length, apply)
	fs.used += n.now.used - before
	return err
}

// ReadAt implements env.File.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.usable(); err != nil {
		return 0, fail(OpRead, f.name, err)
	}
	if off < 0 || f.mode == os.O_WRONLY {
		return 0, fail(OpRead, f.name, syscall.EINVAL)
	}
	if _, err := f.fs.injected(OpRead, f.path, int64(len(p))); err != nil {
		return 0, fail(OpRead, f.name, err)
	}
	n := f.node.read(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *inode) read(p []byte, off int64) int {
	n := int(max(0, min(int64(len(p)), f.now.size-off)))
	for at := 0; at < n; {
		in := (off + int64(at)) % pageSize
		part := p[at:min(n, at+int(pageSize-in))]
		if q := f.now.get((off + int64(at)) / pageSize); q != nil {
			copy(part, q[in:])
		} else {
			clear(part)
		}
		at += len(part)
	}
	return n
}

// WriteAt implements env.File.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.write([][]byte{p}, int64(len(p)), off)
	return int(n), err
}

// WritevAt implements env.File.
func (f *file) WritevAt(bufs [][]byte, off int64) error {
	n := int64(0)
	for _, b := range bufs {
		n += int64(len(b))
	}
	_, err := f.write(bufs, n, off)
	return err
}

// write stores what rules and space allow.
func (f *file) write(bufs [][]byte, n, off int64) (stored int64, err error) {
	err = f.mutate(OpWrite, off, n, func(seq uint64, limit int64) error {
		var err error
		if room := f.fs.room(f.node, off, limit); room < limit {
			limit, err = room, syscall.ENOSPC
		}
		if f.mapped && limit > 0 {
			limit = f.tear(seq, bufs, off, limit)
		}
		if limit > 0 {
			f.node.write(seq, bufs, off, limit)
		}
		stored = limit
		f.fs.stats.Writes++
		f.fs.stats.WrittenBytes += limit
		return err
	})
	return stored, err
}

// tear gives a write through a mapping the versions that one by system call has
// not: the kernel may write a page back while it is being copied to, and a crash
// may end the copy. It returns how many bytes the process gets to copy.
func (f *file) tear(seq uint64, bufs [][]byte, off, limit int64) int64 {
	r := rng(seq)
	at := int64(r.below(uint64(limit + 1)))
	if seq == f.fs.failAt {
		return at
	}
	if from := max(off, (off+at)&^(SectorSize-1)); from < off+at {
		f.node.write(seq, cutBuffers(bufs, from-off, at), from, off+at-from)
		f.node.ops[len(f.node.ops)-1].half = true
	}
	return limit
}

// cutBuffers returns the bytes [lo, hi) of buffers laid end to end.
func cutBuffers(bufs [][]byte, lo, hi int64) (cut [][]byte) {
	for _, b := range bufs {
		n := int64(len(b))
		if lo < n && hi > 0 {
			cut = append(cut, b[max(0, lo):min(n, hi)])
		}
		lo, hi = lo-n, hi-n
	}
	return cut
}

// Sync implements env.File.
func (f *file) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.usable(); err != nil {
		return fail(OpSync, f.name, err)
	}
	err := f.fs.mutate(OpSync, f.path, 0, 0, func(uint64, int64) error {
		f.node.sync()
		f.fs.stats.Syncs++
		return nil
	})
	if err != nil && !f.fs.off {
		f.node.syncFailed()
	}
	return fail(OpSync, f.name, err)
}

// Size implements env.File.
func (f *file) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.usable(); err != nil {
		return 0, fail(OpStat, f.name, err)
	}
	return f.node.now.size, nil
}

// Truncate implements env.File.
func (f *file) Truncate(size int64) error {
	return f.mutate(OpTruncate, size, 0, func(seq uint64, _ int64) error {
		f.node.truncate(seq, size)
		return nil
	})
}

// Allocate implements env.File. It takes all the space or none.
func (f *file) Allocate(off, n int64) error {
	return f.mutate(OpAllocate, off, n, func(seq uint64, _ int64) error {
		if n == 0 {
			return syscall.EINVAL
		}
		if f.fs.room(f.node, off, n) < n {
			return syscall.ENOSPC
		}
		f.node.allocate(seq, off, off+n)
		return nil
	})
}

// PunchHole implements env.File.
func (f *file) PunchHole(off, n int64) error {
	return f.mutate(OpPunch, off, n, func(seq uint64, _ int64) error {
		if n == 0 {
			return syscall.EINVAL
		}
		f.node.punch(seq, off, off+n)
		return nil
	})
}

// Close implements env.File.
func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	return f.close()
}

func (f *file) close() error {
	switch {
	case f.life != f.fs.life:
		return fail(OpClose, f.name, ErrKilled)
	case f.closed:
		return fail(OpClose, f.name, os.ErrClosed)
	}
	f.closed = true
	f.node.handles--
	f.fs.release(f.node)
	if f.fs.off {
		return ErrPowerLoss
	}
	return nil
}

// Forget implements env.File.
func (f *file) Forget(_, _ int64) {}

// Map implements env.File. From now on this file's writes may be torn anywhere.
func (f *file) Map(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.usable()
	if err == nil && (size <= 0 || size != f.node.now.size) {
		err = syscall.EINVAL
	}
	f.mapped = err == nil
	return fail(OpMap, f.name, err)
}

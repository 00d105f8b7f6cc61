package env

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// OS is the operating system's file system.
type OS struct{}

// Open implements FS.
func (OS) Open(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return &osFile{f: f, fd: int(f.Fd())}, nil
}

// MkdirAll implements FS; directories are private to the user.
func (OS) MkdirAll(name string) error { return os.MkdirAll(name, 0o700) }

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// Rename implements FS.
func (OS) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }

// ReadDir implements FS.
func (OS) ReadDir(name string) ([]string, error) {
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// SyncDir implements FS.
func (OS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock implements FS by flock(2).
func (OS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w (another process holds it)", name, err)
	}
	return f, nil
}

// osFile reads and writes by raw pread, pwrite and pwritev: os.File's own
// methods take a lock per call that shows in profiles of 4 KiB I/O.
type osFile struct {
	f    *os.File
	fd   int
	iovs sync.Pool // *[]unix.Iovec
	mem  []byte    // see Map

	reads     inOrder      // of mem
	lastWrite atomic.Int64 // step of mem
}

func (o *osFile) ReadAt(p []byte, off int64) (int, error) {
	if o.mapped(off, len(p)) {
		if step, entered := o.reads.next(off, len(p)); entered {
			o.fetch(step + 1)
		}
		return o.copyMapped(p, o.mem[off:], "read", off)
	}
	done := 0
	for done < len(p) {
		if n := o.readCached(p[done:], off+int64(done)); n > 0 {
			done += n
			continue
		}
		n, err := unix.Pread(o.fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, o.wrap("read", off, err)
		case n == 0:
			return done, io.EOF
		default:
			done += n
		}
	}
	return done, nil
}

func (o *osFile) WriteAt(p []byte, off int64) (int, error) {
	if o.mapped(off, len(p)) {
		return o.copyMapped(o.mem[off:off+int64(len(p))], p, "write", off)
	}
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(o.fd, p[done:], off+int64(done))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return done, o.wrap("write", off, err)
		}
		done += n
	}
	return done, nil
}

// quickBytes is the most, in bytes, that is read without telling the scheduler.
const quickBytes = 128 << 10

// readCached reads what there is in the page cache, and does not wait, so the
// scheduler need not be told: that would wake the runtime's monitor thread each time
// when the process was idle before. It returns 0 if nothing is there, or for any
// other reason.
func (o *osFile) readCached(p []byte, off int64) int {
	iov := unix.Iovec{Base: unsafe.SliceData(p), Len: uint64(min(len(p), quickBytes))}
	n, _, errno := syscall.RawSyscall6(unix.SYS_PREADV2, uintptr(o.fd), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, unix.RWF_NOWAIT)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// iovMax is the kernel's limit (UIO_MAXIOV).
const iovMax = 1024

// mostMapped is the length, in bytes, from which a write to a mapped file goes by a system
// call: it costs less than the faults of so many pages, of which each write to the mapping
// brings one when the page was written back or forgotten before. Of 16 pages 0.8 µs a page
// beside 1.9, of 4 pages 1.4, of a single one 4.1 beside 2.2.
const mostMapped = 32 << 10

func bytesOf(bufs [][]byte) (n int) {
	for _, b := range bufs {
		n += len(b)
	}
	return n
}

func (o *osFile) WritevAt(bufs [][]byte, off int64) error {
	if o.mem != nil {
		o.readAhead(off)
	}
	if o.mem != nil && bytesOf(bufs) < mostMapped {
		for _, b := range bufs {
			if _, err := o.WriteAt(b, off); err != nil {
				return err
			}
			off += int64(len(b))
		}
		return nil
	}
	pooled, _ := o.iovs.Get().(*[]unix.Iovec)
	if pooled == nil {
		pooled = new([]unix.Iovec)
	}
	iovs := (*pooled)[:0]
	for _, b := range bufs {
		if len(b) > 0 {
			iovs = append(iovs, unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))})
		}
	}
	err := o.writev(iovs, off)
	clear(iovs) // the pool must not keep the payload alive
	*pooled = iovs
	o.iovs.Put(pooled)
	return err
}

func (o *osFile) writev(iovs []unix.Iovec, off int64) error {
	for len(iovs) > 0 {
		n, _, errno := syscall.Syscall6(unix.SYS_PWRITEV, uintptr(o.fd), uintptr(unsafe.Pointer(&iovs[0])),
			uintptr(min(len(iovs), iovMax)), uintptr(off), 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return o.wrap("write", off, errno)
		}
		off += int64(n)
		for left := uint64(n); left > 0; {
			if left < iovs[0].Len {
				iovs[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(iovs[0].Base), left))
				iovs[0].Len -= left
				break
			}
			left -= iovs[0].Len
			iovs = iovs[1:]
		}
	}
	return nil
}

func (o *osFile) Sync() error {
	return o.retry("sync", 0, func() error { return unix.Fdatasync(o.fd) })
}

func (o *osFile) Size() (int64, error) {
	fi, err := o.f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

func (o *osFile) Truncate(size int64) error { return o.f.Truncate(size) }

func (o *osFile) Allocate(off, n int64) error {
	return o.retry("allocate", off, func() error { return unix.Fallocate(o.fd, 0, off, n) })
}

func (o *osFile) PunchHole(off, n int64) error {
	return o.retry("punch hole", off, func() error {
		return unix.Fallocate(o.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
}

func (o *osFile) Close() error {
	if o.mem == nil {
		return o.f.Close()
	}
	err := unix.Munmap(o.mem)
	o.mem = nil
	return errors.Join(err, o.f.Close())
}

// Map implements File by mmap(2).
func (o *osFile) Map(size int64) error {
	mem, err := unix.Mmap(o.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return o.wrap("map", 0, err)
	}
	o.mem = mem
	// Large folios would be written to the disk as a whole for every few bytes
	// that change. Without readahead by the kernel they are not made.
	if err := unix.Madvise(mem, unix.MADV_RANDOM); err != nil {
		return o.wrap("map", 0, err)
	}
	return o.wrap("map", 0, unix.Fadvise(o.fd, 0, 0, unix.FADV_RANDOM))
}

// Forget implements File by madvise(2).
func (o *osFile) Forget(off, n int64) {
	if o.mem != nil && n > 0 {
		unix.Madvise(o.mem[off:off+n], unix.MADV_DONTNEED) //nolint:errcheck // it saves memory, nothing else
	}
}

// aheadBytes is the step in which a mapped file is read ahead when it is written
// or read in order, so that a page that is not in memory need not be waited for.
const aheadBytes = 2 << 20

// inOrder recognises reads that follow one another, as those of recovery do. Pouring
// reads here and there: what it needs is in memory, and to ask for what lies next to
// that would cost more than the reads.
type inOrder struct{ end atomic.Int64 } // of the last read

// next is told of a read. It returns its step, and whether that was entered from the
// one before by reads that leave out, or repeat, no more than a record's header.
func (r *inOrder) next(off int64, n int) (step int64, entered bool) {
	end := off + int64(n)
	last := r.end.Swap(end)
	step = end / aheadBytes
	return step, last/aheadBytes == step-1 && max(off-last, last-off) <= headerBytes
}

// headerBytes is about how long the longest header of a record is.
const headerBytes = 4096

// readAhead has the kernel fetch the next steps when a write enters one.
func (o *osFile) readAhead(off int64) {
	if step := off / aheadBytes; o.lastWrite.Swap(step) != step {
		o.fetch(step + 1)
	}
}

// fetch has the kernel read a step and the one behind it, if they are not in memory.
func (o *osFile) fetch(step int64) {
	if step*aheadBytes >= int64(len(o.mem)) {
		step = 0
	}
	unix.Fadvise(o.fd, step*aheadBytes, 2*aheadBytes, unix.FADV_WILLNEED) //nolint:errcheck // a hint
}

func (o *osFile) mapped(off int64, n int) bool {
	return o.mem != nil && off >= 0 && off <= int64(len(o.mem)) && int64(n) <= int64(len(o.mem))-off
}

// copyMapped copies to or from the mapping. Where the disk fails to bring a page
// the processor faults; that is the error a system call would have returned.
func (o *osFile) copyMapped(dst, src []byte, what string, off int64) (n int, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			n, err = 0, o.wrap(what, off, unix.EIO)
		}
	}()
	return copy(dst, src), nil
}

func (o *osFile) retry(what string, off int64, f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return o.wrap(what, off, err)
		}
	}
}

func (o *osFile) wrap(what string, off int64, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: fmt.Sprintf("%s at %d", what, off), Path: o.f.Name(), Err: err}
}

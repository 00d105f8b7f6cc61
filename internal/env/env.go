// Package env is the world that blkd's logic runs in: file system, later clock,
// network and randomness, behind small interfaces. Production code gets the
// operating system ([OS]); tests and the simulator get a world that forgets,
// tears and delays ([env/crashfs]).
package env

import "io"

// FS is a file system. Names are slash-separated paths.
//
// Durability: a created, renamed or removed name survives power loss only after
// SyncDir of its directory; file contents and size only after File.Sync.
type FS interface {
	// Open opens a file with os.O_* flags (O_RDWR, O_CREATE, O_EXCL, O_TRUNC).
	// A missing file is an error that matches fs.ErrNotExist.
	Open(name string, flag int) (File, error)
	// MkdirAll makes a directory and its missing parents.
	MkdirAll(name string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Rename replaces newName atomically.
	Rename(oldName, newName string) error
	// ReadDir lists the names in a directory, sorted.
	ReadDir(name string) ([]string, error)
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
	// Lock takes an exclusive advisory lock on a file it creates, held until
	// Close or the end of the process. It fails at once if another holds it.
	Lock(name string) (io.Closer, error)
}

// File is an open file. All methods are safe for concurrent use.
type File interface {
	io.ReaderAt // short reads only at the end of the file, with io.EOF
	io.WriterAt
	// WritevAt writes the buffers one after another from off: one system call
	// per IOV_MAX buffers. It returns an error unless all was written.
	WritevAt(bufs [][]byte, off int64) error
	// Map asks that reads and writes within [0, size) go through memory shared
	// with the page cache, which for small ones is cheaper than a system call.
	// The file must have that size and keep it. A write is in the kernel when
	// it returns, and errors are errors, as before; but a write under way may
	// be torn anywhere, also inside a sector.
	Map(size int64) error
	// Forget takes [off, off+n) of a mapped file out of this process's memory
	// until it is used again. The page cache keeps what it holds; without a
	// mapping nothing happens. It is safe at any time before Close.
	Forget(off, n int64)
	// Sync makes contents and size durable (fdatasync). After an error the
	// state of what was written before is unknown: never retry.
	Sync() error
	// Size is the file's length in bytes.
	Size() (int64, error)
	// Truncate sets the length; a longer file reads as zeros there.
	Truncate(size int64) error
	// Allocate reserves space for [off, off+n) without changing what it reads;
	// the file grows if it must.
	Allocate(off, n int64) error
	// PunchHole gives the space of [off, off+n) back; it reads as zeros.
	PunchHole(off, n int64) error
	io.Closer
}

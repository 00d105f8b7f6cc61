// Package crashfs is an [env.FS] in memory that forgets: it knows what was made
// durable by Sync and SyncDir and what was not, and draws, from a seed, a state
// that a power loss could leave behind.
//
// What a power loss may do ([FS.Crash]):
//
//   - Every write since the file's last Sync is cut into 512-byte sectors. Each
//     sector holds its durable version or any version written since, whatever
//     the other sectors hold: writes are lost, torn and reordered.
//   - The size of a file, a truncation, a punched hole (in blocks of 4 KiB) and
//     an allocation since the last Sync are each kept or lost.
//   - Created, renamed and removed names since the directory's last SyncDir are
//     kept or lost, in order: if one is lost, so are the later ones in the same
//     directory. A rename is atomic.
//   - A write through a mapping (File.Map) may also be torn inside one of its
//     sectors, because the kernel may write a page back in the middle of a copy.
//
// What it never does: touch what a successful Sync or SyncDir covered, or mix
// two versions inside a sector that no mapping wrote.
//
// A failed Sync breaks the promise for good: what was unsynced then may be lost
// in a crash even if a later Sync succeeds, as on Linux, unless it is written
// again.
//
// A test runs a workload up to a chosen operation ([FS.FailAfter]), takes any
// number of crashed file systems from it, and recovers each:
//
//	fs := crashfs.New()
//	fs.FailAfter(n)
//	workload(fs) // ends in ErrPowerLoss
//	for seed := range uint64(100) {
//		recoverAndCheck(fs.Crash(seed))
//	}
//
// Everything is decided by the calls and the seeds: the package starts no
// goroutine and reads no clock. Contents are shared copy-on-write, so a crash
// costs about as much as the unsynced writes.
package crashfs

import (
	"errors"
	"sync"
)

// SectorSize is the unit, in bytes, that a power loss never tears.
const SectorSize = 512

// ErrPowerLoss is what every operation returns from the power cut that
// FailAfter asked for until Kill.
var ErrPowerLoss = errors.New("crashfs: the power is off")

// ErrKilled is what files opened before Kill return.
var ErrKilled = errors.New("crashfs: the process that opened this file was killed")

// FS is a file system in memory. It is safe for concurrent use, but only calls
// made in the same order give the same result.
type FS struct {
	mu    sync.Mutex
	root  *inode
	files []*inode // that a crash could leave reachable, in order of creation
	names []nameOp // not durable yet, in order

	ops    uint64 // mutations and syncs so far; the sequence number of the last
	failAt uint64 // the operation that cuts the power, 0 for none
	off    bool   // the power is off
	life   uint64 // counts Kill: files and locks of an earlier life are dead
	lastID uint64 // of the inodes

	budget int64 // pages that may be allocated, negative for no limit
	used   int64 // pages allocated
	rules  []*Rule
	trace  func(Event)
	stats  Stats
}

// Stats counts what was asked of a file system since New or Crash.
type Stats struct {
	Writes       int64 // WriteAt and WritevAt calls
	WrittenBytes int64 // that they stored
	Syncs        int64 // Sync calls that succeeded
	DirSyncs     int64 // SyncDir calls that succeeded
}

// Event is one mutation or sync, as SetTrace reports it. Off and Len are bytes,
// zero where they mean nothing; for Truncate, Off is the new size.
type Event struct {
	N    uint64 // its number, what Ops returns after it
	Op   Op
	Name string
	Off  int64
	Len  int64
	Err  error
}

// New makes an empty file system: the root directory and nothing else, no limit
// on space.
func New() *FS {
	fs := &FS{budget: -1}
	fs.root = fs.newInode(true)
	return fs
}

// Ops is the number of mutations and syncs so far: creating, opening with
// O_TRUNC, each directory made, Remove, Rename, SyncDir, WriteAt, WritevAt,
// Truncate, Allocate, PunchHole and Sync. Attempts that fail count too.
func (fs *FS) Ops() uint64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.ops
}

// FailAfter makes the n-th mutation or sync from now the power cut (n is at
// least 1; 0 takes it back). That operation is under way when the power goes: a
// write may be kept in part, a sync promises nothing. It and every later
// operation, reads too, return ErrPowerLoss.
func (fs *FS) FailAfter(n uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.failAt = 0
	if n > 0 {
		fs.failAt = fs.ops + n
	}
}

// PowerOff cuts the power now, between two operations.
func (fs *FS) PowerOff() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.off = true
}

// Off tells whether the power is off.
func (fs *FS) Off() bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.off
}

// Kill ends the process that uses the file system, not the machine: everything
// written is kept, what was unsynced stays unsynced, open files return
// ErrKilled and locks are released. After FailAfter's cut it turns the cut into
// a process crash: the operation under way is kept, as a whole unless it is a
// write through a mapping, and the file system works again.
func (fs *FS) Kill() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.life++
	fs.off, fs.failAt = false, 0
	for _, f := range fs.files {
		f.handles = 0
		f.locked = false
		fs.release(f)
	}
	fs.prune()
}

// Pending is the number of operations that a crash could still undo.
func (fs *FS) Pending() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := len(fs.names)
	for _, f := range fs.files {
		for i := range f.ops {
			if f.ops[i].fate != certain && !f.ops[i].half {
				n++
			}
		}
	}
	return n
}

// Stats returns the counters.
func (fs *FS) Stats() Stats {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.stats
}

// SetTrace has f called, under the file system's lock, after every mutation and
// sync; nil stops it. It is for looking at the run of a failing seed.
func (fs *FS) SetTrace(f func(Event)) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.trace = f
}

// mutate runs one mutation or sync under the lock: power, rules, counter, trace.
// apply gets the sequence number and the number of bytes that may be stored.
func (fs *FS) mutate(op Op, name string, off, n int64, apply func(seq uint64, limit int64) error) error {
	if fs.off {
		return ErrPowerLoss
	}
	fs.ops++
	cut := fs.ops == fs.failAt
	limit, err := fs.injected(op, name, n)
	switch {
	case cut && (op == OpSync || op == OpSyncDir):
		err = ErrPowerLoss
	case err == nil || (op == OpWrite && limit > 0):
		err = errors.Join(apply(fs.ops, limit), err)
	}
	if cut {
		fs.off = true
		err = ErrPowerLoss
	}
	if fs.trace != nil {
		fs.trace(Event{N: fs.ops, Op: op, Name: name, Off: off, Len: n, Err: err})
	}
	return err
}

func (fs *FS) newInode(dir bool) *inode {
	fs.lastID++
	return &inode{id: fs.lastID, dir: dir, now: state{table: newTable()}, durable: state{table: newTable()}}
}

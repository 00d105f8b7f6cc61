package blockdev

import (
	"fmt"
	"io"
	"path"
	"sync"
	"sync/atomic"
	"syscall"

	"blkd/internal/env"
	"blkd/internal/mutant"
)

const openCreate = syscall.O_RDWR | syscall.O_CREAT | syscall.O_EXCL

// The files of a store.
const (
	superFile = "super"
	logFile   = "log"
	imageFile = "image"
	mapFile   = "map"
	allocFile = "alloc"

	sessionsFile = "sessions" // made when the first table is saved
)

const stripes = 64 // locks over chunks of the image

// Store is one replica of a volume on disk: a log that is poured into an image.
//
// A small write is appended to the log, is in the kernel when it is acknowledged,
// and is poured ("destaged") into the image later, when overwrites have been
// coalesced. Whole aligned 64 KiB chunks are written once: into fresh chunks of
// the image, and the log carries a reference. Reads see the image overlaid with
// the committed part of the log. A checkpoint syncs the image and its map, and
// lets the log be reused.
//
// Locks, in the order in which they may be held together:
//
//	resizeMu   one resize at a time
//	appendMu   the log's head; held over the append and its application
//	pourMu     one destage or checkpoint at a time
//	stripes    a reader holds its chunks' stripes shared while it reads the
//	           files; pouring in place holds one exclusively
//	syncMu     one sync at a time
//	superMu    one change of the superblock at a time
//	mu         all state in memory; never held over a system call
//	hist.mu    the index of the log
type Store struct {
	o     StoreOptions
	size  atomic.Int64 // shrinks only under appendMu
	image env.File
	super superFileState // see saveSuper

	sessionsFile env.File // nil: there is none yet; guarded by pourMu

	resizeMu sync.Mutex

	appendMu  sync.Mutex
	log       ringLog
	gen       Generation // of the last entry
	seq       Seq
	closed    bool
	hist      history       // has its own lock
	keep      atomic.Uint64 // Seq; see Keep
	logRecord scanned       // ReadLog's
	copying   bool          // Reset was called, and no Complete since
	copied    Seq           // what was imported reflects no entry behind this

	commit atomic.Uint64 // entries up to here are committed and applied; changes under mu

	mu           sync.Mutex
	over         overlay
	staged       staging // of a staging store
	stagedBlocks atomic.Int64
	maps         *pageFile
	alloc        *allocator
	freed        []freedChunk // until the next checkpoint
	pins         pins
	pending      pendingQueue
	sessions     storedSessions
	// applying: entries up to here are committed, and the last one may be applied
	// in part.
	applying Seq
	applied  logPoint // everything before it is applied

	stripes [stripes]struct {
		sync.RWMutex
		_ [40]byte // one lock per cache line
	}

	syncMu     sync.Mutex
	durable    atomic.Uint64 // log position up to which everything was synced
	durableSeq atomic.Uint64 // of a replica; see Durable
	imageDirty atomic.Bool   // payload of references was written since the last sync
	flusher    flusher

	superMu sync.Mutex

	pourMu  sync.Mutex
	pouring bool // frozen is not empty: a round was begun
	round   logPoint
	// recoverTo: until the log up to here is poured, this store has not
	// recovered from a crash, and a checkpoint must wait for the whole round.
	recoverTo uint64
	imported  atomic.Int64 // bytes since the last checkpoint began

	space      sync.Cond // log space was freed, or failure; uses spaceMu
	spaceMu    sync.Mutex
	full       atomic.Bool
	failure    atomic.Pointer[error]
	incomplete atomic.Bool
	floor      atomic.Uint64 // Seq; as the superblock's
	stop       chan struct{}
	pourNow    chan struct{}
	workers    sync.WaitGroup
	counters   counters
}

// freedChunk is a chunk that the map no longer refers to.
type freedChunk struct {
	chunk uint32
	punch bool // give its space back to the file system
}

// superFileState is the superblock and the file it lives in.
type superFileState struct {
	superblock
	f env.File
}

// save writes the superblock durably to the slot that does not count. A slot
// holds two copies, so that a block that rots does not bring back the older slot.
func (s *superFileState) save() error {
	s.serial++
	var b [2 * superBytes]byte
	s.encode(b[:superBytes])
	s.encode(b[superBytes:])
	if _, err := s.f.WriteAt(b[:], int64(s.serial%2)*int64(len(b))); err != nil {
		return err
	}
	return s.f.Sync()
}

// saveSuper changes the superblock, durably. A change of replayFrom, ckpt or wipe
// holds pourMu too, and one of the incarnation syncMu.
func (s *Store) saveSuper(change func(*superblock)) error {
	s.superMu.Lock()
	defer s.superMu.Unlock()
	change(&s.super.superblock)
	if err := s.super.save(); err != nil {
		return s.fail(err)
	}
	return nil
}

func (s *superFileState) load(name string) error {
	var b [4 * superBytes]byte
	if _, err := s.f.ReadAt(b[:], 0); err != nil && err != io.EOF {
		return err
	}
	found := false
	for slot := 0; slot < len(b); slot += 2 * superBytes {
		var c superblock
		// What counts lies in one sector and is never torn, so a copy that
		// fails is damaged. If both are, the older slot may be out of date.
		if c.decode(b[slot:]) != nil {
			if err := c.decode(b[slot+superBytes:]); err != nil {
				return fmt.Errorf("%s: %w; restore the volume from another copy", name, err)
			}
		}
		if !found || c.serial > s.serial {
			s.superblock, found = c, true
		}
	}
	return nil
}

// Size is the volume's length in bytes.
func (s *Store) Size() int64 { return s.size.Load() }

// ReadOnly is false.
func (s *Store) ReadOnly() bool { return false }

func (s *Store) file(name string) string { return path.Join(s.o.Dir, name) }

// mapPageCount is the number of map pages of a volume.
func mapPageCount(size int64) int64 {
	const pageSpan = pageChunks * chunkBytes
	return (size + pageSpan - 1) / pageSpan
}

// fail makes the store stop for good: after a failed write or sync nobody knows
// what is on the disk, so nothing may be acknowledged any more. It returns the
// error that all later requests get; being an ErrClosed, it makes a server hang
// up rather than hand it to applications.
func (s *Store) fail(err error) error {
	err = fmt.Errorf("volume %s: %w after an %w and must be opened again: %w", s.o.Volume, ErrClosed, ErrIO, err)
	if s.failure.CompareAndSwap(nil, &err) && s.o.Events.Failed != nil {
		s.o.Events.Failed(err)
	}
	s.wakeAppenders()
	return *s.failure.Load()
}

// failed is the error that ended the store, or nil.
func (s *Store) failed() error {
	if e := s.failure.Load(); e != nil {
		return *e
	}
	return nil
}

func (s *Store) wakeAppenders() {
	s.spaceMu.Lock()
	s.space.Broadcast()
	s.spaceMu.Unlock()
}

// needPage brings map page i into memory. It holds mu, and releases it while it
// reads from disk. What was read counts only if no checkpoint was completed
// meanwhile: it may have written the page, and another reader evicted it again.
func (s *Store) needPage(i int64) error {
	for !s.maps.known(i) {
		before := s.maps.ckpt.Load()
		s.mu.Unlock()
		r, err := s.maps.read(i)
		s.mu.Lock()
		if before != s.maps.ckpt.Load() && !mutant.On(mutant.StoreStalePage) || s.maps.known(i) {
			continue
		}
		if err != nil {
			return err
		}
		s.maps.insert(i, r)
	}
	return nil
}

// needPages brings map pages first to last into memory, all at once: the range
// must be short against the cache. It holds mu, and releases it while it reads.
func (s *Store) needPages(first, last int64) error {
	for i := first; i <= last; i++ {
		if s.maps.known(i) {
			continue
		}
		if err := s.needPage(i); err != nil {
			return err
		}
		i = first - 1 // others may have been evicted meanwhile
	}
	return nil
}

// drainReaders waits until every read that began before has ended.
func (s *Store) drainReaders() {
	for i := range s.stripes {
		s.stripes[i].Lock()
		s.stripes[i].Unlock() //nolint:staticcheck // an empty critical section is the point
	}
}

// chunkOffset is where a chunk lies in the image file.
func chunkOffset(chunk uint32) int64 { return int64(chunk) * chunkBytes }

package blockdev

import (
	"blkd/internal/env"
)

// Generation is the writer's number, minted only by the metadata quorum; a store
// that stands alone writes generation 1.
type Generation uint64

// Seq is an entry's position in the volume's log: contiguous, from 1.
type Seq uint64

// Limits of a store.
const (
	MinVolume = BlockSize // bytes
	MaxVolume = 1 << 46   // bytes, 64 TiB
	MinLog    = 256 << 10 // bytes
	MaxLog    = 64 << 30  // bytes
)

// DefaultLogBytes is the log size of a volume that names none: a quarter of the
// volume, from 64 MiB to 1 GiB. A larger log coalesces more overwrites and takes
// longer to replay after a crash.
func DefaultLogBytes(size int64) int64 {
	return min(max(size/4, 64<<20), 1<<30) / BlockSize * BlockSize
}

// DefaultCacheBytes bounds the metadata pages kept in memory, per store. A page
// of 4 KiB describes 3.5 MiB of volume.
const DefaultCacheBytes = 128 << 20

// StoreOptions say where a store lies and how it behaves.
type StoreOptions struct {
	FS     env.FS
	Dir    string // directory of this volume; the store owns all that is in it
	Volume string // name in errors and logs

	LogBytes   int64 // at creation: size of the log; 0 = DefaultLogBytes
	CacheBytes int64 // metadata cache; 0 = DefaultCacheBytes

	// FailOnFull: when the backing file system is full and the log cannot be
	// poured, writes that find the log full fail with ErrNoSpace. Otherwise
	// they wait until there is space.
	FailOnFull bool
	// Replica: entries found in the log at open are kept uncommitted until
	// Commit or Truncate decides them. Otherwise all of them are committed.
	Replica bool
	// Staging: there is no image. What is committed stays in the log until its
	// owner lets it go; see ReadStaged and Drop. For replicas.
	Staging bool
	// Elsewhere tells which bytes a block that is written at AsideOff says are kept
	// elsewhere from then on: what a staging store has of them from before is not shown
	// any more. Nil, or n 0: none. Both are multiples of BlockSize.
	Elsewhere func(block []byte) (off, n int64)
	// NoChecksums leaves checksums out, for benchmarks only.
	NoChecksums bool
	// Manual: no background work; the caller drives Sync and Destage. For
	// seeded tests.
	Manual bool

	Events StoreEvents
}

// StoreEvents tell what an operator should know. Each may be nil. They are
// called from the store's goroutines and must not call back into it.
type StoreEvents struct {
	// Failed: a write or sync error; the store serves nothing from now on.
	Failed func(error)
	// Full: the backing file system is full (true), or has space again (false).
	Full func(bool)
	// BadBlock: a block failed its checksum.
	BadBlock func(*ChecksumError)
	// Recovered: the store was opened after a crash and replayed its log.
	Recovered func(Recovery)
}

// Recovery says what opening found in the log.
type Recovery struct {
	Entries  int   // entries replayed
	Bytes    int64 // log bytes replayed
	Cut      bool  // an incomplete record ended the log: the crash cut it
	LastGen  Generation
	LastSeq  Seq
	BadBlock int // durable blocks in the log that fail their checksum
}

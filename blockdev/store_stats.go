package blockdev

import "sync/atomic"

// counters are the store's metrics; all of them only grow.
type counters struct {
	reads, readBytes   atomic.Int64
	writes, writeBytes atomic.Int64 // mutations; payload of writes
	flushes, syncs     atomic.Int64
	logWrites          atomic.Int64
	logBytes           atomic.Int64
	imageBytes         atomic.Int64
	metaBytes          atomic.Int64
	rounds             atomic.Int64
	checkpoints        atomic.Int64
	stalls             atomic.Int64
	badBlocks          atomic.Int64
	punchErrors        atomic.Int64
}

// StoreStats is a store's state and its counters since it was opened.
type StoreStats struct {
	SizeBytes      int64 // of the volume
	AllocatedBytes int64 // of the image in use, in whole chunks of 64 KiB
	LogSizeBytes   int64
	LogUsedBytes   int64 // not yet poured
	OverlayBlocks  int64 // blocks that live only in the log
	CachePages     int64 // metadata pages of 4 KiB in memory
	DirtyPages     int64 // of these, changed since the last checkpoint
	MemoryBytes    int64 // estimate: overlay, metadata cache, tables
	Full           bool  // the backing file system is full
	Failed         error // why the store stopped, or nil

	Generation Generation // of the last entry
	LastSeq    Seq
	CommitSeq  Seq

	Reads, ReadBytes   int64
	Writes, WriteBytes int64 // mutations; payload bytes of writes
	Flushes            int64 // flushes and FUA writes answered or waiting
	Syncs              int64 // fdatasync rounds that answered them
	LogWrites          int64 // system calls that appended
	LogBytes           int64 // appended, with headers and padding
	ImageBytes         int64 // written to the image
	MetaBytes          int64 // written by checkpoints
	DestageRounds      int64
	Checkpoints        int64
	LogStalls          int64 // times that a writer waited for log space
	BadBlocks          int64 // checksum failures seen
	PunchErrors        int64 // space that could not be given back
}

// WriteAmplification is bytes written to files per byte that clients wrote, or 0
// before the first write. What is in the log and not yet poured counts once.
func (st *StoreStats) WriteAmplification() float64 {
	if st.WriteBytes == 0 {
		return 0
	}
	return float64(st.LogBytes+st.ImageBytes+st.MetaBytes) / float64(st.WriteBytes)
}

// Estimated bytes of memory: a map entry of the overlay, the tables per map page
// (entry, region counter), a pinned chunk, an entry that is not committed.
const (
	overlayEntryBytes = 40
	tableEntryBytes   = 20
	pinBytes          = 48
	pendingBytes      = 96
)

// Stats returns a snapshot; it is cheap.
func (s *Store) Stats() StoreStats {
	c := &s.counters
	st := StoreStats{
		SizeBytes: s.size.Load(), LogSizeBytes: s.log.size, LogUsedBytes: s.log.used(), Full: s.full.Load(), Failed: s.failed(),
		Reads: c.reads.Load(), ReadBytes: c.readBytes.Load(), Writes: c.writes.Load(), WriteBytes: c.writeBytes.Load(),
		Flushes: c.flushes.Load(), Syncs: c.syncs.Load(), LogWrites: c.logWrites.Load(), LogBytes: c.logBytes.Load(),
		ImageBytes: c.imageBytes.Load(), MetaBytes: c.metaBytes.Load(), DestageRounds: c.rounds.Load(), Checkpoints: c.checkpoints.Load(),
		LogStalls: c.stalls.Load(), BadBlocks: c.badBlocks.Load(), PunchErrors: c.punchErrors.Load(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.AllocatedBytes = int64(s.alloc.inUse) * chunkBytes
	st.OverlayBlocks = int64(s.over.len())
	st.CachePages = int64(len(s.maps.cached) + len(s.alloc.pages.cached))
	st.DirtyPages = int64(s.maps.dirty + s.alloc.pages.dirty)
	st.MemoryBytes = st.OverlayBlocks*overlayEntryBytes + st.CachePages*pageBytes + int64(len(s.maps.entries))*tableEntryBytes + int64(len(s.alloc.used))*8 +
		s.hist.bytes() + int64(len(s.pins.chunks))*pinBytes + int64(len(s.pending.ring))*pendingBytes + int64(len(s.pending.sums))*4
	st.CommitSeq = s.Committed()
	st.Generation, st.LastSeq = s.applied.gen, s.applied.seq
	if n := s.pending.n; n > 0 {
		last := s.pending.slot(n - 1)
		st.Generation, st.LastSeq = last.gen, last.seq
	}
	return st
}

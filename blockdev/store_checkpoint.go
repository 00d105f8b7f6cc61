package blockdev

import "blkd/internal/mutant"

// checkpoint makes the image and its map durable as they are, and the point at
// the place from which a crash replays the log. The steps and their order:
//
//  1. copy the dirty pages, all at one instant;
//  2. sync the log (pages must not be ahead of it) and the image; on a replica,
//     write a superblock that says that what the pages reflect is committed;
//  3. write the copies, and the table of sessions, to the slots that do not count, sync;
//  4. write the superblock: now they count;
//  5. chunks that the map no longer refers to may be used again.
//
// It holds pourMu. ErrNoSpace means that nothing has changed; every other error
// has failed the store.
func (s *Store) checkpoint(at logPoint) error {
	s.imported.Store(0)
	s.mu.Lock()
	s.unpin(Seq(s.keep.Load()))
	maps, alloc := s.maps.snapshot(), s.alloc.pages.snapshot()
	freed := s.freed
	s.freed = nil
	table := s.sessions.changed()
	commit := max(s.Committed(), s.applying)
	if mutant.On(mutant.StorePartialCommit) {
		commit = s.Committed()
	}
	s.mu.Unlock()
	ckpt := s.super.ckpt + 1
	if err := s.Sync(); err != nil {
		return err
	}
	if err := s.image.Sync(); err != nil {
		return s.fail(err)
	}
	if err := s.markCommitted(commit); err != nil {
		return err
	}
	err := s.maps.write(maps, ckpt)
	if err == nil {
		err = s.alloc.pages.write(alloc, ckpt)
	}
	if err == nil {
		err = s.writeSessions(table)
	}
	if err != nil {
		return s.abortCheckpoint(maps, alloc, freed, err)
	}
	s.counters.metaBytes.Add(int64(len(maps.pages)+len(alloc.pages))*pageBytes + 2*superBytes)
	err = s.saveSuper(func(sb *superblock) {
		sb.ckpt = ckpt
		sb.replayFrom, sb.lastGen, sb.lastSeq = at.pos, at.gen, at.seq
		sb.durable, sb.commit = s.durable.Load(), commit
		sb.keep = s.hist.points(Seq(s.keep.Load()), at)
		sb.gens = s.hist.gensBefore(at.seq)
		table.landIn(sb)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.maps.landed(maps, ckpt)
	s.alloc.pages.landed(alloc, ckpt)
	s.sessions.landed(table)
	s.mu.Unlock()
	s.counters.checkpoints.Add(1)
	s.drainReaders()
	s.reuse(freed)
	return nil
}

// markCommitted records durably that entries up to commit are committed. Pages
// that reflect them are about to be written. If a crash comes then, recovery must
// replay these entries, and so find the remnants of the pages and write over
// them: an entry that could be cut instead would come back with the next
// checkpoint, which has the same number.
func (s *Store) markCommitted(commit Seq) error {
	if !s.o.Replica || s.super.commit >= commit || mutant.On(mutant.StoreCommitUnmarked) {
		return nil
	}
	return s.saveSuper(func(sb *superblock) { sb.durable, sb.commit = s.durable.Load(), commit })
}

// abortCheckpoint takes back what a checkpoint began, when the file system has
// no space for a page: what was written does not count, and the next attempt
// writes over it.
func (s *Store) abortCheckpoint(maps, alloc snapshot, freed []freedChunk, err error) error {
	if !isFull(err) {
		return s.fail(err)
	}
	s.mu.Lock()
	s.maps.aborted(maps)
	s.alloc.pages.aborted(alloc)
	s.freed = append(freed, s.freed...)
	s.mu.Unlock()
	return s.noSpace(err)
}

// keepFree is how many chunks that are free may keep their space in the file
// system, and their pages in the page cache, for good: an eighth of the volume, from
// 16 to 512 MiB. The next large writes go there; a place of which the file system and
// the page cache know nothing costs several times as much.
func (s *Store) keepFree() int {
	return int(min(max(s.size.Load()/chunkBytes/8, 256), 8192))
}

// kickFreed asks for a checkpoint when so many chunks wait for one that large
// writes would soon run out of kept ones. It holds mu.
func (s *Store) kickFreed() {
	if len(s.freed) > s.keepFree()/4 {
		s.kick()
	}
}

// reuse makes freed chunks available, and gives back the space of those that were
// trimmed.
func (s *Store) reuse(freed []freedChunk) {
	for i := 0; i < len(freed); {
		n := 1
		for i+n < len(freed) && freed[i+n] == (freedChunk{freed[i].chunk + uint32(n), freed[i].punch}) {
			n++
		}
		if freed[i].punch {
			s.punch(chunkOffset(freed[i].chunk), int64(n)*chunkBytes)
		}
		i += n
	}
	s.mu.Lock()
	for _, f := range freed {
		s.alloc.release(f.chunk)
		if f.punch {
			s.alloc.strip(f.chunk)
		}
	}
	s.mu.Unlock()
}

// giveBack gives back the space of free chunks that no write needed since it was
// called last, but for keep of them. While large writes outrun the checkpoints, what is
// given back would have to be taken anew at once, and that slows both down further.
func (s *Store) giveBack(keep int) {
	s.mu.Lock()
	chunks := s.alloc.surplus(keep)
	s.mu.Unlock()
	freed := make([]freedChunk, len(chunks))
	for i, c := range chunks {
		freed[i] = freedChunk{c, true}
	}
	s.reuse(freed)
}

// punch gives space of the image back. Failure costs space, nothing else: what
// reads as zeros is decided by the map.
func (s *Store) punch(off, n int64) {
	if err := s.image.PunchHole(off, n); err != nil {
		s.counters.punchErrors.Add(1)
	}
}

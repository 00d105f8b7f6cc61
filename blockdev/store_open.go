package blockdev

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"syscall"

	"blkd/internal/env"
)

// checkSize validates the size of a volume.
func checkSize(size int64) error {
	if size < MinVolume || size > MaxVolume || size%512 != 0 {
		return fmt.Errorf("%w: volume size %d: must be a multiple of 512 from %d to %d bytes", ErrInvalid, size, MinVolume, int64(MaxVolume))
	}
	return nil
}

// CreateStore makes an empty store of size bytes that reads as zeros, durably.
// It fails if the directory holds one already; leftovers of a creation that was
// broken off are replaced.
func CreateStore(o StoreOptions, size int64) error {
	if err := checkSize(size); err != nil {
		return err
	}
	logBytes := cmp.Or(o.LogBytes, DefaultLogBytes(size))
	if logBytes < MinLog || logBytes > MaxLog || logBytes%BlockSize != 0 {
		return fmt.Errorf("%w: log size %d: must be a multiple of %d from %d to %d bytes", ErrInvalid, logBytes, BlockSize, MinLog, int64(MaxLog))
	}
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return err
	}
	names, err := o.FS.ReadDir(o.Dir)
	if err != nil {
		return err
	}
	if slices.Contains(names, superFile) {
		return fmt.Errorf("volume %s: %s holds a volume already: %w", o.Volume, o.Dir, fs.ErrExist)
	}
	if err := createFiles(o, names, size, logBytes); err != nil {
		return fmt.Errorf("volume %s: create: %w", o.Volume, err)
	}
	return errors.Join(o.FS.SyncDir(o.Dir), o.FS.SyncDir(path.Dir(o.Dir)))
}

// createFiles makes the superblock last, by rename: a store with a superblock is
// complete.
func createFiles(o StoreOptions, leftovers []string, size, logBytes int64) error {
	for _, name := range leftovers {
		if err := o.FS.Remove(path.Join(o.Dir, name)); err != nil {
			return err
		}
	}
	if err := createLog(o.FS, path.Join(o.Dir, logFile), logBytes); err != nil {
		return err
	}
	for _, name := range []string{imageFile, mapFile, allocFile} {
		f, err := o.FS.Open(path.Join(o.Dir, name), openCreate)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	if err := o.FS.SyncDir(o.Dir); err != nil {
		return err
	}
	// The log begins at BlockSize, so that no entry has position 0.
	super := superFileState{superblock: superblock{
		size: size, logBytes: logBytes, replayFrom: BlockSize, durable: BlockSize, incStart: BlockSize, clean: true,
	}}
	if _, err := rand.Read(super.uuid[:]); err != nil {
		return err
	}
	temp := path.Join(o.Dir, superFile+".new")
	var err error
	if super.f, err = o.FS.Open(temp, openCreate); err != nil {
		return err
	}
	// Both slots, so that the file has its full length.
	if err := errors.Join(super.save(), super.save(), super.f.Close()); err != nil {
		return err
	}
	return o.FS.Rename(temp, path.Join(o.Dir, superFile))
}

// RemoveStore deletes a store and its directory. The superblock goes first: a
// removal that is broken off leaves no volume.
func RemoveStore(fsys env.FS, dir string) error {
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(b, a) })
	if i := slices.Index(names, superFile); i > 0 {
		names[0], names[i] = names[i], names[0]
	}
	for _, name := range names {
		if err := fsys.Remove(path.Join(dir, name)); err != nil {
			return err
		}
	}
	return errors.Join(fsys.Remove(dir), fsys.SyncDir(path.Dir(dir)))
}

// OpenStore opens a store, replays its log, and starts the background work. One
// process at a time: the caller holds the lock of the data directory.
func OpenStore(o StoreOptions) (*Store, error) {
	s := &Store{o: o, gen: 1, stop: make(chan struct{}), pourNow: make(chan struct{}, 1)}
	s.space.L = &s.spaceMu
	if err := s.open(); err != nil {
		s.closeFiles() //nolint:errcheck // nothing was written yet
		return nil, fmt.Errorf("volume %s: open: %w", o.Volume, err)
	}
	if !o.Manual {
		s.flusher.wake = make(chan struct{}, 1)
		s.workers.Go(s.runFlusher)
		if !o.Staging {
			s.workers.Go(s.runPourer)
		}
	}
	return s, nil
}

func (s *Store) open() error {
	if err := s.openFiles(); err != nil {
		return err
	}
	sb := &s.super.superblock
	if sb.wipe {
		if err := s.wipe(); err != nil {
			return err
		}
	}
	s.incomplete.Store(sb.incomplete)
	s.size.Store(sb.size)
	pages := mapPageCount(sb.size)
	limit := int(cmp.Or(s.o.CacheBytes, DefaultCacheBytes) / pageBytes)
	s.maps.entries, s.maps.limit = make([]pageEntry, pages), max(limit, 64)
	s.over = newOverlay(pages)
	for _, pf := range []*pageFile{s.maps, s.alloc.pages} {
		pf.ckpt.Store(sb.ckpt)
		size, err := pf.f.Size()
		if err != nil {
			return err
		}
		pf.size.Store(size)
	}
	if err := s.alloc.load(); err != nil {
		return err
	}
	s.log.name, s.log.size = logFile, sb.logBytes
	s.log.tail.Store(sb.replayFrom)
	if err := s.loadSessions(); err != nil {
		return err
	}
	return s.recover()
}

func (s *Store) openFiles() error {
	open := func(name string, f *env.File) error {
		var err error
		*f, err = s.o.FS.Open(s.file(name), syscall.O_RDWR)
		return err
	}
	s.maps = &pageFile{kind: mapPages, name: mapFile}
	s.alloc = &allocator{pages: &pageFile{kind: allocPages, name: allocFile}}
	err := open(superFile, &s.super.f)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s holds no complete volume (no superblock): %w", s.o.Dir, err)
	}
	if err != nil {
		return err
	}
	if err := s.super.load(s.file(superFile)); err != nil {
		return err
	}
	err = errors.Join(open(logFile, &s.log.f), open(imageFile, &s.image), open(mapFile, &s.maps.f), open(allocFile, &s.alloc.pages.f))
	if err != nil {
		return err
	}
	if size, err := s.log.f.Size(); err != nil || size != s.super.logBytes {
		return errors.Join(err, fmt.Errorf("%s has %d bytes, not %d: %w", s.file(logFile), size, s.super.logBytes, errLogDamaged))
	}
	return s.log.f.Map(s.super.logBytes)
}

func (s *Store) closeFiles() error {
	var errs []error
	for _, f := range []env.File{s.super.f, s.log.f, s.image, s.maps.f, s.alloc.pages.f, s.sessionsFile} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Close flushes, pours the log into the image so that the next start has nothing
// to replay, and closes the files. Requests that come later fail with ErrClosed.
func (s *Store) Close() error {
	s.appendMu.Lock()
	if s.closed {
		s.appendMu.Unlock()
		return nil
	}
	s.closed = true
	s.appendMu.Unlock()
	s.wakeAppenders()
	close(s.stop)
	s.workers.Wait()
	s.closeFlusher()
	err := s.closeClean()
	// The files must not be closed while somebody uses them: a descriptor may
	// belong to another file a moment later.
	s.appendMu.Lock()
	defer s.appendMu.Unlock()
	s.pourMu.Lock()
	defer s.pourMu.Unlock()
	closed := ErrClosed
	s.failure.Store(&closed)
	s.wakeAppenders() // what still waits for space waits in vain
	s.drainReaders()
	s.syncMu.Lock()
	defer s.syncMu.Unlock()
	return errors.Join(err, s.closeFiles())
}

func (s *Store) closeClean() error {
	err := s.failed()
	if err == nil && s.o.Staging {
		// What it holds is replayed by the next start.
		return errors.Join(s.Sync(), s.saveSuper(func(sb *superblock) { sb.clean = true }))
	}
	if err == nil {
		err = s.Destage()
	}
	if errors.Is(err, ErrNoSpace) {
		return s.Sync() // the log keeps what the image has no space for
	}
	if err != nil {
		return err
	}
	return s.saveSuper(func(sb *superblock) {
		s.mu.Lock()
		defer s.mu.Unlock()
		sb.clean = s.log.tail.Load() == s.applied.pos && s.pending.n == 0
	})
}

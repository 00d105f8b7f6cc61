package blockdev

import "fmt"

// Resize changes the volume's size, durably. What lies beyond a smaller size is
// discarded at once and reads as zeros if the volume grows again.
func (s *Store) Resize(size int64) error {
	if err := checkSize(size); err != nil {
		return fmt.Errorf("volume %s: %w", s.o.Volume, err)
	}
	s.resizeMu.Lock()
	defer s.resizeMu.Unlock()
	if err := s.failed(); err != nil {
		return err
	}
	if old := s.size.Load(); size < old {
		if s.o.Replica {
			return fmt.Errorf("volume %s: shrink a replica: %w: append the trim of what lies beyond to its log", s.o.Volume, ErrNotSupported)
		}
		if err := s.cutTail(size, old); err != nil {
			return err
		}
	}
	s.pourMu.Lock()
	defer s.pourMu.Unlock()
	return s.setSize(size)
}

// setSize saves the size and lets requests use it. It holds pourMu.
func (s *Store) setSize(size int64) error {
	s.mu.Lock()
	s.maps.resize(mapPageCount(size))
	s.over.resize(mapPageCount(size))
	s.mu.Unlock()
	if err := s.saveSize(size); err != nil {
		return err
	}
	s.size.Store(size)
	return nil
}

// cutTail refuses requests beyond the new end and makes what is there zero.
func (s *Store) cutTail(size, old int64) error {
	tail := Request{Op: OpTrim, Off: size, Len: old - size}
	b := writeBatches.Get().(*writeBatch)
	defer b.reset()
	b.mutations, b.errs = append(b.mutations, &tail), append(b.errs, nil)
	s.plan(b, &tail)
	b.ends = append(b.ends, len(b.pieces))
	b.limit = old
	s.appendMu.Lock()
	s.size.Store(size)
	s.appendPieces(b)
	s.appendMu.Unlock()
	if b.errs[0] != nil {
		s.size.Store(old)
		return b.errs[0]
	}
	return s.Sync()
}

func (s *Store) saveSize(size int64) error {
	if err := s.failed(); err != nil {
		return err // the file may be closed
	}
	return s.saveSuper(func(sb *superblock) { sb.size = size })
}

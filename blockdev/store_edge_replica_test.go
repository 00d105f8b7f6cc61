package blockdev

import (
	"errors"
	"fmt"
	"syscall"

	"blkd/internal/env/crashfs"
)

const pageSpan = pageChunks * chunkBytes // bytes of volume that a map page describes

// scripted is a replica whose operations on files a test can break into.
type scripted struct {
	*Store
	fs   *crashfs.FS
	o    StoreOptions
	last Seq
	// on is called before the operation it names, then forgotten.
	on map[string]func() error
}

func newScripted() (*scripted, error) {
	r := &scripted{fs: crashfs.New(), on: map[string]func() error{}}
	hook := func(op, name string, _ int64, do func() error) error {
		f := r.on[op+" "+name]
		delete(r.on, op+" "+name)
		if f != nil {
			if err := f(); err != nil {
				return err
			}
		}
		return do()
	}
	var err error
	r.Store, r.o, err = newStore(StoreOptions{FS: &hookFS{r.fs, hook}, LogBytes: 4 * MinLog, Manual: true, Replica: true}, 10*pageSpan)
	return r, err
}

// add appends a write of n bytes of v, or a trim if v is 0.
func (r *scripted) add(v byte, off, n int64) error {
	r.last++
	e := Entry{Gen: 1, Seq: r.last, Kind: EntryZero, Off: off, Len: n}
	if v != 0 {
		e.Kind, e.Data = EntryWrite, filled(v, int(n))
	}
	return r.Append([]Entry{e})
}

// settle commits, pours and closes everything and opens the store again, with
// nothing cached.
func (r *scripted) settle() error {
	err := errors.Join(r.Commit(r.last), r.Destage(), r.Close())
	if err != nil {
		return err
	}
	r.Store, err = OpenStore(r.o)
	return err
}

// restart kills the process, opens the store, and cuts off what is uncommitted.
// It tells whether the last entry was.
func (r *scripted) restart() (cut bool, err error) {
	r.fs.Kill()
	clear(r.on)
	if r.Store, err = OpenStore(r.o); err != nil {
		return false, err
	}
	_, before := r.Last()
	err = r.Truncate(r.Committed())
	_, r.last = r.Last()
	return r.last < before, err
}

// wants checks that the block at off is filled with v, or with old if the entry
// that wrote v was cut.
func (r *scripted) wants(cut bool, off int64, old, v byte) error {
	if cut {
		v = old
	}
	return holds(r.Store, off, v)
}

func powerCut() error { return syscall.EIO }

// crashWithFreshCommit commits a reference while a round is poured, and the
// process dies before the checkpoint is complete, which reflects the reference.
// If it can be cut then, the next checkpoint must not bring it back.
func crashWithFreshCommit() error {
	r, err := newScripted()
	if err != nil {
		return err
	}
	const far = 5 * pageSpan
	err = errors.Join(r.add(1, 0, BlockSize), r.Commit(1), r.add(2, far, chunkBytes))
	if err != nil {
		return err
	}
	r.on["write "+imageFile] = func() error { return r.Commit(2) }
	r.on["write "+mapFile] = func() error {
		r.on["write "+superFile] = powerCut
		return nil
	}
	if err := r.Destage(); !errors.Is(err, syscall.EIO) {
		return fmt.Errorf("the checkpoint was not broken off: %w", err)
	}
	cut, err := r.restart()
	if err != nil {
		return err
	}
	err = errors.Join(r.add(3, pageSpan, BlockSize), r.Commit(r.last), r.Destage())
	return errors.Join(err, holds(r.Store, 0, 1), r.wants(cut, far, 0, 2))
}

// checkpointDuringApply completes a checkpoint while the commit of a reference
// waits for the second of two map pages. Then the process dies.
func checkpointDuringApply() error {
	r, err := newScripted()
	if err != nil {
		return err
	}
	const off = pageSpan - chunkBytes
	err = errors.Join(r.add(1, pageSpan, BlockSize), r.settle(), r.add(2, off, 2*chunkBytes))
	if err != nil {
		return err
	}
	if err := holds(r.Store, off, 0); err != nil { // its page is in memory now
		return err
	}
	r.on["read "+mapFile] = r.Destage
	if err := r.Commit(r.last); err != nil {
		return err
	}
	cut, err := r.restart()
	return errors.Join(err, r.wants(cut, off, 0, 2), r.wants(cut, pageSpan, 1, 2))
}

// crashDuringTrim begins a round while the commit of a trim waits for a map page,
// and the process dies before its checkpoint.
func crashDuringTrim() error {
	r, err := newScripted()
	if err != nil {
		return err
	}
	const off = pageSpan - chunkBytes - BlockSize
	err = errors.Join(r.add(1, off, BlockSize), r.add(1, off+BlockSize, BlockSize), r.settle(), r.add(0, off, chunkBytes+BlockSize))
	if err != nil {
		return err
	}
	r.on["read "+mapFile] = func() error {
		r.on["write "+superFile] = powerCut
		if err := r.Destage(); !errors.Is(err, syscall.EIO) {
			return fmt.Errorf("the round was not broken off: %w", err)
		}
		return nil
	}
	r.Commit(r.last) //nolint:errcheck // it may be done although the store has failed
	if r.failed() == nil {
		return errors.New("no page was read")
	}
	cut, err := r.restart()
	return errors.Join(err, r.wants(cut, off, 1, 0), r.wants(cut, off+BlockSize, 1, 0))
}

// trimOfLog trims a chunk that never came to the image: a member that holds what
// was written must learn of it.
func trimOfLog() error {
	r, err := newScripted()
	if err != nil {
		return err
	}
	err = errors.Join(r.add(1, 5*chunkBytes, BlockSize), r.Commit(1), r.add(0, 5*chunkBytes, chunkBytes), r.Commit(2), r.Destage())
	off, n, err2 := r.NextChange(1, 0)
	if err := errors.Join(err, err2); err != nil || off != 5*chunkBytes || n != chunkBytes {
		return fmt.Errorf("changed: %d bytes at %d, %w", n, off, err)
	}
	return nil
}

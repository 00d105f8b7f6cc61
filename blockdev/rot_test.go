package blockdev

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"blkd/internal/env/crashfs"
)

// TestStoreRot flips bits anywhere in the files of a store whose contents were
// flushed, and opens it again, after a crash or after a close in order. It may
// refuse to open, and reads may fail; what a read returns must be right.
func TestStoreRot(t *testing.T) {
	seed, err := crashHunt(uint64(*crashSeeds), rotRun)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
}

func rotRun(seed uint64) error {
	c := &crasher{rng: rand.New(rand.NewPCG(seed, 13)), logf: func(string, ...any) {}, fs: crashfs.New(), history: map[int64][]version{}}
	if err := CreateStore(c.options(), crashVolume); err != nil {
		return err
	}
	if err := c.open(); err != nil {
		return err
	}
	for range 10 + c.rng.IntN(60) {
		if err := c.step(); err != nil {
			return err
		}
	}
	c.fs.SetBudget(-1)
	if err := c.flush(); err != nil {
		return err
	}
	files := []string{imageFile, mapFile, allocFile, superFile, logFile}
	var err error
	if c.rng.IntN(3) == 0 {
		err = c.s.Close()
	} else {
		// Later entries say up to where the log was flushed: without any,
		// damage at its end looks like what a crash leaves. One more than the
		// bits that are flipped.
		for range 4 {
			err = errors.Join(err, WriteAt(c.s, make([]byte, BlockSize), 10*chunkBytes, 0))
		}
	}
	if err != nil {
		return err
	}
	c.fs.Kill()
	for range 1 + c.rng.IntN(3) {
		if err := c.flip(files[c.rng.IntN(len(files))]); err != nil {
			return err
		}
	}
	if c.open() != nil {
		return nil
	}
	return c.checkRead()
}

// flip flips a bit of a byte that is not zero, or else of any.
func (c *crasher) flip(name string) error {
	name = "/v/" + name
	f, err := c.fs.Open(name, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil || size == 0 {
		return err
	}
	b := make([]byte, 1)
	off := int64(0)
	for range 100 {
		off = c.rng.Int64N(size)
		if _, err := f.ReadAt(b, off); err != nil {
			return err
		}
		if b[0] != 0 {
			break
		}
	}
	return c.fs.Corrupt(name, off, uint(c.rng.IntN(8)))
}

// checkRead reads the hot part block by block.
func (c *crasher) checkRead() error {
	p := make([]byte, BlockSize)
	for _, area := range hot {
		for off := area[0]; off+sector <= area[1]; off += BlockSize {
			p := p[:min(BlockSize, area[1]-off)]
			if ReadAt(c.s, p, off) != nil {
				continue
			}
			for at := int64(0); at < int64(len(p)); at += sector {
				n := (off + at) / sector
				tag, err := sectorTag(p[at:at+sector], n)
				if err != nil {
					return err
				}
				if want := c.expected(n); tag != want {
					return fmt.Errorf("sector %d reads as %d, holds %d", n, tag, want)
				}
			}
		}
	}
	return nil
}

func (c *crasher) expected(n int64) uint64 {
	if h := c.history[n]; len(h) > 0 {
		return h[len(h)-1].tag
	}
	return 0
}

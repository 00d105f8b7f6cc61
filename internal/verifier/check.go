package verifier

import (
	"errors"
	"fmt"

	"blkd/blockdev"
)

// Checked is what a device holds of a load that has ended.
type Checked struct {
	Blocks int64 // read
	Lost   int64 // of them, those that lack a version that was acknowledged
	// LostDurable are those of them that a flush had made safe.
	LostDurable int64
	Wrong       int64 // that hold what was never written there
	// Example tells of the first few that are lost or wrong; nil: there is none.
	Example error
}

const (
	checkBlocks = 64 // in one read
	examples    = 3
)

// Check reads every block of a load that has ended from a device.
func (l *Load) Check(dev blockdev.Device) (Checked, error) {
	var c Checked
	p, scratch := make([]byte, checkBlocks*blockdev.BlockSize), make([]byte, blockdev.BlockSize)
	for from := int64(0); from < l.cfg.Blocks; from += checkBlocks {
		count := min(checkBlocks, l.cfg.Blocks-from)
		part := p[:count*blockdev.BlockSize]
		if err := blockdev.ReadAt(dev, part, (l.cfg.First+from)*blockdev.BlockSize); err != nil {
			return c, fmt.Errorf("read of blocks %d to %d: %w", l.cfg.First+from, l.cfg.First+from+count-1, err)
		}
		for i := range count {
			l.check(&c, from+i, part[i*blockdev.BlockSize:(i+1)*blockdev.BlockSize], scratch)
		}
	}
	return c, nil
}

func (l *Load) check(c *Checked, i int64, p, scratch []byte) {
	c.Blocks++
	b, n := &l.blocks[i], l.cfg.First+i
	version, err := l.content.version(p, scratch, n)
	switch {
	case err != nil:
		c.Wrong++
	case version > b.asked.Load():
		c.Wrong++
		err = fmt.Errorf("block %d holds version %d, which was never written", n, version)
	case version < b.acked.Load():
		c.Lost++
		err = fmt.Errorf("block %d holds version %d of %d acknowledged ones", n, version, b.acked.Load())
		if version < b.durable.Load() {
			c.LostDurable++
		}
	}
	if err != nil && c.Lost+c.Wrong <= examples {
		c.Example = errors.Join(c.Example, err)
	}
}

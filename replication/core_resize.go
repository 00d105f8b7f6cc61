package replication

import (
	"errors"
	"fmt"

	"blkd/blockdev"
)

// Resize makes the volume larger: by one entry of the log, before which no other can
// lie beyond the old end. When the entry that it returns is committed, every later
// primary has the new size, whoever that is; until then it may or may not happen. A
// size that the volume has already is a success. The error says why it cannot begin.
func (c *Core) Resize(now Instant, size int64) (Seq, error) {
	if !c.enter(now) {
		return 0, c.failed
	}
	_, last := c.disk.Last()
	switch is := c.disk.Size(); {
	case c.role != Primary:
		return 0, fmt.Errorf("%w: this node is %s", ErrMoved, c.role)
	case c.p.drain != nil:
		return 0, errors.New("the volume is being handed over")
	case size%512 != 0 || size > blockdev.MaxVolume:
		return 0, fmt.Errorf("%d bytes are no size of a volume: use a multiple of 512 up to %d", size, int64(blockdev.MaxVolume))
	case size < is:
		return 0, fmt.Errorf("it has %d bytes, and cannot be made smaller", is)
	case size > is:
		last++
		if !c.appendEntries([]blockdev.Entry{{Gen: c.gen, Seq: last, Kind: entryMark, Off: size}}) {
			return 0, c.failed
		}
		c.progress()
	}
	return last, nil
}

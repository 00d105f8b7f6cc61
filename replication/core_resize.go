package replication

import (
	"context"
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

// Resize makes the volume larger, as [Core.Resize] does, and returns when that is
// committed. When ctx ends before, the outcome is unknown.
func (v *Volume) Resize(ctx context.Context, size int64) error {
	var at Seq
	var gen Generation
	err := error(ErrMoved) // of a volume that is closed
	v.step(func(now Instant) {
		at, err = v.core.Resize(now, size)
		_, gen = v.core.Role()
	})
	look := v.cfg.Clock.NewTicker(changeLook)
	defer look.Stop()
	for err == nil {
		done := false
		v.Inspect(func(_ Instant, c *Core) {
			if c.role != Primary || c.gen != gen {
				err = ErrMoved
			}
			done = c.disk.Committed() >= at
		})
		if done || err != nil {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C():
		}
	}
	return err
}

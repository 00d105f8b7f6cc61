package replicas

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"blkd/blockdev"
)

// branchComparison is one comparison of a branch under way.
type branchComparison struct {
	*Branch
	store    *blockdev.Store
	with     blockdev.Device
	rate     int64
	progress func(checked, total int64)
	total    int64 // bytes: of the larger one
	found    Findings
}

// branchStep is how many bytes are looked at before the next progress is told.
const branchStep = 64 << 20

func (c *branchComparison) run(ctx context.Context) error {
	for at := int64(0); at < c.total; at += branchStep {
		n := min(branchStep, c.total-at)
		runs, err := c.data(at, n)
		for i := 0; err == nil && i < len(runs); i++ {
			err = c.compare(ctx, runs[i].Off, runs[i].Len)
		}
		if err != nil {
			return fmt.Errorf("branch %s: %w", c.Name, err)
		}
		c.found.Checked = at + n
		c.progress(c.found.Checked, c.total)
	}
	return nil
}

// data is the runs of a range in which one of the two may hold something else than
// zeros. They may overlap no more than in part of compareStep.
func (c *branchComparison) data(off, n int64) ([]blockdev.Extent, error) {
	const steps = branchStep / compareStep
	var marked [steps]bool
	for _, d := range []blockdev.Device{c.store, c.with} {
		within := min(n, d.Size()-off)
		if within <= 0 {
			continue
		}
		err := d.Extents(off, within, func(e blockdev.Extent) bool {
			for i := (e.Off - off) / compareStep; !e.Zero && i*compareStep < e.Off-off+e.Len; i++ {
				marked[i] = true
			}
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	var runs []blockdev.Extent
	for i, data := range marked {
		if at := off + int64(i)*compareStep; data {
			runs = append(runs, blockdev.Extent{Off: at, Len: min(compareStep, off+n-at)})
		}
	}
	return runs, nil
}

// compare compares a range block by block.
func (c *branchComparison) compare(ctx context.Context, off, n int64) error {
	var kept, now [compareStep]byte
	for _, side := range []struct {
		d   blockdev.Device
		buf []byte
	}{{c.store, kept[:]}, {c.with, now[:]}} {
		if within := min(n, side.d.Size()-off); within > 0 { // beyond its end it is nothing, like zeros
			if err := blockdev.ReadAt(side.d, side.buf[:within], off); err != nil {
				return err
			}
		}
	}
	for at := int64(0); at < n; at += blockdev.BlockSize {
		end := min(at+blockdev.BlockSize, n)
		if !bytes.Equal(kept[at:end], now[at:end]) {
			c.found.add(Difference{Node: c.Node, Off: off + at, Len: end - at})
		}
	}
	if c.rate > 0 {
		return wait(ctx, time.Duration(n*int64(time.Second)/c.rate))
	}
	return ctx.Err()
}

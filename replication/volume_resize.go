package replication

import "context"

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
	if err != nil {
		return err
	}
	return v.until(ctx, func(c *Core) (bool, error) {
		if c.role != Primary || c.gen != gen {
			return false, ErrMoved
		}
		return c.disk.Committed() >= at, nil
	})
}

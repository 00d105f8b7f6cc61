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

package replication

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// Evict has a replica leave the record, or counted as worthless, as [Core.Evict]
// does, and returns when that is recorded. Done of e is not used. When ctx ends
// before, the outcome is unknown.
func (v *Volume) Evict(ctx context.Context, e Eviction) error {
	done := make(chan error, 1)
	e.Done = func(err error) { done <- err }
	err := error(ErrMoved) // of a volume that is closed
	v.step(func(now Instant) { err = v.core.Evict(now, e) })
	if err != nil {
		return err
	}
	select {
	case err = <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Waive lets the recovery under way go on without some members; see [Core.Waive].
func (v *Volume) Waive(nodes []NodeID, why string) error {
	err := error(ErrNoRecovery) // of a volume that is closed
	v.step(func(now Instant) { err = v.core.Waive(now, nodes, why) })
	return err
}

// Change asks for another policy, as [Core.Change] does, and returns when it is
// recorded. What is asked for is what edit makes of the policy in force. When ctx
// ends before, the outcome is unknown.
func (v *Volume) Change(ctx context.Context, edit func(*Shape)) error {
	var want Shape
	err := error(ErrMoved)
	v.step(func(now Instant) {
		if r := v.core.rec; r != nil {
			want = r.shape()
		}
		edit(&want)
		err = v.core.Change(now, want)
	})
	if err != nil {
		return err
	}
	return v.until(ctx, func(c *Core) (bool, error) {
		switch {
		case c.role != Primary && c.role != Chosen:
			return false, ErrMoved
		case c.p.base.shape() == want:
			return true, nil
		case c.p.shape == nil:
			return false, errors.New(cmp.Or(c.p.refusal, "another change was asked for since"))
		}
		return false, nil
	})
}

// changeLook is how often a change is looked after. Nothing waits for that.
const changeLook = 5 * time.Millisecond

// until looks at the core until it is done, or cannot be.
func (v *Volume) until(ctx context.Context, look func(c *Core) (done bool, err error)) (err error) {
	tick := v.cfg.Clock.NewTicker(changeLook)
	defer tick.Stop()
	for {
		done := false
		v.Inspect(func(_ Instant, c *Core) { done, err = look(c) })
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C():
		}
	}
}

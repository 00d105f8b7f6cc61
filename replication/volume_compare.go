package replication

import "context"

// Compare compares a range with the other members, as [Core.Compare] does, and
// returns what it has found when that is known. Done of x is not used.
func (v *Volume) Compare(ctx context.Context, x *Comparison) ([]Compared, error) {
	type result struct {
		found []Compared
		err   error
	}
	done := make(chan result, 1)
	x.Done = func(found []Compared, err error) { done <- result{found, err} }
	err := error(ErrMoved) // of a volume that is closed
	v.step(func(now Instant) { err = v.core.Compare(now, x) })
	if err != nil {
		return nil, err
	}
	select {
	case r := <-done:
		return r.found, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

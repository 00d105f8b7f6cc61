package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blkd/internal/verifier"
	"blkd/nbd"
)

// granted is what a frozen primary must not grant when it wakes.
const granted = 64

// freeze stops the primary's process, and wakes it when it has long been replaced.
func freeze(ctx context.Context, o *options) error {
	r, err := oneEach(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	r.startLoad(o)
	p, err := r.volume.Primary(ctx)
	if err != nil {
		return err
	}
	if r.late, err = r.volume.Dial(ctx, p, nbd.DialOptions{}); err != nil {
		return err
	}
	stale, err := verifier.NewStale(r.late, blocks, granted)
	if err != nil {
		return err
	}
	if err := calm(ctx); err != nil {
		return err
	}
	r.load.Mark()
	if err := p.Pause(); err != nil {
		return err
	}
	stale.Send()
	stall, err := r.resumed(ctx)
	if err != nil {
		return errors.Join(err, p.Resume())
	}
	report("kill -STOP of the primary", []time.Duration{stall})
	if err := errors.Join(stale.Replace(r.dev), sleep(ctx, o.frozen), p.Resume()); err != nil {
		return err
	}
	awake := time.Now()
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	refused, err := stale.Answers(wait, r.dev)
	if err != nil {
		return err
	}
	if refused.Accepted+refused.Served > 0 {
		return fmt.Errorf("awake after %v, %s granted %d of %d writes and %d of %d reads", o.frozen, p.Name,
			refused.Accepted, refused.Writes, refused.Served, refused.Reads)
	}
	if err := r.volume.Level(ctx); err != nil {
		return err
	}
	fmt.Printf("  awake after %v, it refused %d writes and %d reads that waited, and was up to date again %v later\n",
		o.frozen, refused.Writes, refused.Reads, time.Since(awake).Round(time.Millisecond))
	return r.finish(ctx)
}

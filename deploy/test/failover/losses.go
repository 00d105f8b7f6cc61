package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
)

// losses kills as many members at once as the volume may lose, and every second time
// the primary is one of them. In the end the members are compared.
func losses(ctx context.Context, o *options) error {
	r, err := oneEach(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	r.startLoad(o)
	var others, leading []time.Duration
	for i := range 2 * o.kills {
		stall, err := r.killSome(ctx, o.may(), i%2 == 1)
		if err != nil {
			return fmt.Errorf("kill %d: %w", i+1, err)
		}
		if i%2 == 1 {
			leading = append(leading, stall)
		} else {
			others = append(others, stall)
		}
	}
	if err := r.finish(ctx); err != nil {
		return err
	}
	if err := r.same(ctx); err != nil {
		return err
	}
	report(fmt.Sprintf("kill -9 of %d of %d members at once, not the primary", o.may(), o.width()), others)
	report("the primary among them", leading)
	n := r.load.Counts()
	fmt.Printf("  %d writes, %d reads, %d flushes: no error, nothing lost\n", n.Writes, n.Reads, n.Flushes)
	return nil
}

// killSome kills members, the primary among them or not, tells how long no write was
// acknowledged, and brings them back.
func (r *rig) killSome(ctx context.Context, n int, primary bool) (time.Duration, error) {
	if err := r.volume.Level(ctx); err != nil {
		return 0, err
	}
	p, err := r.volume.Primary(ctx)
	if err != nil {
		return 0, err
	}
	gone := r.some(p, n+1)[1:]
	if primary {
		gone = r.some(p, n)
	}
	if err := calm(ctx); err != nil {
		return 0, err
	}
	r.load.Mark()
	for _, x := range gone {
		x.Kill()
	}
	stall, err := r.resumed(ctx)
	if err != nil {
		return 0, err
	}
	for _, x := range gone {
		if err := x.Start(); err != nil {
			return 0, err
		}
	}
	return stall, r.Settle(ctx)
}

// same compares the members, as an operator would.
func (r *rig) same(ctx context.Context) error {
	if err := r.volume.Level(ctx); err != nil {
		return err
	}
	return r.until(ctx, func(ctx context.Context) error {
		stream, err := r.volumes().VerifyReplicas(ctx, &api.VerifyReplicasRequest{Name: volume})
		for err == nil {
			var p *api.VerifyReplicasProgress
			if p, err = stream.Recv(); err == nil && p.Done {
				if p.DifferentBytes > 0 || len(p.Nodes) != len(r.copies) {
					err = fmt.Errorf("the members were compared: %v", p)
				}
				return err
			}
		}
		return err
	})
}

// some are n members, first and any others.
func (r *rig) some(first *clustertest.Node, n int) []*clustertest.Node {
	list := []*clustertest.Node{first}
	for _, i := range rand.Perm(len(r.copies)) {
		if x := r.copies[i]; x != first && len(list) < n {
			list = append(list, x)
		}
	}
	return list
}

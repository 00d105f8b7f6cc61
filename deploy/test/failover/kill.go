package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// oneEach is a volume with every copy or shard on a node of its own, and a client of
// another one.
func oneEach(ctx context.Context, o *options) (*rig, error) {
	var names []string
	for i := range o.width() + 1 {
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	return newRig(ctx, o, names, names[:o.width()])
}

// calm is how long the load runs before something happens: long enough for it to be
// in full swing, and never the same.
func calm(ctx context.Context) error {
	return sleep(ctx, 200*time.Millisecond+rand.N(300*time.Millisecond))
}

// kill kills primaries.
func kill(ctx context.Context, o *options) error {
	r, err := oneEach(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	r.startLoad(o)
	var plain, leading []time.Duration
	for range o.kills {
		for _, leads := range []bool{false, true} {
			stall, err := r.killPrimary(ctx, leads)
			if err != nil {
				return fmt.Errorf("kill %d: %w", len(plain)+len(leading)+1, err)
			}
			if leads {
				leading = append(leading, stall)
			} else {
				plain = append(plain, stall)
			}
		}
	}
	if err := r.finish(ctx); err != nil {
		return err
	}
	report("kill -9 of the primary", plain)
	report("kill -9 of the primary, which also led the quorum", leading)
	n := r.load.Counts()
	fmt.Printf("  %d writes, %d reads, %d flushes: no error, nothing lost\n", n.Writes, n.Reads, n.Flushes)
	return nil
}

// killPrimary kills the primary, which leads the metadata quorum or does not, and
// tells how long no write was acknowledged. Then it brings the node back.
func (r *rig) killPrimary(ctx context.Context, leads bool) (time.Duration, error) {
	if err := r.volume.Level(ctx); err != nil {
		return 0, err
	}
	p, err := r.volume.Primary(ctx)
	if err != nil {
		return 0, err
	}
	if err := r.lead(ctx, p.Name, leads); err != nil {
		return 0, err
	}
	if err := calm(ctx); err != nil {
		return 0, err
	}
	r.load.Mark()
	killed := time.Now()
	p.Kill()
	stall, err := r.resumed(ctx)
	if err != nil {
		return 0, err
	}
	if stall > slow {
		if err := r.explain(ctx, killed, stall); err != nil {
			return 0, err
		}
	}
	if err := p.Start(); err != nil {
		return 0, err
	}
	return stall, r.Settle(ctx)
}

// slow is a stall that is told of by itself.
const slow = 2 * time.Second

// explain tells where the time went.
func (r *rig) explain(ctx context.Context, killed time.Time, stall time.Duration) error {
	h, err := api.NewClusterServiceClient(r.client.Conn()).History(ctx, &api.HistoryRequest{Volume: volume})
	if err != nil {
		return err
	}
	after := func(t time.Time) time.Duration { return t.Sub(killed).Round(time.Millisecond) }
	fmt.Printf("  no write acknowledged for %v after a kill\n", stall.Round(time.Millisecond))
	for _, e := range h.Entries {
		if e.Time < killed.UnixNano() {
			continue
		}
		fmt.Printf("    %v: generation %d, %s %s\n", after(time.Unix(0, e.Time)), e.Generation, e.What, e.Reason)
		if c := e.Certificate; c != nil {
			fmt.Printf("      asked at %v, sealed at %v, serving at %v\n", after(c.Asked.AsTime()), after(c.Sealed.AsTime()), after(c.Serving.AsTime()))
		}
	}
	return nil
}

// lead makes a node the leader of the metadata quorum, or sees to it that another
// one is.
func (r *rig) lead(ctx context.Context, name string, leads bool) error {
	to := ""
	if leads {
		to = name
	}
	return r.until(ctx, func(ctx context.Context) error {
		leader, err := r.Leader(ctx)
		if err != nil || leads == (leader.Name == name) {
			return err
		}
		if _, err := r.Transfer(ctx, to); err != nil {
			return err
		}
		return fmt.Errorf("%s led the metadata quorum", leader.Name) // look again
	})
}

// promote promotes one copy after the other.
func promote(ctx context.Context, o *options) error {
	r, err := oneEach(ctx, o)
	if err != nil {
		return err
	}
	defer r.close()
	r.startLoad(o)
	var stalls []time.Duration
	for i := range o.promotions {
		stall, err := r.promoteOne(ctx)
		if err != nil {
			return fmt.Errorf("promotion %d: %w", i+1, err)
		}
		stalls = append(stalls, stall)
	}
	if err := r.finish(ctx); err != nil {
		return err
	}
	report("planned promotion", stalls)
	return nil
}

func (r *rig) promoteOne(ctx context.Context) (time.Duration, error) {
	if err := r.volume.Level(ctx); err != nil {
		return 0, err
	}
	if err := calm(ctx); err != nil {
		return 0, err
	}
	r.load.Mark()
	p, err := r.volumes().Promote(ctx, &api.PromoteRequest{Name: volume, Request: clustertest.NewRequest()})
	if err != nil {
		return 0, err
	}
	if p.Kind != metapb.PromotionKind_PROMOTION_KIND_HANDOVER {
		return 0, fmt.Errorf("it was a %s: %v", api.PromotionWord(p.Kind), p.Reasons)
	}
	return r.resumed(ctx)
}

// report prints how long no write was acknowledged, each time.
func report(what string, stalls []time.Duration) {
	slices.Sort(stalls)
	at := func(percent int) time.Duration { return stalls[(len(stalls)*percent+99)/100-1].Round(time.Millisecond) }
	if len(stalls) == 1 {
		fmt.Printf("%s: no write acknowledged for %v\n", what, at(100))
		return
	}
	fmt.Printf("%s, %d times: no write acknowledged for: median %v, p99 %v, max %v\n", what, len(stalls), at(50), at(99), at(100))
}

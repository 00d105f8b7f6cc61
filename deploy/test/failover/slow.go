package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
	"blkd/internal/verifier"
	"blkd/nbd"
)

const (
	// A slow member runs for one part of this time of a hundred.
	slowPeriod = 100 * time.Millisecond
	slowFactor = 100
)

// slowMember has two volumes under the same load at the same time, with the same
// primary and one other member in common, and makes the third member of one of them a
// hundred times slower. So the machine disturbs both alike.
func slowMember(ctx context.Context, o *options) (err error) {
	r, err := newRig(ctx, o, []string{"n1", "n2", "n3", "n4", "n5"}, []string{"n1", "n2", "n3"})
	if err != nil {
		return err
	}
	defer r.close()
	n1, n2, slow := r.Nodes[0], r.Nodes[1], r.Nodes[3]
	other, err := r.CreateVolume(ctx, "slow", size, r.client, []*clustertest.Node{n1, n2, slow})
	if err != nil {
		return err
	}
	dev, err := other.Dial(ctx, r.client, nbd.DialOptions{})
	if err != nil {
		return err
	}
	defer dev.Close() //nolint:errcheck // the load has ended
	if err := r.lead(ctx, n2.Name, true); err != nil {
		return err
	}
	for _, v := range []string{volume, "slow"} {
		if err := r.moveTo(ctx, v, n1); err != nil {
			return err
		}
	}
	var healthy, slowed latencies
	r.latency = healthy.add
	cfg := r.startLoad(o)
	cfg.Device, cfg.Latency = dev, slowed.add
	load := verifier.Start(cfg)
	normal := slowDown(slow)
	err = sleep(ctx, o.slow)
	if err := errors.Join(err, normal(), load.Stop(), r.load.Stop()); err != nil {
		return err
	}
	fmt.Printf("a secondary %d times slower for %v, beside a volume without it:\n", slowFactor, o.slow)
	fmt.Printf("  healthy  %v\n  slow     %v\n", quantiles(healthy.list), quantiles(slowed.list))
	fmt.Printf("  p99.9 is %.2f times that of healthy\n", float64(at(slowed.list, 999))/float64(at(healthy.list, 999)))
	if err := other.Level(ctx); err != nil {
		return err
	}
	c, err := load.Check(dev)
	return errors.Join(err, c.Example, r.finish(ctx))
}

// moveTo makes a node primary of a volume, if it is not.
func (r *rig) moveTo(ctx context.Context, volume string, n *clustertest.Node) error {
	return r.until(ctx, func(ctx context.Context) error {
		v, err := r.volumes().Show(ctx, &api.ShowVolumeRequest{Name: volume})
		if err != nil || v.Record.GetPrimary() == n.Name {
			return err
		}
		_, err = r.volumes().Promote(ctx, &api.PromoteRequest{Name: volume, To: n.Name, Request: clustertest.NewRequest()})
		return err
	})
}

// slowDown has a node stand still for most of the time, until the function that it
// returns is called.
func slowDown(n *clustertest.Node) (normal func() error) {
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		var err error
		for err == nil {
			if err = n.Pause(); err != nil {
				break
			}
			select {
			case <-stop:
				stopped <- n.Resume()
				return
			case <-time.After(slowPeriod - slowPeriod/slowFactor):
			}
			err = n.Resume()
			time.Sleep(slowPeriod / slowFactor)
		}
		<-stop
		stopped <- err
	}()
	return func() error {
		close(stop)
		return <-stopped
	}
}

// latencies is how long writes took.
type latencies struct {
	mu   sync.Mutex
	list []time.Duration
}

func (t *latencies) add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, d)
}

// at is the latency that so many of a thousand writes do not exceed.
func at(list []time.Duration, permille int) time.Duration {
	slices.Sort(list)
	if len(list) == 0 {
		return 0
	}
	return list[(len(list)-1)*permille/1000]
}

func quantiles(list []time.Duration) string {
	us := func(permille int) time.Duration { return at(list, permille).Round(time.Microsecond) }
	return fmt.Sprintf("%d writes: p50 %v, p99 %v, p99.9 %v, max %v", len(list), us(500), us(990), us(999), us(1000))
}

package drill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// Drill is one way to disturb a cluster, and what to expect then.
type Drill struct {
	Name, Text string
	// Stall is how long clients of nodes that are not disturbed may wait for the
	// acknowledgement of a write.
	Stall time.Duration
	// needs are the actions without which it is left out; quick: many times a second.
	needs []Action
	quick bool
	// victim chooses the node, do disturbs it, and undo ends that; nil: nothing is to
	// do.
	victim func(*roles) string
	do     func(*trial, context.Context) error
	undo   func(*trial, context.Context) error
}

// Expectation is what is expected, in words.
func (d *Drill) Expectation() string {
	return fmt.Sprintf("nothing is lost, clients of other nodes see no error and wait %v at the most", d.Stall)
}

// held is how long a disturbance lasts.
const held = 8 * time.Second

// Drills are all of them, in the order in which they are held.
var Drills = []*Drill{
	{Name: "handover", Text: "the volume is handed over to another node", Stall: time.Second,
		victim: func(r *roles) string { return r.primary }, do: (*trial).handOver},
	{Name: "kill-primary", Text: "blkd of the primary is killed", Stall: 3 * time.Second, needs: []Action{Kill},
		victim: func(r *roles) string { return r.primary }, do: does(Kill)},
	{Name: "pause-primary", Text: "the primary stands still for a while, and wakes up", Stall: 3 * time.Second, needs: []Action{Pause, Resume},
		victim: func(r *roles) string { return r.primary }, do: does(Pause), undo: does(Resume)},
	{Name: "kill-leader", Text: "the leader of the metadata quorum is killed", Stall: 3 * time.Second, needs: []Action{Kill},
		victim: func(r *roles) string { return r.leader }, do: does(Kill)},
	{Name: "power-off", Text: "a node that is not primary is gone, as if its power was cut", Stall: 3 * time.Second, needs: []Action{Kill},
		victim: (*roles).secondary, do: does(Kill)},
	{Name: "slow-node", Text: "a node that is not primary is a hundred times slower", Stall: 3 * time.Second, needs: []Action{Pause, Resume}, quick: true,
		victim: (*roles).secondary, do: (*trial).slowDown, undo: (*trial).speedUp},
	{Name: "isolate", Text: "the network between the primary and all others is cut", Stall: 5 * time.Second, needs: []Action{Isolate, Heal},
		victim: func(r *roles) string { return r.primary }, do: does(Isolate), undo: does(Heal)},
}

// does does an action to the victim.
func does(a Action) func(*trial, context.Context) error {
	return func(t *trial, ctx context.Context) error { return t.hands.Do(ctx, t.result.Node, a) }
}

// possible tells why a drill cannot be held; empty: it can.
func (d *Drill) possible(h Hands) string {
	for _, a := range d.needs {
		if !h.Can(a) {
			return "it is not known how to " + string(a) + " a node"
		}
	}
	if d.quick && !h.Fast() {
		return "it takes signals many times a second, to processes of this machine"
	}
	return ""
}

// roles tell who is what.
type roles struct {
	primary, leader string
	members         []string
}

// secondary is a member that is neither primary nor, if that is possible, leads the
// quorum.
func (r *roles) secondary() string {
	found := ""
	for _, m := range r.members {
		if m != r.primary && (found == "" || found == r.leader) {
			found = m
		}
	}
	return found
}

func (c *Cluster) roles(ctx context.Context, volume string) (*roles, error) {
	v, err := c.show(ctx, volume)
	if err != nil {
		return nil, err
	}
	s, err := c.status(ctx)
	if err != nil {
		return nil, err
	}
	r := &roles{primary: v.Record.GetPrimary(), leader: s.Quorum.GetLeader()}
	for _, m := range v.Record.GetMembers() {
		r.members = append(r.members, m.Node)
	}
	if r.primary == "" || r.leader == "" {
		return nil, errors.New("there is no primary, or nobody leads the metadata quorum")
	}
	return r, nil
}

func (t *trial) handOver(ctx context.Context) error {
	req := &api.PromoteRequest{Name: t.volume, Request: t.request("drill: handover")}
	return t.ask(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		p, err := api.NewVolumeServiceClient(conn).Promote(ctx, req)
		if err == nil && p.Kind != metapb.PromotionKind_PROMOTION_KIND_HANDOVER {
			return fmt.Errorf("it was a %s: %v", api.PromotionWord(p.Kind), p.Reasons)
		}
		return err
	})
}

// A slow node runs for one part of this time of a hundred.
const slowPeriod = 100 * time.Millisecond

func (t *trial) slowDown(ctx context.Context) error {
	stop, stopped := make(chan struct{}), make(chan error, 1)
	t.fast = func() error { close(stop); return <-stopped }
	go func() {
		for {
			if err := t.hands.Do(ctx, t.result.Node, Pause); err != nil {
				stopped <- err
				return
			}
			ended := false
			select {
			case <-stop:
				ended = true
			case <-time.After(slowPeriod * 99 / 100):
			}
			if err := t.hands.Do(context.WithoutCancel(ctx), t.result.Node, Resume); err != nil || ended {
				stopped <- err
				return
			}
			time.Sleep(slowPeriod / 100)
		}
	}()
	return nil
}

func (t *trial) speedUp(context.Context) error { return t.fast() }

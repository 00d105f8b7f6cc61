package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"blkd/deploy/test/clustertest"
)

// place tells which node is what when a network is cut: all of them by index.
type place struct {
	primary int
	a, b    int // the other members
	c, d    int // that have no copy
}

func (p place) all() []int { return []int{p.primary, p.a, p.b, p.c, p.d} }

func (p place) but(nodes ...int) []int {
	return slices.DeleteFunc(p.all(), func(i int) bool { return slices.Contains(nodes, i) })
}

// cut is something that happens to a network. Five nodes vote, three have a copy.
type cut struct {
	name, text string
	leads      bool // the primary is to lead the metadata quorum, too
	do         func(n *clustertest.Network, p place) error
	// served are the nodes whose clients are to be served while it lasts.
	served func(p place) []int
}

var cuts = []cut{
	{name: "alone", text: "the primary alone", do: func(n *clustertest.Network, p place) error {
		return split(n, []int{p.primary}, p.but(p.primary))
	}, served: func(p place) []int { return p.but(p.primary) }},
	{name: "leader", text: "the primary alone, which leads the metadata quorum too", leads: true, do: func(n *clustertest.Network, p place) error {
		return split(n, []int{p.primary}, p.but(p.primary))
	}, served: func(p place) []int { return p.but(p.primary) }},
	{name: "pair", text: "the primary with one of two members and the quorum", do: func(n *clustertest.Network, p place) error {
		return split(n, []int{p.primary, p.a, p.c}, []int{p.b, p.d})
	}, served: func(p place) []int { return []int{p.primary, p.a, p.c} }},
	{name: "quorum", text: "the primary with one of two members, and without the quorum", do: func(n *clustertest.Network, p place) error {
		return split(n, []int{p.primary, p.a}, []int{p.b, p.c, p.d})
	}, served: func(p place) []int { return []int{p.primary, p.a} }},
	{name: "mute", text: "nobody hears the primary, which hears all", do: func(n *clustertest.Network, p place) error {
		return block(n, []int{p.primary}, p.but(p.primary))
	}, served: func(p place) []int { return p.but(p.primary) }},
	{name: "deaf", text: "the primary hears nobody, all hear it", do: func(n *clustertest.Network, p place) error {
		return block(n, p.but(p.primary), []int{p.primary})
	}, served: func(p place) []int { return p.but(p.primary) }},
	{name: "unheard", text: "one member does not hear the primary", do: func(n *clustertest.Network, p place) error {
		return block(n, []int{p.primary}, []int{p.a})
	}, served: func(p place) []int { return p.but(p.a) }},
	{name: "unanswered", text: "the primary does not hear one member", do: func(n *clustertest.Network, p place) error {
		return block(n, []int{p.a}, []int{p.primary})
	}, served: func(p place) []int { return p.but(p.a) }},
	{name: "members", text: "two members do not reach each other, the primary reaches both", do: func(n *clustertest.Network, p place) error {
		return n.Part(p.a, p.b)
	}, served: place.all},
	{name: "flap", text: "the primary's link goes and comes once a second"},
}

// split cuts two groups of nodes off from each other.
func split(n *clustertest.Network, a, b []int) error {
	return errors.Join(block(n, a, b), block(n, b, a))
}

// block swallows what one group sends to another.
func block(n *clustertest.Network, from, to []int) error {
	for _, i := range from {
		for _, j := range to {
			if err := n.Block(i, j); err != nil {
				return err
			}
		}
	}
	return nil
}

// make makes a cut, and tells when clients were served again.
func (r *rig) make(ctx context.Context, c cut) error {
	p, err := r.prepare(ctx, c.leads)
	if err != nil {
		return err
	}
	if c.do == nil {
		return r.flap(ctx, c, p)
	}
	began := time.Now()
	if err := c.do(r.network, p); err != nil {
		return err
	}
	after, last, err := r.served(ctx, c.served(p), time.Now())
	fmt.Printf("%s (%s): clients of %s are served %v after the cut, that of %s last\n",
		c.text, r.Nodes[p.primary].Name, r.names(c.served(p)), after.Round(time.Millisecond), last)
	if err != nil {
		return errors.Join(err, r.network.Heal())
	}
	if err := sleep(ctx, r.o.hold-time.Since(began)); err != nil {
		return err
	}
	if err := r.heal(ctx); err != nil {
		return err
	}
	if r.o.judge > 0 && after > r.o.judge {
		return fmt.Errorf("%v is too long", after)
	}
	return nil
}

// flap cuts a link off for half a second, every second.
func (r *rig) flap(ctx context.Context, c cut, p place) error {
	r.waits.reset()
	rounds := 0
	for began := time.Now(); time.Since(began) < r.o.flaps; rounds++ {
		if err := r.network.Cut(p.primary); err != nil {
			return err
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
		if err := r.network.Heal(); err != nil {
			return err
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	longest := r.waits.most(p.but(p.primary))
	if err := r.heal(ctx); err != nil {
		return err
	}
	fmt.Printf("%s, %d times: clients of the other nodes waited %v at the most\n", c.text, rounds, longest.Round(time.Millisecond))
	return nil
}

// prepare waits until everything is well and tells who is what.
func (r *rig) prepare(ctx context.Context, leads bool) (p place, err error) {
	if err := r.volume.Level(ctx); err != nil {
		return p, err
	}
	primary, err := r.volume.Primary(ctx)
	if err != nil {
		return p, err
	}
	if err := r.lead(ctx, primary, leads); err != nil {
		return p, err
	}
	p.primary, p.c, p.d = slices.Index(r.Nodes, primary), 3, 4
	p.a, p.b = (p.primary+1)%3, (p.primary+2)%3
	return p, sleep(ctx, 300*time.Millisecond)
}

// lead makes a node the leader of the metadata quorum, or another one, that has no
// copy.
func (r *rig) lead(ctx context.Context, n *clustertest.Node, leads bool) error {
	if !leads {
		n = r.Nodes[3]
	}
	return r.Until(ctx, func(ctx context.Context) error {
		leader, err := r.Leader(ctx)
		if err != nil || leader == n {
			return err
		}
		if _, err := r.Transfer(ctx, n.Name); err != nil {
			return err
		}
		return fmt.Errorf("%s led the metadata quorum", leader.Name) // look again
	})
}

// heal makes the network whole, and waits until all members are up to date again.
func (r *rig) heal(ctx context.Context) error {
	if err := r.network.Heal(); err != nil {
		return err
	}
	healed := time.Now()
	if err := r.volume.Level(ctx); err != nil {
		return err
	}
	fmt.Printf("  all members are up to date %v after it was healed\n", time.Since(healed).Round(time.Millisecond))
	return nil
}

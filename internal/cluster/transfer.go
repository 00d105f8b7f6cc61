package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"blkd/internal/api"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// Transfer hands the leadership to the voter of that name; empty: to the one that
// is furthest and in contact. It returns when that one leads. The errors are those
// of Do, and what the leader has against it.
func (c *Cluster) Transfer(ctx context.Context, to string) error {
	return c.persist(ctx, func(ctx context.Context, s *metadata.Server, leader uint64) error {
		if s.Status().ID == leader {
			return c.transfer(ctx, s, to)
		}
		return c.forwardTransfer(ctx, leader, to)
	})
}

// transfer hands over the leadership of this node.
func (c *Cluster) transfer(ctx context.Context, s *metadata.Server, to string) error {
	id := c.successor(s.Status())
	if to != "" {
		var n *metapb.Node
		s.View(func(s *metadata.State) { n = s.Node(to) })
		if id = n.GetId(); !slices.Contains(s.Status().Voters, id) {
			return &refusedTransfer{"node " + to + " is no voter"}
		}
	}
	switch id {
	case 0:
		return &refusedTransfer{"no other voter is in contact"}
	case s.Status().ID:
		return nil
	}
	err := s.Transfer(ctx, id)
	var elsewhere *metadata.NotLeaderError
	if err == nil || ctx.Err() != nil || errors.As(err, &elsewhere) || errors.Is(err, metadata.ErrStopped) {
		return err
	}
	return &refusedTransfer{err.Error()}
}

// refusedTransfer says why a leadership cannot be handed over.
type refusedTransfer struct{ text string }

func (e *refusedTransfer) Error() string { return ErrNotTransferred.Error() + ": " + e.text }

func (e *refusedTransfer) Unwrap() error { return ErrNotTransferred }

// forwardTransfer has the leader hand over.
func (c *Cluster) forwardTransfer(ctx context.Context, leader uint64, to string) error {
	p, client, route := c.way(leader)
	if client == nil {
		return errNoWay(leader)
	}
	response, err := client.Transfer(ctx, &api.TransferRequest{Route: route, To: to})
	switch {
	case err != nil:
		return fmt.Errorf("leader %s: %w", p.name, readable(err))
	case response.Elsewhere:
		return fmt.Errorf("node %s no longer leads", p.name)
	case response.Refusal != "":
		return &refusedTransfer{response.Refusal}
	}
	return nil
}

// successor is the voter that a leader hands over to best: the one that is
// furthest of those that were heard lately; 0: there is none.
func (c *Cluster) successor(status metadata.ServerStatus) uint64 {
	var best metadata.Follower
	for _, f := range status.Followers {
		if f.Active && slices.Contains(status.Voters, f.ID) && (best.ID == 0 || f.Match > best.Match) && c.isHeard(f.ID) {
			best = f
		}
	}
	return best.ID
}

// isHeard tells whether the heartbeats of a Raft id arrive, and its node takes
// messages.
func (c *Cluster) isHeard(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers {
		if p.id == id && p.client != nil && p.heard != 0 && c.now()-p.heard < 5*c.every {
			return true
		}
	}
	return false
}

// handOver gives the leadership away before this node stops, if it can within
// ctx and does not take long.
func (c *Cluster) handOver(ctx context.Context) {
	s, leader := c.leader()
	if s == nil || s.Status().ID != leader {
		return
	}
	to := c.successor(s.Status())
	if to == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*c.cfg.Election)
	defer cancel()
	if err := s.Transfer(ctx, to); err != nil {
		c.log.Warn("the leadership was not handed over, the others elect anew", "err", err)
	}
}

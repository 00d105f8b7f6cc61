package cluster

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"blkd/internal/api"
	"blkd/metadata"
)

// admit checks where a message comes from and goes to. It returns the Raft member
// that it is for and the name of the node that sent it. A node that is not a
// member (Raft id 0) comes this far too.
func (c *Cluster) admit(ctx context.Context, r *api.Route) (*metadata.Server, string, error) {
	certified := c.claimedName(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil || !c.phase.running() {
		return nil, "", status.Errorf(codes.Unavailable, "node %s takes no part in the cluster: it is %s", c.cfg.Name, c.phase)
	}
	switch {
	case r.GetCluster() != c.identity.Cluster:
		return nil, "", status.Errorf(codes.PermissionDenied, "node %s belongs to cluster %016x, the message to %016x", c.cfg.Name, c.identity.Cluster, r.GetCluster())
	case r.To != c.identity.Id:
		return nil, "", status.Errorf(codes.FailedPrecondition, "node %s has Raft id %d, the message is for %d", c.cfg.Name, c.identity.Id, r.To)
	case r.ToIncarnation != c.incarnation:
		return nil, "", status.Errorf(codes.FailedPrecondition, "the message is for another run of node %s", c.cfg.Name)
	}
	name, g := certified, c.greetings[certified]
	if certified == "" {
		name, g = c.greeter(r)
	}
	if g == nil || g.Id != r.From || g.Incarnation != r.FromIncarnation {
		return nil, "", status.Errorf(codes.FailedPrecondition, "node %s knows no run %016x with Raft id %d; it has to say Hello first", c.cfg.Name, r.FromIncarnation, r.From)
	}
	return c.server, name, nil
}

// admitMember is admit for those who have a Raft id.
func (c *Cluster) admitMember(ctx context.Context, r *api.Route) (*metadata.Server, string, error) {
	if r.GetFrom() == 0 {
		return nil, "", status.Error(codes.PermissionDenied, "only members of the quorum may do this")
	}
	return c.admit(ctx, r)
}

// greeter finds the node that said Hello with the run of a route: without TLS
// there is nothing else to know it by. With c.mu held.
func (c *Cluster) greeter(r *api.Route) (string, *api.Greeting) {
	for name, g := range c.greetings {
		if g.Incarnation == r.FromIncarnation && g.Id == r.From {
			return name, g
		}
	}
	return "", nil
}

package node

import (
	"context"

	"google.golang.org/grpc"

	"blkd/internal/api"
	"blkd/internal/cluster"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// Events implements api.ClusterService.
func (s *clusterService) Events(req *api.EventsRequest, out grpc.ServerStreamingServer[api.Event]) error {
	// With this the node has applied every event that the caller can have seen,
	// on whichever node.
	v, err := s.look(out.Context())
	if err != nil {
		return err
	}
	e := &eventStream{clusterService: s, out: out, last: req.After}
	if !req.Resume {
		if err := e.dump(v); err != nil {
			return err
		}
	}
	for {
		changed := s.cluster.Changed()
		if err := e.catchUp(); err != nil || !req.Follow {
			return err
		}
		if err := s.pause(out.Context(), changed); err != nil {
			return err
		}
	}
}

// pause waits for a change. The error is ready for the caller: it has gone, or
// this node takes no part any more.
func (m *member) pause(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return m.failed(ctx, ctx.Err())
	case <-m.node.stopping.Done():
		return m.failed(ctx, cluster.ErrStopped)
	case <-changed:
		return nil
	}
}

// eventStream is one call of Events.
type eventStream struct {
	*clusterService
	out  grpc.ServerStreamingServer[api.Event]
	last uint64 // the caller has everything up to this event
}

// dump sends every object as it is, and then sync.
func (e *eventStream) dump(v *view) error {
	st := e.cluster.Status()
	items := []*api.Event{{Item: &api.Event_Cluster{Cluster: e.describeCluster(v, &st, nil)}}}
	for _, n := range v.describeNodes() {
		items = append(items, &api.Event{Item: &api.Event_Node{Node: n}})
	}
	for _, r := range v.describeVolumes() {
		items = append(items, &api.Event{Item: &api.Event_Volume{Volume: r}})
	}
	items = append(items, &api.Event{Item: &api.Event_Sync{Sync: &api.Sync{Seq: v.event}}})
	for _, item := range items {
		if err := e.out.Send(item); err != nil {
			return err
		}
	}
	e.last = v.event
	return nil
}

// catchUp sends the events that the caller does not have. Where they are no
// longer kept, a dump takes their place.
func (e *eventStream) catchUp() error {
	v := view{leader: e.cluster.Status().Leader}
	var events []*metapb.Event
	var gap bool
	e.cluster.Local(func(s *metadata.State) {
		if events, gap = s.Events(e.last); gap {
			v.take(s)
		}
	})
	if gap {
		if err := e.out.Send(&api.Event{Item: &api.Event_Gap{Gap: &api.Gap{After: e.last}}}); err != nil {
			return err
		}
		return e.dump(&v)
	}
	for _, event := range events {
		if err := e.out.Send(&api.Event{Item: &api.Event_Change{Change: event}}); err != nil {
			return err
		}
		e.last = event.Seq
	}
	return nil
}

package node

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	"blkd/internal/api"
	"blkd/internal/cluster"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// waitPause is between two attempts to have the quorum confirm a view.
const waitPause = 200 * time.Millisecond

// Wait implements api.ClusterService. It outlasts a quorum that is lost.
func (s *clusterService) Wait(ctx context.Context, req *api.WaitRequest) (*api.WaitResponse, error) {
	holds, err := s.condition(req)
	if err != nil {
		return nil, err
	}
	if err := s.confirm(ctx); err != nil || req.Condition == api.WaitCondition_WAIT_CONDITION_QUORUM {
		return &api.WaitResponse{}, err
	}
	for {
		changed := s.cluster.Changed()
		v := view{leader: s.cluster.Status().Leader}
		s.cluster.Local(v.take)
		r := v.volume(req.Volume)
		switch {
		case holds(r) && r == nil:
			return &api.WaitResponse{}, nil
		case holds(r):
			return &api.WaitResponse{Volume: v.describeVolume(r)}, nil
		}
		if err := s.pause(ctx, changed); err != nil {
			return nil, err
		}
	}
}

// condition is what a request waits for, of the volume's record or nil.
func (s *clusterService) condition(req *api.WaitRequest) (func(*metapb.Volume) bool, error) {
	var holds func(*metapb.Volume) bool
	switch req.Condition {
	case api.WaitCondition_WAIT_CONDITION_QUORUM:
		return nil, nil
	case api.WaitCondition_WAIT_CONDITION_EXISTS:
		holds = func(r *metapb.Volume) bool { return r != nil }
	case api.WaitCondition_WAIT_CONDITION_DELETED:
		holds = func(r *metapb.Volume) bool { return r == nil }
	case api.WaitCondition_WAIT_CONDITION_PRIMARY:
		holds = func(r *metapb.Volume) bool { return r.GetPrimary() != "" && r.Served == r.Generation }
	case api.WaitCondition_WAIT_CONDITION_UP_TO_DATE:
		holds = func(r *metapb.Volume) bool { return r != nil && upToDate(r) == wantedReplicas(r.Layout) }
	default:
		return nil, s.node.refuse(codes.InvalidArgument, "blkctl wait --help", "there is no condition %d to wait for", req.Condition)
	}
	if req.Volume == "" {
		return nil, s.node.refuse(codes.InvalidArgument, "blkctl wait --help", "that is a condition of a volume, and none is named")
	}
	return holds, nil
}

// wantedReplicas is how many a layout wants.
func wantedReplicas(l *metapb.Layout) int {
	if l.GetKind() == metapb.LayoutKind_LAYOUT_KIND_EC {
		return int(l.Data + l.Parity)
	}
	return int(l.GetCopies())
}

// upToDate is how many replicas of a volume count.
func upToDate(r *metapb.Volume) (n int) {
	for _, m := range r.Members {
		if counts(m) {
			n++
		}
	}
	return n
}

// counts tells whether a replica has everything that was acknowledged.
func counts(m *metapb.Member) bool {
	return m.State == metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE && !m.Amnesiac
}

// confirm waits until this node knows everything that was decided before the
// call, through losses of the quorum. The error is ready for the caller.
func (m *member) confirm(ctx context.Context) error {
	for {
		err := m.cluster.Read(ctx, func(*metadata.State) {})
		var refused *cluster.RefusedError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil, errors.As(err, &refused), errors.Is(err, cluster.ErrStopped):
			return m.failed(ctx, err)
		}
		timer := make(chan struct{})
		time.AfterFunc(waitPause, func() { close(timer) })
		if err := m.pause(ctx, timer); err != nil {
			return err
		}
	}
}

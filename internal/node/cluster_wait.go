package node

import (
	"context"
	"errors"
	"slices"
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
	if err := s.confirm(ctx); err != nil {
		return nil, err
	}
	if req.Condition == api.WaitCondition_WAIT_CONDITION_QUORUM {
		return &api.WaitResponse{}, s.settle(ctx)
	}
	v, err := s.until(ctx, func(v *view) bool { return holds(v.volume(req.Volume)) })
	if err != nil {
		return nil, err
	}
	answer := &api.WaitResponse{}
	if r := v.volume(req.Volume); r != nil {
		answer.Volume = v.describeVolume(r)
	}
	return answer, nil
}

// until waits until what this node knows is so. The error is ready for the caller.
func (s *clusterService) until(ctx context.Context, so func(*view) bool) (*view, error) {
	for {
		changed := s.cluster.Changed()
		v := view{leader: s.cluster.Status().Leader}
		s.cluster.Local(v.take)
		if so(&v) {
			return &v, nil
		}
		if err := s.pause(ctx, changed); err != nil {
			return nil, err
		}
	}
}

// settleTime is how long a node that is there may take to register.
const settleTime = 5 * time.Second

// settle waits, for some time, until the nodes that are there have registered: in
// a cluster that was just founded the quorum can decide a moment earlier, but
// place nothing on them yet.
func (s *clusterService) settle(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	_, err := s.until(within, func(v *view) bool {
		here := []string{s.node.cfg.NodeName}
		for _, p := range s.cluster.Status().Peers {
			if p.Connected || p.Why == "" {
				here = append(here, p.Name)
			}
		}
		return !slices.ContainsFunc(here, func(name string) bool { return v.node(name).GetIncarnation() == 0 })
	})
	if ctx.Err() == nil && within.Err() != nil {
		return nil
	}
	return err
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

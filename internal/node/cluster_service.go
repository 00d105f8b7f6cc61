package node

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"blkd/internal/api"
	"blkd/internal/cluster"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// clusterService implements api.ClusterService.
type clusterService struct {
	api.UnimplementedClusterServiceServer
	*member
}

// statusTime is how long Status waits for the quorum to confirm it: longer than
// an election takes.
const statusTime = 1500 * time.Millisecond

// Status implements api.ClusterService.
func (s *clusterService) Status(ctx context.Context, req *api.ClusterStatusRequest) (*api.ClusterStatus, error) {
	within, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	var v view
	err := s.cluster.Read(within, v.take)
	if ctx.Err() != nil {
		return nil, s.failed(ctx, ctx.Err())
	}
	if err != nil {
		s.cluster.Local(v.take)
	}
	s.gather(ctx, &v, v.volumes)
	return s.describeStatus(&v, err, req.Volume)
}

// describeStatus is the cluster as a view has it; stale is why no quorum
// confirmed that. With only, it is reduced to that volume.
func (s *clusterService) describeStatus(v *view, stale error, only string) (*api.ClusterStatus, error) {
	st := s.cluster.Status()
	v.leader = st.Leader
	out := s.describeCluster(v, &st, stale)
	if only == "" {
		out.Nodes, out.Volumes = v.describeNodes(), v.describeVolumes()
		return out, nil
	}
	r := v.volume(only)
	if r == nil {
		return nil, s.noVolume(only)
	}
	out.Volumes = []*api.Volume{v.describeVolume(r)}
	return out, nil
}

// describeCluster is the cluster apart from its nodes and volumes.
func (s *clusterService) describeCluster(v *view, st *cluster.Status, stale error) *api.ClusterStatus {
	out := &api.ClusterStatus{
		Node: s.node.cfg.NodeName, Id: v.info.Cluster, Name: v.info.Name, Version: v.info.Version,
		Stale: stale != nil, Event: v.event,
		Quorum: &api.Quorum{Voters: int32(len(st.Voters)), Need: int32(st.Need), Have: int32(st.Have),
			Missing: nodesOf(st.Missing), Leader: st.Leader, Term: st.Term},
		Problems: s.clusterProblems(st, stale),
	}
	if v.info.Created != 0 {
		out.Created = timestamppb.New(time.Unix(0, v.info.Created))
	}
	return out
}

// look takes a view that is as new as the call. The error is ready for the caller.
func (m *member) look(ctx context.Context) (*view, error) {
	var v view
	if err := m.read(ctx, v.take); err != nil {
		return nil, err
	}
	v.leader = m.cluster.Status().Leader
	return &v, nil
}

// ListNodes implements api.ClusterService.
func (s *clusterService) ListNodes(ctx context.Context, _ *api.ListNodesRequest) (*api.ListNodesResponse, error) {
	v, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	return &api.ListNodesResponse{Nodes: v.describeNodes()}, nil
}

// ShowNode implements api.ClusterService.
func (s *clusterService) ShowNode(ctx context.Context, req *api.ShowNodeRequest) (*api.ClusterNode, error) {
	v := view{leader: s.cluster.Status().Leader}
	var waits []*metadata.Refusal
	err := s.read(ctx, func(st *metadata.State) {
		v.take(st)
		waits = metadata.DrainWaits(st, req.Name)
	})
	if err != nil {
		return nil, err
	}
	r := v.node(req.Name)
	if r == nil {
		return nil, s.noNode(req.Name)
	}
	out := v.describeNode(r)
	drainProblems(out, waits)
	return out, nil
}

func (m *member) noNode(name string) error {
	return m.node.refuse(codes.NotFound, "blkctl node list", "there is no node %q", name)
}

// AddNode implements api.ClusterService.
func (s *clusterService) AddNode(ctx context.Context, req *api.AddNodeRequest) (*api.ClusterNode, error) {
	return s.changeNode(ctx, req.Request, &metapb.Command{Op: &metapb.Command_AddNode{AddNode: req.Node}})
}

// RemoveNode implements api.ClusterService.
func (s *clusterService) RemoveNode(ctx context.Context, req *api.RemoveNodeRequest) (*api.ClusterNode, error) {
	return s.changeNode(ctx, req.Request, &metapb.Command{Op: &metapb.Command_RemoveNode{RemoveNode: req.Node}})
}

// ReplaceNode implements api.ClusterService.
func (s *clusterService) ReplaceNode(ctx context.Context, req *api.ReplaceNodeRequest) (*api.ClusterNode, error) {
	return s.changeNode(ctx, req.Request, &metapb.Command{Op: &metapb.Command_ReplaceNode{ReplaceNode: req.Node}})
}

// DrainNode implements api.ClusterService.
func (s *clusterService) DrainNode(ctx context.Context, req *api.DrainNodeRequest) (*api.ClusterNode, error) {
	return s.changeNode(ctx, req.Request, &metapb.Command{Op: &metapb.Command_DrainNode{DrainNode: req.Node}})
}

// changeNode has the quorum change a node, and tells how it then is.
func (s *clusterService) changeNode(ctx context.Context, info *api.RequestInfo, command *metapb.Command) (*api.ClusterNode, error) {
	result, err := s.change(ctx, info, command)
	if err != nil {
		return nil, err
	}
	v := view{leader: s.cluster.Status().Leader}
	s.cluster.Local(v.take)
	return v.describeNode(result.Node), nil
}

// History implements api.ClusterService.
func (s *clusterService) History(ctx context.Context, req *api.HistoryRequest) (*metapb.History, error) {
	var h *metapb.History
	if err := s.read(ctx, func(s *metadata.State) { h = s.History(req.Volume) }); err != nil {
		return nil, err
	}
	if h == nil {
		return nil, s.node.refuse(codes.NotFound, "blkctl volume list", "there is no volume %q, and none of that name is remembered", req.Volume)
	}
	return h, nil
}

// TransferLeadership implements api.ClusterService.
func (s *clusterService) TransferLeadership(ctx context.Context, req *api.TransferLeadershipRequest) (*api.TransferLeadershipResponse, error) {
	v, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	if req.To != "" {
		switch r := v.node(req.To); {
		case r == nil:
			return nil, s.noNode(req.To)
		case !slices.Contains(v.info.Voters, r.Id):
			return nil, s.node.refuse(codes.FailedPrecondition, "blkctl node list", "node %s is no voter, and only a voter can lead", req.To)
		}
	}
	err = s.cluster.Transfer(ctx, req.To)
	switch {
	case errors.Is(err, cluster.ErrNotTransferred):
		return nil, s.node.refuse(codes.FailedPrecondition, "blkctl cluster status", "%v", err)
	case err != nil:
		return nil, s.failed(ctx, err)
	}
	return s.transferred(ctx, v.leader, req.To)
}

// transferTime is how long this node may take to hear of a new leader.
const transferTime = time.Second

// transferred tells who leads after a transfer, as soon as this node knows.
func (s *clusterService) transferred(ctx context.Context, from, to string) (*api.TransferLeadershipResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, transferTime)
	defer cancel()
	for {
		changed := s.cluster.Changed()
		st := s.cluster.Status()
		known := st.Leader != "" && (st.Leader == to || to == "" && st.Leader != from)
		if known || ctx.Err() != nil { // it may have changed once more since
			return &api.TransferLeadershipResponse{From: from, Leader: st.Leader, Term: st.Term}, nil
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

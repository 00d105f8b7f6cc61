package node

import (
	"context"
	"crypto/rand"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"blkd/internal/api"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// clusterVolumes implements api.VolumeService for the volumes that the quorum
// records.
type clusterVolumes struct {
	api.UnimplementedVolumeServiceServer
	*member
}

// List implements api.VolumeService.
func (s *clusterVolumes) List(ctx context.Context, req *api.ListVolumesRequest) (*api.ListVolumesResponse, error) {
	if req.Local {
		return s.tellHere(), nil
	}
	v, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	s.gather(ctx, v, v.volumes)
	return &api.ListVolumesResponse{Volumes: v.describeVolumes()}, nil
}

// Show implements api.VolumeService.
func (s *clusterVolumes) Show(ctx context.Context, req *api.ShowVolumeRequest) (*api.Volume, error) {
	v, r, err := s.find(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	s.gather(ctx, v, []*metapb.Volume{r})
	return v.describeVolume(r), nil
}

// find looks for a volume. The error, also that there is none, is ready for the caller.
func (m *member) find(ctx context.Context, name string) (*view, *metapb.Volume, error) {
	v, err := m.look(ctx)
	if err != nil {
		return nil, nil, err
	}
	r := v.volume(name)
	if r == nil {
		return nil, nil, m.noVolume(name)
	}
	return v, r, nil
}

func (m *member) noVolume(name string) error {
	return m.node.refuse(codes.NotFound, "blkctl volume list", "there is no volume %q", name)
}

// Create implements api.VolumeService.
func (s *clusterVolumes) Create(ctx context.Context, req *api.CreateVolumeRequest) (*api.Volume, error) {
	command := &metapb.Command{Op: &metapb.Command_CreateVolume{CreateVolume: &metapb.CreateVolume{
		Name: req.Name, SizeBytes: req.SizeBytes, BlockBytes: req.BlockBytes, Layout: req.Layout, Ack: req.Ack,
		MinCopies: req.MinCopies, Durability: req.Durability, Shared: req.Shared, Nodes: req.Nodes,
		ManualFailover: req.ManualFailover,
	}}}
	apply := s.change
	if req.DryRun {
		apply = s.pretend
	}
	result, err := apply(ctx, req.Request, command)
	if err != nil {
		return nil, err
	}
	v := s.described(result)
	v.Plan = result.Plan
	if req.DryRun {
		v.Record.Id, v.Record.Lineage = 0, 0 // those are given at the creation
	}
	return v, nil
}

// pretend carries out a command on a copy of the state.
func (m *member) pretend(ctx context.Context, _ *api.RequestInfo, command *metapb.Command) (*metapb.Result, error) {
	var encoded []byte
	if err := m.read(ctx, func(s *metadata.State) { encoded = s.Encode() }); err != nil {
		return nil, err
	}
	copied, err := metadata.DecodeState(encoded)
	if err != nil {
		return nil, m.node.refuse(codes.Internal, "", "%v", err)
	}
	command.Request = make([]byte, 16)
	rand.Read(command.Request) // never fails
	result := copied.Apply(0, command)
	if code, bad := resultCodes[result.Code]; bad {
		return nil, m.node.refuse(code, result.Advice, "%s", result.Text)
	}
	return result, nil
}

// described is the volume of a result. The nodes are as this node knows them.
func (m *member) described(result *metapb.Result) *api.Volume {
	var v view
	m.cluster.Local(v.take)
	return v.describeVolume(result.Volume)
}

// Delete implements api.VolumeService.
func (s *clusterVolumes) Delete(ctx context.Context, req *api.DeleteVolumeRequest) (*api.DeleteVolumeResponse, error) {
	_, err := s.change(ctx, req.Request, &metapb.Command{Op: &metapb.Command_DeleteVolume{
		DeleteVolume: &metapb.DeleteVolume{Name: req.Name, Force: req.Force}}})
	if err != nil {
		return nil, err
	}
	return &api.DeleteVolumeResponse{}, nil
}

// Verify implements api.VolumeService.
func (s *clusterVolumes) Verify(req *api.VerifyVolumeRequest, _ grpc.ServerStreamingServer[api.VerifyVolumeProgress]) error {
	return s.node.refuse(codes.FailedPrecondition, "blkctl replica verify "+req.Name,
		"volume %s is a cluster's: all its replicas are read and compared at once", req.Name)
}

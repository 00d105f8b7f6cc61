package node

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/types/known/timestamppb"

	"blkd/internal/api"
	"blkd/internal/version"
)

// serveControl opens the control socket and serves package api on it.
func (n *Node) serveControl() error {
	l, err := listenUnix(n.cfg.socketPath(), 0o600)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	s := grpc.NewServer()
	if n.member != nil {
		n.member.register(s)
	} else {
		api.RegisterVolumeServiceServer(s, &volumeService{node: n})
		api.RegisterNodeServiceServer(s, &nodeService{node: n})
		grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	}
	reflection.Register(s)
	n.control = s
	n.serve("control socket", func() error { return s.Serve(l) })
	return nil
}

// refuse makes the error of a control call, with this node's name on it.
func (n *Node) refuse(code codes.Code, advice, format string, args ...any) error {
	return api.Errorf(code, n.cfg.NodeName, advice, format, args...)
}

// find looks a volume up for a control call.
func (n *Node) find(name string) (*volume, error) {
	if v := n.lookup(name); v != nil {
		return v, nil
	}
	return nil, n.refuse(codes.NotFound, "blkctl volume list", "there is no volume %q", name)
}

// hold finds a volume and takes it for one operation.
func (n *Node) hold(name, what string) (*volume, func(), error) {
	v, err := n.find(name)
	if err != nil {
		return nil, nil, err
	}
	release, err := v.acquire(what)
	if err != nil {
		return nil, nil, n.refuse(codes.Aborted, "wait for that to end, then try again", "%v", err)
	}
	return v, release, nil
}

// volumeService implements api.VolumeService.
type volumeService struct {
	api.UnimplementedVolumeServiceServer
	node *Node
}

// List implements api.VolumeService.
func (s *volumeService) List(context.Context, *api.ListVolumesRequest) (*api.ListVolumesResponse, error) {
	return &api.ListVolumesResponse{Volumes: s.node.describeAll()}, nil
}

// Show implements api.VolumeService.
func (s *volumeService) Show(_ context.Context, req *api.ShowVolumeRequest) (*api.Volume, error) {
	v, err := s.node.find(req.Name)
	if err != nil {
		return nil, err
	}
	return s.node.describe(v), nil
}

// Create implements api.VolumeService.
func (s *volumeService) Create(_ context.Context, req *api.CreateVolumeRequest) (*api.Volume, error) {
	v, err := s.node.createVolume(req.Name, req.SizeBytes)
	if err != nil {
		return nil, err
	}
	return s.node.describe(v), nil
}

// Delete implements api.VolumeService.
func (s *volumeService) Delete(_ context.Context, req *api.DeleteVolumeRequest) (*api.DeleteVolumeResponse, error) {
	note, err := s.node.deleteVolume(req.Name, req.Force)
	if err != nil {
		return nil, err
	}
	return &api.DeleteVolumeResponse{Note: note}, nil
}

// Resize implements api.VolumeService.
func (s *volumeService) Resize(_ context.Context, req *api.ResizeVolumeRequest) (*api.Volume, error) {
	v, err := s.node.resizeVolume(req.Name, req.SizeBytes, req.AllowShrink)
	if err != nil {
		return nil, err
	}
	return s.node.describe(v), nil
}

// Verify implements api.VolumeService.
func (s *volumeService) Verify(req *api.VerifyVolumeRequest, out grpc.ServerStreamingServer[api.VerifyVolumeProgress]) error {
	return s.node.verifyVolume(out.Context(), req.Name, out.Send)
}

// nodeService implements api.NodeService.
type nodeService struct {
	api.UnimplementedNodeServiceServer
	node *Node
}

// Status implements api.NodeService.
func (s *nodeService) Status(_ context.Context, req *api.StatusRequest) (*api.NodeStatus, error) {
	return s.node.status(req.Volume)
}

// Version implements api.NodeService.
func (s *nodeService) Version(context.Context, *api.VersionRequest) (*api.VersionInfo, error) {
	return versionInfo(), nil
}

func versionInfo() *api.VersionInfo {
	v := version.Get()
	return &api.VersionInfo{Version: v.Version, Revision: v.Revision, Go: v.Go, Platform: v.Platform}
}

// status describes the node and its volumes; or only one of them, and then
// without the problems of the node.
func (n *Node) status(only string) (*api.NodeStatus, error) {
	disk := n.lookAtDisk()
	out := &api.NodeStatus{
		Node: n.cfg.NodeName, Mode: "standalone", Version: versionInfo(),
		Started: timestamppb.New(n.started), DataDir: n.cfg.DataDir,
		DiskSizeBytes: disk.size, DiskFreeBytes: disk.free,
	}
	if only == "" {
		out.Volumes = n.describeAll()
		if disk.problem != nil {
			out.Problems = append(out.Problems, disk.problem)
		}
		return out, nil
	}
	v, err := n.find(only)
	if err != nil {
		return nil, err
	}
	out.Volumes = []*api.Volume{n.describe(v)}
	return out, nil
}

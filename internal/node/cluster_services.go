package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"blkd/internal/api"
	"blkd/internal/cluster"
	"blkd/internal/pki"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// change has the quorum carry out a command. The error is ready for the caller.
func (m *member) change(ctx context.Context, info *api.RequestInfo, command *metapb.Command) (*metapb.Result, error) {
	if n := len(info.GetId()); n != 0 && n != 16 {
		return nil, m.node.refuse(codes.InvalidArgument, "", "a request id has 16 bytes, not %d", n)
	}
	command.Request, command.Reason, command.By = info.GetId(), info.GetReason(), asker(ctx, info)
	result, err := m.cluster.Do(ctx, command)
	if err != nil {
		return nil, m.failed(ctx, err)
	}
	if code, bad := resultCodes[result.Code]; bad {
		return nil, m.node.refuse(code, result.Advice, "%s", result.Text)
	}
	return result, nil
}

// asker is who asks: whom a certificate proves it to be, and whom it says it is.
func asker(ctx context.Context, info *api.RequestInfo) string {
	by := info.GetBy()
	if id, ok := pki.FromContext(ctx); ok {
		if by == "" {
			return id.String()
		}
		return fmt.Sprintf("%s (%s)", id, by)
	}
	if by == "" {
		return "unknown"
	}
	return by
}

// resultCodes are the gRPC codes of refusals.
var resultCodes = map[metapb.Code]codes.Code{
	metapb.Code_CODE_INVALID:   codes.InvalidArgument,
	metapb.Code_CODE_NOT_FOUND: codes.NotFound,
	metapb.Code_CODE_EXISTS:    codes.AlreadyExists,
	metapb.Code_CODE_CONFLICT:  codes.Aborted,
	metapb.Code_CODE_REFUSED:   codes.FailedPrecondition,
}

// read calls f with a state that is as new as the call. The error is ready for
// the caller. f keeps no state, but may keep records: they never change.
func (m *member) read(ctx context.Context, f func(*metadata.State)) error {
	if err := m.cluster.Read(ctx, f); err != nil {
		return m.failed(ctx, err)
	}
	return nil
}

// failed makes the error of a call from one of package cluster.
func (m *member) failed(ctx context.Context, err error) error {
	var none *cluster.NoQuorumError
	var refused *cluster.RefusedError
	switch {
	case errors.As(err, &none):
		return m.node.refuse(codes.Unavailable, quorumAdvice(none.Missing), "%v", none)
	case errors.As(err, &refused):
		return m.node.refuse(codes.FailedPrecondition, refused.Advice, "this node takes no part in the cluster: %s", refused.Text)
	case errors.Is(err, cluster.ErrStopped):
		// Without the node's name: it is no answer of the cluster, ask another node.
		return api.Errorf(codes.Unavailable, "", "blkctl status", "node %s is stopping", m.node.cfg.NodeName)
	case errors.Is(ctx.Err(), context.Canceled):
		return m.node.refuse(codes.Canceled, "", "the caller has gone")
	case ctx.Err() != nil:
		return m.node.refuse(codes.DeadlineExceeded, "blkctl why", "it was not decided in time: %v", err)
	default:
		return m.node.refuse(codes.Internal, "blkctl why", "%v", err)
	}
}

// quorumAdvice names the nodes that would help. Each of missing begins with a
// node's name and a colon.
func quorumAdvice(missing []string) string {
	names := nodesOf(missing)
	if len(names) == 0 {
		return "blkctl why"
	}
	return "start blkd on " + strings.Join(names, " or ") + ", or repair the network to it; then try again"
}

// nodesOf are the names that such texts begin with.
func nodesOf(texts []string) []string {
	names := make([]string, 0, len(texts))
	for _, t := range texts {
		name, _, _ := strings.Cut(t, ":")
		names = append(names, name)
	}
	return names
}

// clusterNode implements api.NodeService.
type clusterNode struct {
	api.UnimplementedNodeServiceServer
	*member
}

// Status implements api.NodeService. Volumes are the cluster's, not the node's.
func (s *clusterNode) Status(_ context.Context, req *api.StatusRequest) (*api.NodeStatus, error) {
	disk := s.node.lookAtDisk()
	out := &api.NodeStatus{
		Node: s.node.cfg.NodeName, Mode: "cluster", Version: versionInfo(),
		Started: timestamppb.New(s.node.started), DataDir: s.node.cfg.DataDir,
		DiskSizeBytes: disk.size, DiskFreeBytes: disk.free,
	}
	if req.Volume != "" {
		return out, nil
	}
	if disk.problem != nil {
		out.Problems = append(out.Problems, disk.problem)
	}
	out.Problems = append(out.Problems, s.certificateProblems()...)
	return out, nil
}

// Version implements api.NodeService.
func (s *clusterNode) Version(context.Context, *api.VersionRequest) (*api.VersionInfo, error) {
	return versionInfo(), nil
}

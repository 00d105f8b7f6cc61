package node

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"blkd/internal/api"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// SetService implements api.VolumeService.
func (s *clusterVolumes) SetService(ctx context.Context, req *api.SetServiceRequest) (*api.Volume, error) {
	ctx, cancel := within(ctx, replicaTime)
	defer cancel()
	for range casAttempts {
		var r *metapb.Volume
		var next string
		err := s.read(ctx, func(state *metadata.State) {
			if r = state.Volume(req.Name); r != nil {
				next = nextNode(state, r, req)
			}
		})
		if err != nil {
			return nil, err
		}
		if r == nil {
			return nil, s.noVolume(req.Name)
		}
		op, err := s.serviceWish(r, req, next)
		if err != nil {
			return nil, err
		}
		result, err := s.change(ctx, req.Request, &metapb.Command{Op: &metapb.Command_SetService{SetService: op}})
		if api.Explain(err).Code == codes.Aborted {
			req.Request = again(req.Request)
			continue
		}
		if err != nil {
			return nil, err
		}
		return s.described(result), nil
	}
	return nil, s.node.refuse(codes.Aborted, "blkctl history "+req.Name, "the record of volume %s changes all the time", req.Name)
}

// nextNode is the node of the service's list that is its turn if none is named.
func nextNode(state *metadata.State, r *metapb.Volume, req *api.SetServiceRequest) string {
	wish := &metapb.Volume{Service: &metapb.Service{Nodes: serviceNodes(r, req)}}
	return metadata.ServiceNode(state, wish, r.Service.GetWanted())
}

func serviceNodes(r *metapb.Volume, req *api.SetServiceRequest) []string {
	if len(req.Nodes) > 0 {
		return req.Nodes
	}
	return r.Service.GetNodes()
}

// serviceWish is what a request comes to, by the record and by whose turn it is.
func (s *clusterVolumes) serviceWish(r *metapb.Volume, req *api.SetServiceRequest, next string) (*metapb.SetService, error) {
	nodes, now := serviceNodes(r, req), r.Service.GetWanted()
	op := &metapb.SetService{Volume: r.Name, Generation: r.Generation, Number: r.Number, Nodes: nodes, Wanted: now}
	switch {
	case req.Forget:
		op.Nodes, op.Wanted = nil, ""
	case len(nodes) == 0:
		return nil, s.node.refuse(codes.FailedPrecondition, "blkctl service enable "+r.Name+" --on NODE,NODE", "volume %s has no service", r.Name)
	case req.Stop:
		op.Wanted = ""
	case req.From != "" && req.From != now:
	case req.To != "":
		op.Wanted = req.To
	case req.Away || now == "" || !slices.Contains(nodes, now):
		if next == "" {
			return nil, s.node.refuse(codes.FailedPrecondition, "blkctl node list", "no other node may run the service of volume %s: of %s none can be used", r.Name, strings.Join(nodes, ", "))
		}
		op.Wanted = next
	}
	return op, nil
}

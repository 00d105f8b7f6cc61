package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"blkd/internal/api"
	"blkd/internal/replicas"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// branchesHere describes the branches that this node keeps.
func (m *member) branchesHere() []*api.Branch {
	if m.replicas == nil {
		return nil
	}
	var all []*api.Branch
	for _, b := range m.replicas.Branches() {
		out := &api.Branch{Name: b.Name, Volume: b.Volume, VolumeId: b.ID, Node: b.Node, Generation: uint64(b.Generation),
			End:       &metapb.LogEnd{Generation: uint64(b.End.Generation), Seq: uint64(b.End.Seq)},
			SizeBytes: b.Store.SizeBytes, AllocatedBytes: b.Store.AllocatedBytes}
		if b.Failed != nil {
			out.Problems = []*api.Problem{{Code: branchFailed, Text: b.Failed.Error(),
				Advice: "look at the disk of " + b.Node + " and restart blkd there; or give the branch up: blkctl branch drop " + b.Name}}
		} else {
			for _, l := range m.node.listeners {
				out.Uris = append(out.Uris, uri(l, b.Name, m.node.cfg.NBD.TLS == "required"))
			}
		}
		all = append(all, out)
	}
	return all
}

// branchesOf are those of a volume, by name.
func (v *view) branchesOf(r *metapb.Volume) (found []*api.Branch) {
	for _, b := range v.branches {
		if b.VolumeId == r.Id {
			found = append(found, b)
		}
	}
	slices.SortFunc(found, func(a, b *api.Branch) int { return cmp.Compare(a.Name, b.Name) })
	return found
}

// ListBranches implements api.VolumeService. Nodes know what they keep, not the
// quorum: so it is told without one too.
func (s *clusterVolumes) ListBranches(ctx context.Context, req *api.ListBranchesRequest) (*api.ListBranchesResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, runtimeTime)
	defer cancel()
	var nodes []*metapb.Node
	s.cluster.Local(func(st *metadata.State) { nodes = st.Nodes() })
	out := &api.ListBranchesResponse{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, n := range nodes {
		if n.Witness {
			continue
		}
		asking.Go(func() {
			answer := s.told(ctx, n.Name)
			mu.Lock()
			defer mu.Unlock()
			if answer == nil {
				out.Silent = append(out.Silent, n.Name)
			}
			for _, b := range answer.GetBranches() {
				if req.Volume == "" || b.Volume == req.Volume {
					out.Branches = append(out.Branches, b)
				}
			}
		})
	}
	asking.Wait()
	slices.Sort(out.Silent)
	slices.SortFunc(out.Branches, func(a, b *api.Branch) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// atBranch carries out a call on the node that keeps a branch: here, or there, which
// gets it passed on; local: it was.
func (s *clusterVolumes) atBranch(name string, local bool, here func() error, pass func(api.VolumeServiceClient) error) error {
	_, _, node, ok := replicas.BranchOf(name)
	if !ok {
		return s.node.refuse(codes.InvalidArgument, "blkctl branch list", "%q is no name of a branch: write VOLUME@GENERATION-NODE", name)
	}
	if node == s.node.cfg.NodeName && s.replicas != nil {
		err := here()
		if errors.Is(err, replicas.ErrNoBranch) {
			return s.node.refuse(codes.NotFound, "blkctl branch list", "node %s keeps no branch %s", node, name)
		}
		return err
	}
	var known *metapb.Node
	s.cluster.Local(func(st *metadata.State) { known = st.Node(node) })
	if local || known == nil || known.Witness {
		return s.node.refuse(codes.NotFound, "blkctl branch list", "no node %s keeps branches", node)
	}
	client, err := s.peer(node)
	if err == nil {
		err = pass(client)
	}
	if x := api.Explain(err); err != nil && x.Node == "" {
		return s.node.refuse(x.Code, "start blkd on "+node+", or repair the network to it", "node %s, which keeps branch %s, does not answer: %s", node, name, x.Text)
	}
	return err
}

// CompareBranch implements api.VolumeService.
func (s *clusterVolumes) CompareBranch(req *api.CompareBranchRequest, stream grpc.ServerStreamingServer[api.VerifyReplicasProgress]) error {
	return s.atBranch(req.Name, req.Local,
		func() error { return s.compareBranch(stream.Context(), req.Name, stream) },
		func(n api.VolumeServiceClient) error {
			from, err := n.CompareBranch(stream.Context(), &api.CompareBranchRequest{Name: req.Name, Local: true})
			if err != nil {
				return err
			}
			return passOn(from, stream)
		})
}

func (s *clusterVolumes) compareBranch(ctx context.Context, name string, stream grpc.ServerStreamingServer[api.VerifyReplicasProgress]) error {
	volume, _, _, _ := replicas.BranchOf(name)
	dev := s.exports.device(volume)
	if dev == nil {
		return s.noVolume(volume)
	}
	t := &teller{stream: stream}
	ctx, t.cancel = context.WithCancelCause(ctx)
	defer t.cancel(nil)
	found, err := s.replicas.CompareBranch(ctx, name, dev, verifyRate, t.tell)
	switch {
	case errors.Is(err, replicas.ErrNoBranch):
		return err
	case err != nil:
		return s.node.refuse(codes.FailedPrecondition, "blkctl why "+volume, "%v", err)
	}
	return t.done(found)
}

// DropBranch implements api.VolumeService.
func (s *clusterVolumes) DropBranch(ctx context.Context, req *api.DropBranchRequest) (*api.DropBranchResponse, error) {
	err := s.atBranch(req.Name, req.Local,
		func() error {
			err := s.replicas.DropBranch(req.Name)
			s.node.log.Warn("a branch was dropped", "branch", req.Name, "by", asker(ctx, req.Request), "reason", req.Request.GetReason(), "err", err)
			if err != nil && !errors.Is(err, replicas.ErrNoBranch) {
				return s.node.refuse(codes.Internal, "look at the disk", "branch %s: %v", req.Name, err)
			}
			return err
		},
		func(n api.VolumeServiceClient) error {
			_, err := n.DropBranch(ctx, &api.DropBranchRequest{Name: req.Name, Request: req.Request, Local: true})
			return err
		})
	if err != nil {
		return nil, err
	}
	return &api.DropBranchResponse{}, nil
}

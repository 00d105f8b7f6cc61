package node

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
	"blkd/internal/units"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// Change implements api.VolumeService. How writes are acknowledged is changed by the
// primary, when everything acknowledged is held as the new policy says; the rest is
// only recorded.
func (s *clusterVolumes) Change(ctx context.Context, req *api.ChangeVolumeRequest) (*api.Volume, error) {
	ctx, cancel := within(ctx, replicaTime)
	defer cancel()
	_, r, err := s.find(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	if !req.Local && (req.Shared != nil || req.ManualFailover != nil) {
		if _, err := s.change(ctx, req.Request, &metapb.Command{Op: &metapb.Command_ChangeVolume{ChangeVolume: &metapb.ChangeVolume{
			Name: r.Name, Generation: r.Generation, Number: r.Number, Shared: req.Shared, ManualFailover: req.ManualFailover,
		}}}); err != nil {
			return nil, err
		}
	}
	if req.Ack == 0 && req.MinCopies == 0 && req.Durability == 0 {
		return s.Show(ctx, &api.ShowVolumeRequest{Name: r.Name})
	}
	if req.MinCopies < 0 {
		return nil, s.node.refuse(codes.InvalidArgument, "blkctl volume change --help", "min-copies %d makes no sense", req.MinCopies)
	}
	return s.atPrimary(ctx, r, req.Local,
		func(ctx context.Context) error {
			return s.replicas.Change(ctx, r.Name, func(shape *replication.Shape) { reshape(shape, req) })
		},
		func(ctx context.Context, n api.VolumeServiceClient) (*api.Volume, error) {
			passed := proto.CloneOf(req)
			passed.Local = true
			return n.Change(ctx, passed)
		})
}

// reshape puts what a request names into a policy.
func reshape(shape *replication.Shape, req *api.ChangeVolumeRequest) {
	switch req.Ack {
	case metapb.AckPolicy_ACK_POLICY_ALL:
		shape.Policy = replication.AckAll
	case metapb.AckPolicy_ACK_POLICY_MAJORITY:
		shape.Policy = replication.AckMajority
	}
	switch req.Durability {
	case metapb.Durability_DURABILITY_FLUSH:
		shape.Durability = replication.DurableFlush
	case metapb.Durability_DURABILITY_WRITE:
		shape.Durability = replication.DurableWrite
	}
	if req.MinCopies > 0 {
		shape.MinCopies = int(req.MinCopies)
	}
}

// Resize implements api.VolumeService. The primary's log decides: by one entry, before
// which nobody can write beyond the old end. Only then it is recorded, so that no
// client sees a size that a failover could take back.
func (s *clusterVolumes) Resize(ctx context.Context, req *api.ResizeVolumeRequest) (*api.Volume, error) {
	ctx, cancel := within(ctx, replicaTime)
	defer cancel()
	_, r, err := s.find(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	if req.SizeBytes < r.SizeBytes {
		return nil, s.node.refuse(codes.FailedPrecondition, "create a smaller volume and copy to it: blkctl volume create NAME SIZE",
			"volume %s has %s: a cluster's volume cannot be made smaller", r.Name, units.Exact(r.SizeBytes))
	}
	record := &metapb.Command{Op: &metapb.Command_ResizeVolume{ResizeVolume: &metapb.ResizeVolume{Name: r.Name, SizeBytes: req.SizeBytes}}}
	if _, err := s.pretend(ctx, req.Request, proto.CloneOf(record)); err != nil {
		return nil, err // what the log has decided must not be refused
	}
	return s.atPrimary(ctx, r, req.Local,
		func(ctx context.Context) error {
			if err := s.replicas.Resize(ctx, r.Name, req.SizeBytes); err != nil {
				return err
			}
			_, err := s.change(ctx, req.Request, record)
			return err
		},
		func(ctx context.Context, n api.VolumeServiceClient) (*api.Volume, error) {
			passed := proto.CloneOf(req)
			passed.Local = true
			return n.Resize(ctx, passed)
		})
}

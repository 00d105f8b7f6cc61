package node

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// recovering says whose logs the recovery of a volume waits for, by the word of its
// members; nil: it is in none.
func (v *view) recovering(r *metapb.Volume) *api.Problem {
	for _, m := range r.Members {
		i := slices.IndexFunc(v.logs[m.Node], func(x *api.ReplicaLog) bool { return x.Volume == r.Name && x.Recovering })
		if i < 0 {
			continue
		}
		p := &api.Problem{Code: recovering, Text: "too few replicas are certain to have all that was acknowledged; the best log of all is searched", Advice: "nothing to do"}
		log := v.logs[m.Node][i]
		if log.Empty {
			p.Text = "none of its logs is whole: each of its nodes was replaced, or began anew, with an empty disk, and what the volume held is not on them"
			p.Advice = "if an old data directory is left: docs/manual/restore.md, “When every replica is empty”; else blkctl volume delete " + r.Name + ", and a backup"
		}
		if missing := log.Missing; len(missing) > 0 {
			p.Text += ", and waits for " + strings.Join(missing, ", ")
			p.Advice = "start blkd on " + strings.Join(missing, " and ") + "; if it is lost for good: blkctl volume recover " + r.Name +
				" --without " + strings.Join(missing, ",") + " --force --reason TEXT"
		}
		return p
	}
	return nil
}

// Recover implements api.VolumeService. Any replica that takes part in the recovery can
// be told; the quorum's compare-and-set decides.
func (s *clusterVolumes) Recover(ctx context.Context, req *api.RecoverVolumeRequest) (*api.Volume, error) {
	ctx, cancel := within(ctx, replicaTime)
	defer cancel()
	v, r, err := s.find(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	if req.Local {
		return s.waive(ctx, req, r)
	}
	if err := s.mayWaive(req, v, r); err != nil {
		return nil, err
	}
	passed := proto.CloneOf(req)
	passed.Local = true
	last := s.node.refuse(codes.FailedPrecondition, "blkctl why "+r.Name, "no replica of volume %s takes part in a recovery", r.Name)
	for _, m := range r.Members {
		var out *api.Volume
		client, err := s.peer(m.Node)
		switch {
		case slices.Contains(req.Without, m.Node):
			continue
		case m.Node == s.node.cfg.NodeName:
			out, err = s.waive(ctx, passed, r)
		case err == nil:
			out, err = client.Recover(ctx, passed)
		}
		if err == nil {
			return out, nil
		}
		if x := api.Explain(err); x.Code != codes.Unavailable && x.Code != codes.FailedPrecondition || ctx.Err() != nil {
			return nil, err
		}
	}
	return nil, last
}

// mayWaive refuses what is not meant in earnest, or not needed.
func (s *clusterVolumes) mayWaive(req *api.RecoverVolumeRequest, v *view, r *metapb.Volume) error {
	if len(req.Without) == 0 {
		return s.node.refuse(codes.InvalidArgument, "blkctl why "+r.Name, "no node is named whose replica of volume %s is given up", r.Name)
	}
	for _, name := range req.Without {
		i := slices.IndexFunc(r.Members, func(m *metapb.Member) bool {
			return m.Node == name && m.State == metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE
		})
		n := v.node(name)
		switch {
		case i < 0:
			return s.node.refuse(codes.FailedPrecondition, "blkctl replica list "+r.Name, "node %s has no replica of volume %s that counts", name, r.Name)
		case n.Incarnation != 0 && n.Health != metapb.Health_HEALTH_DOWN:
			return s.node.refuse(codes.FailedPrecondition, "blkctl why "+r.Name, "node %s is %s: its log is asked for, and must not be given up", name, metapb.HealthWord(n.Health))
		}
	}
	if !req.Force || strings.TrimSpace(req.Request.GetReason()) == "" {
		return s.node.refuse(codes.FailedPrecondition, "if they are lost for good, add --force --reason TEXT",
			"what only %s may hold of acknowledged writes of volume %s would be lost for good", strings.Join(req.Without, " and "), r.Name)
	}
	return nil
}

// waive tells this node's replica, and waits until the volume is recovered.
func (s *clusterVolumes) waive(ctx context.Context, req *api.RecoverVolumeRequest, r *metapb.Volume) (*api.Volume, error) {
	err := error(replication.ErrNoRecovery)
	if s.replicas != nil {
		err = s.replicas.Waive(r.Name, req.Without, "by "+asker(ctx, req.Request)+": "+req.Request.GetReason())
	}
	if err != nil {
		return nil, s.node.refuse(codes.FailedPrecondition, "blkctl why "+r.Name, "volume %s: %v", r.Name, err)
	}
	for {
		v, err := s.Show(ctx, &api.ShowVolumeRequest{Name: r.Name})
		if err != nil || v.Record.Generation > r.Generation {
			return v, err
		}
		select {
		case <-ctx.Done():
			return nil, s.failed(ctx, errors.New("the recovery goes on"))
		case <-time.After(waitPause):
		}
	}
}

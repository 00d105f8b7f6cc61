package node

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"blkd/internal/api"
	"blkd/internal/mutant"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

const (
	// settleWait bounds how long a takeover waits until nothing of the client before
	// acts any more.
	settleWait  = 10 * time.Second
	settlePause = 20 * time.Millisecond
	// followTime is how long Follow waits for news.
	followTime = 10 * time.Second
)

// Attach implements api.VolumeService (S10). A takeover is answered when the primary
// knows of it and what the client before had begun has ended.
func (s *clusterVolumes) Attach(ctx context.Context, req *api.AttachRequest) (*api.Volume, error) {
	if req.Holder == "" || strings.ContainsAny(req.Holder, " \t\n") {
		return nil, s.node.refuse(codes.InvalidArgument, "blkctl attach --help", "the holder %q must be a name without blanks", req.Holder)
	}
	ctx, cancel := within(ctx, replicaTime)
	defer cancel()
	for range casAttempts {
		v, r, err := s.find(ctx, req.Name)
		if err != nil {
			return nil, err
		}
		if r.Shared {
			return v.describeVolume(r), nil // any client may write
		}
		if err := s.mayAttach(ctx, r, req); err != nil {
			return nil, err
		}
		before := r.Attachment
		result, err := s.change(ctx, req.Request, &metapb.Command{Op: &metapb.Command_Attach{Attach: &metapb.Attach{
			Volume: r.Name, Generation: r.Generation, Number: r.Number, Holder: req.Holder, Takeover: true, Machine: req.Machine, Boot: req.Boot,
		}}})
		if api.Explain(err).Code == codes.Aborted {
			req.Request = again(req.Request)
			continue
		}
		if err != nil {
			return nil, err
		}
		if before.Holder == "" || result.Volume.Attachment.Since == before.Since {
			return s.described(result), nil
		}
		return s.settled(ctx, result.Volume)
	}
	return nil, s.node.refuse(codes.Aborted, "blkctl history "+req.Name, "the record of volume %s changes all the time", req.Name)
}

// again is the same wish as another request, for one that was answered.
func again(r *api.RequestInfo) *api.RequestInfo {
	return &api.RequestInfo{By: r.GetBy(), Reason: r.GetReason()}
}

// mayAttach refuses what would take a volume from another client unasked.
func (s *clusterVolumes) mayAttach(ctx context.Context, r *metapb.Volume, req *api.AttachRequest) error {
	now := r.Attachment
	switch {
	case req.Renew && now.Holder != req.Holder:
		return s.node.refuse(codes.FailedPrecondition, "blkctl history "+r.Name,
			"%s does not hold volume %s any more: %s does (%d)", req.Holder, r.Name, orNobody(now.Holder), now.Number)
	case req.Renew && metapb.Differ(now.Boot, req.Boot) && !mutant.On(mutant.GatewayRenewAny):
		return s.node.refuse(codes.FailedPrecondition, "blkctl history "+r.Name,
			"this boot of %s does not hold volume %s any more: another one, or another host of that name, does (%d)", req.Holder, r.Name, now.Number)
	case now.Holder == req.Holder && !req.Takeover && metapb.Differ(now.Machine, req.Machine):
		return s.node.refuse(codes.FailedPrecondition, "blkctl attach "+r.Name+" --holder NAME gives this host a name of its own; if it is the same one, made anew: --takeover",
			"volume %s is attached by another host of the name %s (%d)", r.Name, now.Holder, now.Number)
	case now.Holder == "" || now.Holder == req.Holder || req.Takeover:
		return nil
	case !metapb.IsClients(now.Holder):
		return s.node.refuse(codes.FailedPrecondition, "blkctl detach "+r.Name+" there, or take it over for good: blkctl attach "+r.Name+" --takeover",
			"volume %s is attached by %s (%d)", r.Name, now.Holder, now.Number)
	}
	node := strings.TrimPrefix(now.Holder, metapb.ClientsOf(""))
	writers, err := s.writers(ctx, node, r.Name)
	if err != nil {
		return s.node.refuse(codes.FailedPrecondition, "start it, or take the volume over: blkctl attach "+r.Name+" --takeover",
			"volume %s may be in use by %s, and %s does not answer: %v", r.Name, now.Holder, node, err)
	}
	if writers > 0 {
		return s.node.refuse(codes.FailedPrecondition, "disconnect them, or take the volume over: blkctl attach "+r.Name+" --takeover",
			"volume %s is in use by %s of %s that show no attachment", r.Name, count(writers, "connection"), node)
	}
	return nil
}

// writers counts the connections of a node that have written without a token.
func (s *clusterVolumes) writers(ctx context.Context, node, volume string) (int, error) {
	if node == s.node.cfg.NodeName {
		return s.exports.writers(volume), nil
	}
	client, err := s.peer(node)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, runtimeTime)
	defer cancel()
	answer, err := client.Follow(ctx, &api.FollowRequest{Name: volume})
	return int(answer.GetWriters()), err
}

// writers counts this node's connections that have written without a token.
func (e *exports) writers(volume string) int {
	if e == nil {
		return 0 // a witness
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if v := e.volumes[volume]; v != nil {
		return int(v.claims.users.Load())
	}
	return 0
}

// settled waits until nothing of an earlier attachment acts any more.
func (s *clusterVolumes) settled(ctx context.Context, r *metapb.Volume) (*api.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	for {
		out, err := s.Show(ctx, &api.ShowVolumeRequest{Name: r.Name})
		if err == nil && out.SettledAttachment >= r.Attachment.Number {
			return out, nil
		}
		select {
		case <-ctx.Done():
			return nil, s.node.refuse(codes.DeadlineExceeded, "blkctl why",
				"the takeover of volume %s is recorded (%d), but the primary has not confirmed that what %s sent before has ended", r.Name, r.Attachment.Number, "the client before")
		case <-time.After(settlePause):
		}
	}
}

// Detach implements api.VolumeService.
func (s *clusterVolumes) Detach(ctx context.Context, req *api.DetachRequest) (*api.Volume, error) {
	ctx, cancel := within(ctx, replicaTime)
	defer cancel()
	for range casAttempts {
		v, r, err := s.find(ctx, req.Name)
		if err != nil {
			return nil, err
		}
		switch {
		case r.Attachment.Holder == "":
			return v.describeVolume(r), nil
		case req.Holder != "" && r.Attachment.Holder != req.Holder:
			return nil, s.node.refuse(codes.FailedPrecondition, "blkctl attachments",
				"volume %s is not attached by %s but by %s (%d)", r.Name, req.Holder, r.Attachment.Holder, r.Attachment.Number)
		}
		result, err := s.change(ctx, req.Request, &metapb.Command{Op: &metapb.Command_Attach{Attach: &metapb.Attach{
			Volume: r.Name, Generation: r.Generation, Number: r.Number,
		}}})
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

// Follow implements api.VolumeService.
func (s *clusterVolumes) Follow(ctx context.Context, req *api.FollowRequest) (*api.FollowResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	for {
		changed := s.cluster.Changed()
		out := &api.FollowResponse{Writers: int32(s.exports.writers(req.Name))}
		s.cluster.Local(func(st *metadata.State) {
			out.Record, out.Nodes = st.Volume(req.Name), st.Nodes()
		})
		if out.Record == nil || out.Record.Number > req.Known {
			return out, nil
		}
		select {
		case <-ctx.Done():
			return out, nil
		case <-s.node.stopping.Done():
			return nil, s.node.refuse(codes.Unavailable, "", "this node is stopping")
		case <-changed:
		}
	}
}

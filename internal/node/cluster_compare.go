package node

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
	"blkd/internal/replicas"
	"blkd/metadata/metapb"
)

const (
	// verifyRate bounds, in bytes per second, what a comparison that an operator
	// asks for reads at each replica.
	verifyRate = 256 << 20
	// verifyTold is how often its progress is told.
	verifyTold = 500 * time.Millisecond
)

// VerifyReplicas implements api.VolumeService. The primary's node compares; another
// one passes on what it tells.
func (s *clusterVolumes) VerifyReplicas(req *api.VerifyReplicasRequest, stream grpc.ServerStreamingServer[api.VerifyReplicasProgress]) error {
	v, err := s.look(stream.Context())
	if err != nil {
		return err
	}
	r := v.volume(req.Name)
	if r == nil {
		return s.noVolume(req.Name)
	}
	if req.Node != "" && !slices.ContainsFunc(r.Members, func(m *metapb.Member) bool { return m.Node == req.Node && counts(m) }) {
		return s.node.refuse(codes.FailedPrecondition, "blkctl replica list "+r.Name, "node %s has no replica of volume %s that is UpToDate", req.Node, r.Name)
	}
	_, err = s.atPrimary(stream.Context(), r, req.Local,
		func(ctx context.Context) error { return s.compare(ctx, req, stream) },
		func(ctx context.Context, n api.VolumeServiceClient) (*api.Volume, error) {
			passed := proto.CloneOf(req)
			passed.Local = true
			from, err := n.VerifyReplicas(ctx, passed)
			if err != nil {
				return nil, err
			}
			return nil, passOn(from, stream)
		})
	return err
}

// compare compares the replicas with this node's, and tells how far it is.
func (s *clusterVolumes) compare(ctx context.Context, req *api.VerifyReplicasRequest, stream grpc.ServerStreamingServer[api.VerifyReplicasProgress]) error {
	t := &teller{stream: stream}
	ctx, t.cancel = context.WithCancelCause(ctx)
	defer t.cancel(nil)
	found, err := s.replicas.Compare(ctx, req.Name, replicas.Comparison{Only: req.Node, Repair: req.Repair, BytesPerSecond: verifyRate, Progress: t.tell})
	switch {
	case err != nil:
		return err
	case found.Skipped > 0 && len(found.Nodes) < 2:
		return errors.New("no other replica answers, so nothing was compared")
	}
	return t.done(found)
}

// teller tells how far a comparison is.
type teller struct {
	stream grpc.ServerStreamingServer[api.VerifyReplicasProgress]
	cancel context.CancelCauseFunc // of the comparison
	total  int64
	told   time.Time
}

func (t *teller) tell(checked, total int64) {
	t.total = total
	if time.Since(t.told) < verifyTold {
		return
	}
	t.told = time.Now()
	if err := t.stream.Send(&api.VerifyReplicasProgress{CheckedBytes: checked, TotalBytes: total}); err != nil {
		t.cancel(err)
	}
}

// done tells the result.
func (t *teller) done(found *replicas.Findings) error {
	done := &api.VerifyReplicasProgress{CheckedBytes: found.Checked, TotalBytes: t.total, Done: true, Nodes: found.Nodes,
		DifferentBytes: found.Different, RepairedBytes: found.Repaired}
	for _, d := range found.Differences {
		done.Differences = append(done.Differences, &api.Difference{Node: d.Node, Offset: d.Off, Length: d.Len, Unreadable: d.Unreadable})
	}
	return t.stream.Send(done)
}

// passOn sends what another node tells of a comparison.
func passOn(from grpc.ServerStreamingClient[api.VerifyReplicasProgress], to grpc.ServerStreamingServer[api.VerifyReplicasProgress]) error {
	for {
		p, err := from.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = to.Send(p)
		}
		if err != nil {
			return err
		}
	}
}

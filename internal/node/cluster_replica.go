package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

const (
	// replicaTime bounds a change of a volume's replicas or policy if the caller
	// does not.
	replicaTime = 30 * time.Second
	// casAttempts is how often a change is asked for again because the record was
	// changed by somebody else meanwhile.
	casAttempts = 8
)

// AddReplica implements api.VolumeService. The record names the new replica as
// Inconsistent; the primary then brings it level and has it count.
func (s *clusterVolumes) AddReplica(ctx context.Context, req *api.AddReplicaRequest) (*api.Volume, error) {
	return s.place(ctx, req.Request, req.Name, req.Node, "", req.DryRun)
}

// MoveReplica implements api.VolumeService. The record names the new replica, and
// marks the old one as leaving: whoever is primary takes it out when all the others
// count.
func (s *clusterVolumes) MoveReplica(ctx context.Context, req *api.MoveReplicaRequest) (*api.Volume, error) {
	if req.From == "" {
		return nil, s.node.refuse(codes.InvalidArgument, "blkctl replica list "+req.Name, "the node to move the replica away from is not named")
	}
	return s.place(ctx, req.Request, req.Name, req.To, req.From, req.DryRun)
}

// place records one more replica of a volume; moved from another node, unless from
// is empty.
func (s *clusterVolumes) place(ctx context.Context, info *api.RequestInfo, volume, to, from string, dry bool) (*api.Volume, error) {
	var plan *metapb.Plan
	result, err := s.edit(ctx, info, volume, dry, func(st *metadata.State, v *metapb.Volume) (*metapb.SetMembers, error) {
		var err error
		if plan, err = metadata.PlaceMember(st, volume, to, from); err != nil {
			return nil, err
		}
		staying := int32(0)
		for _, m := range plan.Members {
			if !m.Leaving {
				staying++
			}
		}
		set := &metapb.SetMembers{Members: plan.Members}
		if v.Layout.Kind == metapb.LayoutKind_LAYOUT_KIND_MIRROR && staying > v.Layout.Copies {
			set.Copies = staying
		}
		return set, nil
	})
	if err != nil {
		return nil, err
	}
	out := s.described(result)
	out.Plan = plan
	return out, nil
}

// edit changes the members of a volume as make says, by compare-and-set on the record
// that make was shown, and again if that has changed meanwhile. A repetition of a
// request that was carried out gets its answer.
func (s *clusterVolumes) edit(ctx context.Context, info *api.RequestInfo, volume string, dry bool,
	edit func(*metadata.State, *metapb.Volume) (*metapb.SetMembers, error)) (*metapb.Result, error) {
	info = proto.CloneOf(info)
	for range casAttempts {
		var set *metapb.SetMembers
		var answer *metapb.Result
		var v *metapb.Volume
		var refusal error
		err := s.read(ctx, func(st *metadata.State) {
			if !dry {
				answer = st.Answer(info.GetId())
			}
			if v = st.Volume(volume); v != nil && answer == nil {
				set, refusal = edit(st, v)
			}
		})
		switch {
		case err != nil:
			return nil, err
		case answer != nil && answer.Code == metapb.Code_CODE_OK:
			return answer, nil
		case answer == nil && v == nil:
			return nil, s.noVolume(volume)
		case refusal != nil:
			return nil, s.refusal(refusal)
		case dry:
			return &metapb.Result{Volume: v}, nil
		}
		if answer == nil {
			set.Volume, set.Generation, set.Number = v.Name, v.Generation, v.Number
			result, err := s.change(ctx, info, &metapb.Command{Op: &metapb.Command_SetMembers{SetMembers: set}})
			if err == nil || api.Explain(err).Code != codes.Aborted {
				return result, err
			}
		}
		nextAttempt(info)
	}
	return nil, s.node.refuse(codes.Aborted, "blkctl history "+volume, "volume %s is being changed by others all the time", volume)
}

// nextAttempt gives a request the id of its next attempt: that of the last one has
// its answer, for ever.
func nextAttempt(info *api.RequestInfo) {
	if len(info.GetId()) > 0 {
		sum := sha256.Sum256(info.Id)
		info.Id = sum[:len(info.Id)]
	}
}

// refusal makes the error of a call from one of package metadata.
func (m *member) refusal(err error) error {
	var no *metadata.Refusal
	if !errors.As(err, &no) {
		return m.node.refuse(codes.Internal, "", "%v", err)
	}
	return m.node.refuse(resultCodes[no.Code], no.Advice, "%s", no.Text)
}

// RemoveReplica implements api.VolumeService. One that does not count is taken out
// of the record; for one that counts, the primary first makes sure that the others
// hold everything. Its node destroys the data when it reads that in the record.
func (s *clusterVolumes) RemoveReplica(ctx context.Context, req *api.RemoveReplicaRequest) (*api.Volume, error) {
	e := &eviction{clusterVolumes: s, volume: req.Name, of: req.Node, info: req.Request, local: req.Local, silent: req.Force}
	e.pass = func(ctx context.Context, n api.VolumeServiceClient) (*api.Volume, error) {
		passed := proto.CloneOf(req)
		passed.Local = true
		return n.RemoveReplica(ctx, passed)
	}
	return e.carryOut(ctx)
}

// InvalidateReplica implements api.VolumeService. The record names the replica as
// Inconsistent; the primary then has it emptied and copied.
func (s *clusterVolumes) InvalidateReplica(ctx context.Context, req *api.InvalidateReplicaRequest) (*api.Volume, error) {
	e := &eviction{clusterVolumes: s, volume: req.Name, of: req.Node, info: req.Request, local: req.Local, keep: true, silent: true}
	e.pass = func(ctx context.Context, n api.VolumeServiceClient) (*api.Volume, error) {
		passed := proto.CloneOf(req)
		passed.Local = true
		return n.InvalidateReplica(ctx, passed)
	}
	return e.carryOut(ctx)
}

// eviction is one call of RemoveReplica or InvalidateReplica.
type eviction struct {
	*clusterVolumes
	volume, of string
	info       *api.RequestInfo
	keep       bool // it stays recorded
	silent     bool // even if its node does not answer
	local      bool
	pass       func(context.Context, api.VolumeServiceClient) (*api.Volume, error)
}

func (e *eviction) carryOut(ctx context.Context) (*api.Volume, error) {
	ctx, cancel := within(ctx, replicaTime)
	defer cancel()
	v, err := e.look(ctx)
	if err != nil {
		return nil, err
	}
	r := v.volume(e.volume)
	if r == nil {
		return nil, e.noVolume(e.volume)
	}
	i := slices.IndexFunc(r.Members, func(m *metapb.Member) bool { return m.Node == e.of })
	switch done, err := e.wasDone(ctx); {
	case i < 0 && err != nil:
		return nil, err
	case i < 0 && done:
		return e.Show(ctx, &api.ShowVolumeRequest{Name: r.Name}) // asked for again: the answer was lost
	case i < 0:
		return nil, e.node.refuse(codes.FailedPrecondition, "blkctl replica list "+r.Name, "node %s has no replica of volume %s", e.of, r.Name)
	case e.of == r.Primary:
		return nil, e.node.refuse(codes.FailedPrecondition, "promote another replica first: blkctl promote "+r.Name, "the replica of volume %s on %s is the primary", r.Name, e.of)
	case !e.silent && v.node(e.of).GetHealth() == metapb.Health_HEALTH_DOWN:
		return nil, e.node.refuse(codes.FailedPrecondition, "start blkd on "+e.of+", or add --force: its data is destroyed when it returns",
			"node %s is down, and would keep the data of volume %s", e.of, r.Name)
	}
	if r.Members[i].State != metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE {
		return e.takeOut(ctx)
	}
	if err := metadata.KeepsShard(r, e.of); err != nil && !e.keep {
		return nil, e.refusal(err)
	}
	return e.atPrimary(ctx, r, e.local, e.evict, e.pass)
}

// takeOut changes the record of a replica that does not count.
func (e *eviction) takeOut(ctx context.Context) (*api.Volume, error) {
	info := proto.CloneOf(e.info)
	if info == nil {
		info = &api.RequestInfo{}
	}
	info.Reason = e.why(ctx)
	result, err := e.edit(ctx, info, e.volume, false, func(_ *metadata.State, v *metapb.Volume) (*metapb.SetMembers, error) {
		i := slices.IndexFunc(v.Members, func(m *metapb.Member) bool { return m.Node == e.of })
		switch {
		case i >= 0 && v.Members[i].State == metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE:
			return nil, &metadata.Refusal{Code: metapb.Code_CODE_CONFLICT, Text: "the replica on " + e.of + " counts since a moment ago", Advice: "try again"}
		case e.keep && v.Layout.GetKind() == metapb.LayoutKind_LAYOUT_KIND_EC && sound(v, e.of) < int(v.Layout.Data):
			return nil, &metadata.Refusal{Code: metapb.Code_CODE_REFUSED, Text: "too few other shards of volume " + v.Name + " count to rebuild that on " + e.of,
				Advice: "bring other members back first: blkctl why " + v.Name}
		case e.keep:
			set := &metapb.SetMembers{Members: proto.CloneOf(v).Members}
			if i >= 0 {
				set.Members[i].State, set.Members[i].Amnesiac = metapb.ReplicaState_REPLICA_STATE_INCONSISTENT, false
			}
			return set, nil
		}
		members, err := metadata.WithoutMember(v, e.of)
		set := &metapb.SetMembers{Members: members}
		if n := len(members); n < len(v.Members) && n < int(v.Layout.Copies) {
			set.Copies = int32(n)
		}
		return set, err
	})
	if err != nil {
		return nil, err
	}
	return e.described(result), nil
}

// sound counts the members that can lack nothing, but for one.
func sound(v *metapb.Volume, but string) (n int) {
	for _, m := range v.Members {
		if m.Node != but && m.State == metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE && !m.Amnesiac {
			n++
		}
	}
	return n
}

// evict has this node's replica, the primary, take out one that counts.
func (e *eviction) evict(ctx context.Context) error {
	return e.replicas.Evict(ctx, e.volume, e.of, e.keep, e.why(ctx))
}

// why is the reason in the volume's history: what was done, by whom, and why.
func (e *eviction) why(ctx context.Context) string {
	what, reason := e.words()
	return what + asker(ctx, e.info) + reason
}

func (e *eviction) words() (what, reason string) {
	what = e.of + " removed by "
	if e.keep {
		what = e.of + " declared worthless by "
	}
	if text := e.info.GetReason(); text != "" {
		reason = ": " + text
	}
	return what, reason
}

// wasDone tells whether the history has what is asked for, by the same asker for the
// same reason; a node that has passed it on may be named too.
func (e *eviction) wasDone(ctx context.Context) (done bool, err error) {
	what, reason := e.words()
	err = e.read(ctx, func(s *metadata.State) {
		done = slices.ContainsFunc(s.History(e.volume).GetEntries(), func(h *metapb.HistoryEntry) bool {
			by, mine := strings.CutPrefix(h.Reason, what)
			return mine && strings.HasSuffix(by, reason) && strings.Contains(by, e.info.GetBy())
		})
	})
	return done, err
}

// atPrimary carries out a call where a volume is served: here, or on its primary's
// node, which gets it passed on; local: it was. It answers with the volume as it is
// then.
func (s *clusterVolumes) atPrimary(ctx context.Context, r *metapb.Volume, local bool, here func(context.Context) error,
	pass func(context.Context, api.VolumeServiceClient) (*api.Volume, error)) (*api.Volume, error) {
	switch {
	case r.Primary == s.node.cfg.NodeName && s.replicas != nil:
		err := here(ctx)
		switch {
		case err == nil:
			return s.Show(ctx, &api.ShowVolumeRequest{Name: r.Name})
		case errors.Is(err, replication.ErrMoved):
			return nil, s.node.refuse(codes.Aborted, "try again; blkctl why "+r.Name, "%s does not serve volume %s now", s.node.cfg.NodeName, r.Name)
		case ctx.Err() != nil:
			return nil, s.node.refuse(codes.DeadlineExceeded, "blkctl history "+r.Name, "volume %s: it was not decided in time; it may be yet", r.Name)
		}
		if _, ready := status.FromError(err); ready {
			return nil, err
		}
		return nil, s.node.refuse(codes.FailedPrecondition, "blkctl why "+r.Name, "volume %s: %v", r.Name, err)
	case r.Primary == "" || local:
		return nil, s.node.refuse(codes.Aborted, "blkctl why "+r.Name, "%s does not serve volume %s", s.node.cfg.NodeName, r.Name)
	}
	client, err := s.peer(r.Primary)
	if err != nil {
		return nil, s.node.refuse(codes.Unavailable, "blkctl why "+r.Name, "the primary of volume %s, %s, cannot be reached: %v", r.Name, r.Primary, err)
	}
	v, err := pass(ctx, client)
	if x := api.Explain(err); err != nil && x.Node == "" {
		return nil, s.node.refuse(x.Code, "blkctl why "+r.Name, "the primary of volume %s, %s, does not answer: %s", r.Name, r.Primary, x.Text)
	}
	return v, err
}

// within bounds ctx if nobody else has.
func within(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, most)
}

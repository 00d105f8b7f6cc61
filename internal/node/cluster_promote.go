package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"blkd/internal/api"
	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

const (
	// promoteTime bounds a promotion if the caller does not.
	promoteTime = 30 * time.Second
	// handoverTime is how long a primary may take to hand over before it is
	// taken for one that does not answer.
	handoverTime = 5 * time.Second
)

// promotion is one call of Promote.
type promotion struct {
	*clusterVolumes
	req  *api.PromoteRequest
	v    *view
	r    *metapb.Volume // the record that it begins with
	live *api.Volume    // what the primary tells; nil: it does not answer
	out  *api.Promotion
}

// Promote implements api.VolumeService: a planned hand-over where the primary
// answers, else a failover. Both end with a compare-and-set in the quorum on the
// record that this call has read, so that of two callers one wins.
func (s *clusterVolumes) Promote(ctx context.Context, req *api.PromoteRequest) (*api.Promotion, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, promoteTime)
		defer cancel()
	}
	began := time.Now()
	p := &promotion{clusterVolumes: s, req: req, out: &api.Promotion{DryRun: req.DryRun}}
	if err := p.prepare(ctx); err != nil {
		return nil, err
	}
	if p.out.Kind != metapb.PromotionKind_PROMOTION_KIND_NONE && !req.DryRun {
		if err := p.carryOut(ctx); err != nil {
			return nil, err
		}
		if err := p.awaitServed(ctx); err != nil {
			return nil, err
		}
		p.out.Took = durationpb.New(time.Since(began))
	}
	p.out.Volume = p.v.describeVolume(p.r)
	return p.out, nil
}

// prepare finds out what is to be done.
func (p *promotion) prepare(ctx context.Context) error {
	var err error
	if p.v, err = p.look(ctx); err != nil {
		return err
	}
	if p.r = p.v.volume(p.req.Name); p.r == nil {
		return p.noVolume(p.req.Name)
	}
	p.gather(ctx, p.v, []*metapb.Volume{p.r})
	p.live = p.v.runtime[p.r.Name]
	p.out.From, p.out.Kind = p.r.Primary, metapb.PromotionKind_PROMOTION_KIND_FAILOVER
	p.rank()
	if p.req.From != "" && p.r.Primary != p.req.From {
		return p.nothing("%s is not primary of the volume: %s is", p.req.From, orNobody(p.r.Primary))
	}
	to := p.choose()
	switch {
	case to == nil:
		return p.refused()
	case to.Node == p.r.Primary && p.live != nil:
		return p.nothing("%s is primary already, and serves", to.Node)
	case p.req.Force:
		p.out.Kind = metapb.PromotionKind_PROMOTION_KIND_FORCED
		p.out.Reasons = append(p.out.Reasons, "it was forced: "+cmp.Or(p.req.GetRequest().GetReason(), "no reason was given"),
			"what each other replica holds is kept by its node as a read-only volume: blkctl branch list "+p.r.Name)
	case p.live != nil:
		p.out.Kind = metapb.PromotionKind_PROMOTION_KIND_HANDOVER
		p.out.Reasons = append(p.out.Reasons, fmt.Sprintf("%s answers and hands over: it lets requests wait, brings %s level, and gives up its leases", p.r.Primary, to.Node))
	case p.r.Primary == "":
		p.out.Reasons = append(p.out.Reasons, "the volume has no primary")
	default:
		p.out.Reasons = append(p.out.Reasons, fmt.Sprintf("%s does not answer: the others promise the next generation, and the best log of theirs is taken", p.r.Primary))
	}
	p.out.To = to.Node
	p.foresee(to)
	p.out.Reasons = append(p.out.Reasons, to.Node+": "+to.Why)
	return nil
}

func (p *promotion) nothing(format string, args ...any) error {
	p.out.Kind, p.out.To = metapb.PromotionKind_PROMOTION_KIND_NONE, p.r.Primary
	p.out.Reasons = append(p.out.Reasons, fmt.Sprintf(format, args...))
	return nil
}

func orNobody(name string) string { return cmp.Or(name, "nobody") }

// rank lists the replicas, best first.
func (p *promotion) rank() {
	for _, m := range p.r.Members {
		c := &api.PromotionCandidate{Node: m.Node}
		if i := slices.IndexFunc(p.v.logs[m.Node], func(x *api.ReplicaLog) bool { return x.Volume == p.r.Name }); i >= 0 {
			x := p.v.logs[m.Node][i]
			c.End, c.DurableSeq, c.CommitSeq = x.End, x.DurableSeq, x.CommitSeq
		}
		n := p.v.node(m.Node)
		switch {
		case m.State != metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE:
			c.Why = fmt.Sprintf("it is %s and may lack acknowledged writes", api.ReplicaWord(m.State))
		case m.Amnesiac:
			c.Why = "it restarted and may have lost acknowledged writes"
		case n.GetHealth() == metapb.Health_HEALTH_DOWN || n.GetHealth() == metapb.Health_HEALTH_PARTITIONED:
			c.Why = "it is on a node that is " + metapb.HealthWord(n.GetHealth())
		default:
			c.Eligible, c.Why = true, "it is UpToDate: every acknowledged write is in its log or in that of the others that it asks"
		}
		p.out.Candidates = append(p.out.Candidates, c)
	}
	slices.SortStableFunc(p.out.Candidates, func(a, b *api.PromotionCandidate) int {
		rank := func(c *api.PromotionCandidate) int {
			switch {
			case !c.Eligible:
				return 2
			case p.v.node(c.Node).GetDrained():
				return 1
			}
			return 0
		}
		return cmp.Or(rank(a)-rank(b), further(b.End, a.End), strings.Compare(a.Node, b.Node))
	})
}

// choose picks the target: the one that is named, else the best one that is not
// primary, else the primary itself if it does not serve. Nil: none may be promoted.
func (p *promotion) choose() *api.PromotionCandidate {
	var same *api.PromotionCandidate
	for _, c := range p.out.Candidates {
		switch {
		case p.req.To != "" && c.Node != p.req.To, !c.Eligible && !p.req.Force:
		case p.req.To == "" && c.Node == p.r.Primary:
			same = c
		default:
			return c
		}
	}
	if p.live != nil && p.req.To == "" {
		return nil // to promote the present primary again would change nothing
	}
	return same
}

// refused says why nobody can be promoted; in a dry run that is the answer.
func (p *promotion) refused() error {
	text := fmt.Sprintf("volume %s has no other replica that is certain to hold every acknowledged write", p.r.Name)
	for _, c := range p.out.Candidates {
		if c.Node == p.req.To {
			text = fmt.Sprintf("%s cannot be promoted: %s", c.Node, c.Why)
		}
	}
	if p.req.To != "" && !slices.ContainsFunc(p.out.Candidates, func(c *api.PromotionCandidate) bool { return c.Node == p.req.To }) {
		text = fmt.Sprintf("node %s has no replica of volume %s", p.req.To, p.r.Name)
	}
	p.out.Kind, p.out.Reasons = metapb.PromotionKind_PROMOTION_KIND_NONE, []string{text}
	if p.req.DryRun {
		return nil
	}
	return p.node.refuse(codes.FailedPrecondition, "blkctl why "+p.r.Name, "%s", text)
}

// carryOut hands over, or has the quorum promote.
func (p *promotion) carryOut(ctx context.Context) error {
	if p.out.Kind == metapb.PromotionKind_PROMOTION_KIND_HANDOVER {
		err := p.handOver(ctx)
		if err == nil || ctx.Err() != nil || !errors.Is(err, errSilent) {
			return err
		}
		p.out.Kind = metapb.PromotionKind_PROMOTION_KIND_FAILOVER
		p.out.Reasons = append(p.out.Reasons, fmt.Sprintf("%s did not hand over after all: %v", p.r.Primary, err))
	}
	if p.req.Local {
		return p.node.refuse(codes.Aborted, "blkctl promote "+p.r.Name, "%s is not primary of volume %s any more", p.node.cfg.NodeName, p.r.Name)
	}
	_, err := p.change(ctx, p.req.Request, &metapb.Command{Op: &metapb.Command_Promote{Promote: &metapb.Promote{
		Volume: p.r.Name, Generation: p.r.Generation, Number: p.r.Number, To: p.out.To,
		Incarnation: p.v.node(p.out.To).GetIncarnation(), Force: p.req.Force,
	}}})
	return err
}

// errSilent tells that the primary does not answer.
var errSilent = errors.New("it does not answer")

// handOver lets the primary hand over, here or on its node.
func (p *promotion) handOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handoverTime)
	defer cancel()
	if p.r.Primary == p.node.cfg.NodeName {
		err := p.replicas.Handover(ctx, p.r.Name, p.out.To)
		switch {
		case errors.Is(err, replication.ErrMoved):
			return p.node.refuse(codes.Aborted, "blkctl promote "+p.r.Name, "%s is not primary of volume %s any more", p.r.Primary, p.r.Name)
		case err != nil:
			return p.node.refuse(codes.FailedPrecondition, "blkctl why "+p.r.Name, "volume %s: %v", p.r.Name, err)
		}
		return nil
	}
	if p.req.Local {
		return p.node.refuse(codes.Aborted, "blkctl promote "+p.r.Name, "%s is not primary of volume %s any more", p.node.cfg.NodeName, p.r.Name)
	}
	client, err := p.peer(p.r.Primary)
	if err != nil {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	_, err = client.Promote(ctx, &api.PromoteRequest{Name: p.r.Name, To: p.out.To, From: p.r.Primary, Local: true, Request: p.req.Request})
	if x := api.Explain(err); err != nil && (x.Code == codes.Unavailable || x.Code == codes.DeadlineExceeded) {
		return fmt.Errorf("%w: %s", errSilent, x.Text)
	}
	return err
}

// awaitServed waits until the new primary has said that it serves.
func (p *promotion) awaitServed(ctx context.Context) error {
	before := p.r.Generation
	for {
		changed := p.cluster.Changed()
		var h *metapb.History
		p.v = &view{leader: p.v.leader}
		p.cluster.Local(func(s *metadata.State) {
			p.v.take(s)
			h = s.History(p.req.Name)
		})
		r := p.v.volume(p.req.Name)
		if r == nil {
			return p.noVolume(p.req.Name)
		}
		if r.Generation > before && r.Served == r.Generation {
			p.r = r
			p.certified(h)
			return nil
		}
		select {
		case <-ctx.Done():
			return p.node.refuse(codes.DeadlineExceeded, "blkctl why "+p.req.Name,
				"volume %s is at generation %d with primary %s, which does not serve yet", r.Name, r.Generation, orNobody(r.Primary))
		case <-changed:
		case <-time.After(waitPause):
		}
	}
}

// certified takes the certificate from the history.
func (p *promotion) certified(h *metapb.History) {
	for _, e := range slices.Backward(h.GetEntries()) {
		if c := e.Certificate; c != nil && e.Generation == p.r.Generation {
			p.out.Certificate, p.out.Kind, p.out.To = c, c.Kind, c.NewPrimary
			return
		}
	}
}

package replicas

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// plannedHandover is the reason that replication gives for the promotion of a
// planned hand-over.
const plannedHandover = replication.HandoverReason

// certify tells the quorum that this node serves a generation, and why it may.
func (r *replica) certify(x *replication.Certificate) {
	for r.ctx.Err() == nil {
		c := r.certificate(x)
		ctx, cancel := context.WithTimeout(r.ctx, 2*time.Second)
		result, err := r.m.cfg.Cluster.Do(ctx, &metapb.Command{Op: &metapb.Command_CertifyPromotion{CertifyPromotion: &metapb.CertifyPromotion{
			Volume: r.name, Generation: uint64(x.Generation), Certificate: c,
		}}})
		cancel()
		if err == nil {
			if result.Code != metapb.Code_CODE_OK && result.Code != metapb.Code_CODE_CONFLICT {
				r.log.Error("the certificate of the promotion was not recorded", "text", result.Text)
			}
			return
		}
		select {
		case <-r.ctx.Done():
		case <-time.After(askAgain):
		}
	}
}

// certificate is the certificate in the quorum's words.
func (r *replica) certificate(x *replication.Certificate) *metapb.Certificate {
	c := &metapb.Certificate{
		Volume: r.name, VolumeId: r.id, NewPrimary: r.m.cfg.Node, NewIncarnation: r.m.incarnation,
		Before: &metapb.RecordNumber{Generation: uint64(x.Generation) - 1, Number: x.Before},
		After:  &metapb.RecordNumber{Generation: uint64(x.Generation), Number: x.After},
		Needed: int32(x.Needed), Acks: int32(len(x.Members) - x.Needed + 1),
		Committed: &metapb.LogEnd{Seq: uint64(x.Committed)},
		Chosen:    string(x.Chosen), ChosenEnd: logEnd(x.End),
		Asked: r.wall(x.Asked), Sealed: r.wall(x.Sealed), Serving: r.wall(x.Serving),
	}
	r.m.cfg.Cluster.Local(func(s *metadata.State) { r.fromHistory(c, s) })
	if c.Kind == metapb.PromotionKind_PROMOTION_KIND_FORCED && c.OldPrimary != "" && c.OldPrimary != c.NewPrimary {
		c.KeptBranch = BranchName(r.name, x.Generation-1, c.OldPrimary)
	}
	r.lease(c, x)
	for _, m := range x.Members {
		p := &metapb.CertifiedMember{Node: string(m.Node), Incarnation: uint64(m.Incarnation), Silent: "it had not answered when enough others had"}
		if m.Amnesiac {
			p.Silent = "amnesiac: it may have lost acknowledged writes"
		}
		for _, seal := range x.Seals {
			if seal.Node != m.Node {
				continue
			}
			p.Sealed, p.Silent = true, ""
			p.End, p.DurableSeq, p.CommitSeq, p.Time = logEnd(seal.End), uint64(seal.Durable), uint64(seal.Commit), r.wall(seal.At)
			if seal.End.Seq > x.End.Seq && seal.Node != x.Chosen {
				c.Cut = append(c.Cut, &metapb.Tail{Node: p.Node, Generation: uint64(seal.End.Generation),
					FirstSeq: uint64(x.End.Seq) + 1, LastSeq: uint64(seal.End.Seq)})
			}
		}
		c.Members = append(c.Members, p)
	}
	return c
}

// fromHistory fills in what the quorum knows of the promotion.
func (r *replica) fromHistory(c *metapb.Certificate, s *metadata.State) {
	if v := s.Volume(r.name); v != nil {
		c.Before.Lineage, c.After.Lineage = v.Lineage, v.Lineage
	}
	c.Kind = metapb.PromotionKind_PROMOTION_KIND_FIRST
	for _, e := range s.History(r.name).GetEntries() {
		if e.Generation != c.After.Generation || e.Number != c.After.Number {
			continue
		}
		old, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(e.What, "promoted "), "forced "), " -> ")
		switch {
		case strings.HasPrefix(e.What, "forced "):
			c.Kind, c.OldPrimary = metapb.PromotionKind_PROMOTION_KIND_FORCED, old
		case strings.HasPrefix(e.What, "promoted ") && e.Reason == plannedHandover:
			c.Kind, c.OldPrimary = metapb.PromotionKind_PROMOTION_KIND_HANDOVER, old
		case strings.HasPrefix(e.What, "promoted "), strings.HasPrefix(e.What, "recovered "):
			c.Kind, c.OldPrimary = metapb.PromotionKind_PROMOTION_KIND_FAILOVER, strings.TrimPrefix(old, "recovered ")
		}
	}
}

// lease says how the leases of older primaries have ended.
func (r *replica) lease(c *metapb.Certificate, x *replication.Certificate) {
	switch {
	case c.Kind == metapb.PromotionKind_PROMOTION_KIND_FIRST:
		c.Lease = metapb.LeaseEnd_LEASE_END_NONE
	case c.Kind == metapb.PromotionKind_PROMOTION_KIND_HANDOVER:
		c.Lease, c.LeaseEnded = metapb.LeaseEnd_LEASE_END_RELEASED, r.wall(x.Asked)
	default:
		c.Lease = metapb.LeaseEnd_LEASE_END_EXPIRED
		if c.LeaseEnded = r.wall(x.LeaseEnd); x.LeaseEnd == 0 {
			c.LeaseEnded = r.wall(x.Sealed)
		}
	}
}

func logEnd(m replication.Mark) *metapb.LogEnd {
	return &metapb.LogEnd{Generation: uint64(m.Generation), Seq: uint64(m.Seq)}
}

// wall is an instant by the wall clock; nil for none.
func (r *replica) wall(t replication.Instant) *timestamppb.Timestamp {
	if t == 0 {
		return nil
	}
	clock := r.m.cfg.Clock
	return timestamppb.New(clock.Wall().Add(time.Duration(t) - clock.Now()))
}

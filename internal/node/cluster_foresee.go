package node

import (
	"cmp"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"blkd/internal/api"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// What a promotion takes, for a dry run: round trips, and where the primary does not
// hand over the leases that it may still have. A log that has to be fetched adds to it.
const (
	handoverGuess = 50 * time.Millisecond
	failoverGuess = replication.DefaultLease + 100*time.Millisecond
)

// further compares ends of logs; nil is the shortest.
func further(a, b *metapb.LogEnd) int {
	return cmp.Or(cmp.Compare(a.GetGeneration(), b.GetGeneration()), cmp.Compare(a.GetSeq(), b.GetSeq()))
}

// foresee says what a promotion will lose of acknowledged writes, what it will cut off
// that was never acknowledged, and how long it will take, as far as the members tell.
func (p *promotion) foresee(to *api.PromotionCandidate) {
	forced := p.out.Kind == metapb.PromotionKind_PROMOTION_KIND_FORCED
	if p.req.DryRun {
		took := handoverGuess
		if p.out.Kind != metapb.PromotionKind_PROMOTION_KIND_HANDOVER {
			took = failoverGuess
		}
		p.out.Took = durationpb.New(took)
	}
	if p.out.Kind == metapb.PromotionKind_PROMOTION_KIND_HANDOVER {
		return // it brings the other one level first
	}
	best := to.End
	for _, c := range p.out.Candidates {
		if !forced && c.Eligible && further(c.End, best) > 0 {
			best = c.End // it is fetched
		}
	}
	after := "any entry"
	if best != nil {
		after = fmt.Sprintf("entry %d of generation %d", best.Seq, best.Generation)
	}
	if mark := p.r.GetMark().GetSeq(); forced && mark > best.GetSeq() {
		p.out.Losses = append(p.out.Losses, fmt.Sprintf("entries %d to %d: the quorum knows that they were committed", best.GetSeq()+1, mark))
	}
	for _, c := range p.out.Candidates {
		switch {
		case c == to || further(c.End, best) == 0 && c.End != nil:
		case c.End == nil && forced:
			p.out.Losses = append(p.out.Losses, fmt.Sprintf("whatever was acknowledged behind %s and only %s has, which does not tell", after, c.Node))
		case c.End == nil:
			p.out.Tails = append(p.out.Tails, fmt.Sprintf("whatever only %s has behind %s, which does not tell: it was never acknowledged", c.Node, after))
		case further(c.End, best) < 0:
		case forced:
			p.out.Losses = append(p.out.Losses, fmt.Sprintf("%s, of which it knows up to %d to be committed", tailWords(c, best), c.CommitSeq))
		default:
			p.out.Tails = append(p.out.Tails, tailWords(c, best)+": they were never acknowledged")
		}
	}
}

// tailWords says what a replica has behind the end of another log.
func tailWords(c *api.PromotionCandidate, end *metapb.LogEnd) string {
	return fmt.Sprintf("entries %d to %d of generation %d on %s", end.GetSeq()+1, c.End.Seq, c.End.Generation, c.Node)
}

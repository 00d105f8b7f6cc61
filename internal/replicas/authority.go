package replicas

import (
	"context"
	"crypto/rand"
	"time"

	"blkd/metadata"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// askAgain is the pause between attempts while the quorum cannot decide.
const askAgain = 100 * time.Millisecond

// Propose implements replication.Authority. Every attempt carries the same
// request id, so that the answer is that of the first one that was applied.
func (r *replica) Propose(ctx context.Context, p replication.Proposal) error {
	command := CommandOf(r.name, &p)
	if c := command.GetSetMembers(); c != nil {
		r.m.cfg.Cluster.Local(func(s *metadata.State) { c.Copies = CopiesAfter(s.Volume(r.name), c.Members) })
	}
	command.Request = make([]byte, 16)
	rand.Read(command.Request) // never fails
	for {
		result, err := r.m.cfg.Cluster.Do(ctx, command)
		if err == nil {
			return r.decided(&p, result)
		}
		r.log.Debug("the quorum has not decided", "why", p.Why, "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(askAgain):
		}
	}
}

// decided takes an answer in. What it tells of the record is delivered at once:
// the state that this node follows may come later.
func (r *replica) decided(p *replication.Proposal, result *metapb.Result) error {
	if v := result.Volume; v != nil && v.Id == r.id {
		r.volume.Record(RecordOf(v))
	}
	if result.Code != metapb.Code_CODE_OK {
		r.log.Info("the quorum refused a change", "asked", p.Why, "text", result.Text)
		return &replication.RefusedError{Text: result.Text}
	}
	r.log.Info("the quorum made a change", "why", p.Why, "generation", result.GetVolume().GetGeneration(), "record", result.GetVolume().GetNumber())
	return nil
}

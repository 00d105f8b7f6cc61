package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"blkd/metadata"
	"blkd/metadata/metapb"
)

// steward is the metadata.Steward of one reign of this node as leader.
type steward struct {
	term    uint64
	passive *metadata.Steward
}

// steer does what a leader does without being asked.
func (c *Cluster) steer(s *metadata.Server, leader uint64) {
	if s == nil {
		return
	}
	status := s.Status()
	c.mu.Lock()
	defer c.mu.Unlock()
	if leader != status.ID || status.Leader != status.ID {
		c.steward = nil
		return
	}
	if c.steward == nil || c.steward.term != status.Term {
		passive, err := metadata.NewSteward(c.cfg.Steward)
		if err != nil {
			panic("cluster: a steward was possible at the start: " + err.Error())
		}
		c.steward = &steward{status.Term, passive}
	}
	in := metadata.StewardInput{
		Now: c.now(), Wall: c.world.Clock.Wall().UnixNano(), Verdicts: c.detector.Verdicts(), Raft: status.Raft(),
	}
	var out metadata.StewardOutput
	s.View(func(state *metadata.State) {
		in.State = state
		out = c.steward.passive.Step(in)
	})
	c.carryOut(s, out)
}

// stewardTime is how long one of the steward's acts may take; it tries again.
const stewardTime = 5 * time.Second

// carryOut does what the steward asks for, in the background. What fails the
// steward asks for again.
func (c *Cluster) carryOut(s *metadata.Server, out metadata.StewardOutput) {
	if c.ctx.Err() != nil {
		return
	}
	do := func(what, reason string, act func(context.Context) error) {
		c.work.Go(func() {
			ctx, cancel := context.WithTimeout(c.ctx, stewardTime)
			defer cancel()
			c.logAct(what, reason, act(ctx))
		})
	}
	for _, commands := range byReason(out.Commands) {
		what := "record"
		if len(commands) > 1 {
			what = fmt.Sprintf("record, %d times", len(commands))
		}
		do(what, commands[0].Reason, func(ctx context.Context) error { return c.proposeAll(ctx, s, commands) })
	}
	if out.Change != nil {
		do("change the quorum's members", out.Reason, func(ctx context.Context) error { return s.ProposeConf(ctx, out.Change) })
	}
	if out.Transfer != 0 {
		do("hand leadership over", out.Reason, func(ctx context.Context) error { return s.Transfer(ctx, out.Transfer) })
	}
}

// byReason gathers commands with the same reason: a node that fails is one for as
// many commands as it has volumes.
func byReason(commands []*metapb.Command) [][]*metapb.Command {
	var groups [][]*metapb.Command
	for _, command := range commands {
		i := slices.IndexFunc(groups, func(g []*metapb.Command) bool { return g[0].Reason == command.Reason })
		if i < 0 {
			groups = append(groups, []*metapb.Command{command})
			continue
		}
		groups[i] = append(groups[i], command)
	}
	return groups
}

// proposeAll has commands carried out, all at once.
func (c *Cluster) proposeAll(ctx context.Context, s *metadata.Server, commands []*metapb.Command) error {
	errs := make([]error, len(commands))
	var wait sync.WaitGroup
	for i, command := range commands {
		wait.Go(func() {
			result, err := s.Propose(ctx, c.sign(command))
			if err == nil && result.Code != metapb.Code_CODE_OK {
				err = errors.New(result.Text)
			}
			errs[i] = err
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (c *Cluster) logAct(what, reason string, err error) {
	var elsewhere *metadata.NotLeaderError
	switch {
	case err == nil:
		c.log.Info("as leader of the quorum: "+what, "reason", reason)
	case c.ctx.Err() != nil, errors.As(err, &elsewhere), errors.Is(err, metadata.ErrDropped):
		c.log.Debug("no longer leader of the quorum: "+what, "reason", reason, "err", err)
	default:
		c.log.Warn("as leader of the quorum, not done: "+what, "reason", reason, "err", err)
	}
}

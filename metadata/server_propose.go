package metadata

import (
	"context"
	"fmt"

	"blkd/metadata/metapb"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// proposal waits for its command to be applied.
type proposal struct {
	cmd  *metapb.Command
	done chan answered // takes one
}

type answered struct {
	result *metapb.Result
	err    error
}

// proposals are those that the leader has taken, by request id.
type proposals map[string][]*proposal

func (w proposals) answer(list []Applied) {
	for _, a := range list {
		for _, p := range w[a.Request] {
			p.done <- answered{result: a.Result}
		}
		delete(w, a.Request)
	}
}

func (w proposals) drop(err error) {
	for _, list := range w {
		for _, p := range list {
			p.done <- answered{err: err}
		}
	}
	clear(w)
}

// Propose has a command applied and returns the answer. It must be called on the
// leader: elsewhere the error is a *NotLeaderError. When it is ErrDropped, or ctx
// ends, the command may or may not be applied: repeat it with the same request id
// and it is applied once. The answer must not be changed.
func (s *Server) Propose(ctx context.Context, cmd *metapb.Command) (*metapb.Result, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.done:
		return nil, s.err()
	}
	p := &proposal{cmd, make(chan answered, 1)}
	s.inbox.put(func(n *inboxItems) { n.proposals = append(n.proposals, p) })
	select {
	case a := <-p.done:
		return a.result, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.done:
		return nil, s.err()
	}
}

// propose runs on the goroutine.
func (s *Server) propose(p *proposal) {
	err := s.leading()
	if err == nil {
		err = s.core.Propose(p.cmd)
	}
	if err != nil {
		p.done <- answered{err: err}
		return
	}
	id := string(p.cmd.Request)
	s.waiting[id] = append(s.waiting[id], p)
}

// leading is nil if this member is the leader.
func (s *Server) leading() error {
	if s.led != 0 {
		return nil
	}
	return &NotLeaderError{s.lead}
}

// confWaits are the changes of members that are under way, by Context.
type confWaits map[string]chan error

func (w confWaits) answer(list []string) {
	for _, id := range list {
		if done := w[id]; done != nil {
			done <- nil
			delete(w, id)
		}
	}
}

func (w confWaits) drop(err error) {
	for _, done := range w {
		done <- err
	}
	clear(w)
}

// ProposeConf changes the members and returns when the change has taken effect on
// this member, the leader. Errors are those of Propose and ErrConfPending. After
// ErrDropped look at Status before another attempt: a change has no request id.
// Its Context is not used.
func (s *Server) ProposeConf(ctx context.Context, cc *raftpb.ConfChangeV2) error {
	cc = proto.CloneOf(cc)
	return s.call(ctx, func(done chan error) {
		s.readers.last++ // any number that is not used twice
		cc.Context = s.core.readContext(s.readers.last)
		err := s.leading()
		if err == nil {
			err = s.core.ProposeConf(cc)
		}
		if err != nil {
			done <- err
			return
		}
		s.confs[string(cc.Context)] = done
	})
}

// call runs f on the goroutine and waits for what it, or somebody later, sends.
func (s *Server) call(ctx context.Context, f func(done chan error)) error {
	done := make(chan error, 1)
	s.inbox.put(func(n *inboxItems) { n.calls = append(n.calls, func() { f(done) }) })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.done:
		return s.err()
	}
}

// transferWait waits until another member leads.
type transferWait struct {
	to   uint64
	done chan error
}

// Transfer hands leadership over to another voter and returns when that one leads.
func (s *Server) Transfer(ctx context.Context, to uint64) error {
	return s.call(ctx, func(done chan error) {
		if err := s.leading(); err != nil {
			done <- err
			return
		}
		if err := s.core.Transfer(to); err != nil {
			done <- err
			return
		}
		s.transfer = append(s.transfer, &transferWait{to, done})
	})
}

// settleTransfer answers the transfers that have come to an end.
func (s *Server) settleTransfer() {
	if len(s.transfer) == 0 {
		return
	}
	st := s.core.raw.BasicStatus()
	wait := s.transfer[:0]
	for _, t := range s.transfer {
		switch {
		case s.lead == t.to:
			t.done <- nil
		case s.lead == s.config.ID && st.LeadTransferee != t.to:
			t.done <- fmt.Errorf("leadership was not handed to Raft id %d: it is no voter, or did not catch up in time", t.to)
		case s.lead != 0 && s.lead != s.config.ID:
			t.done <- &NotLeaderError{s.lead}
		default:
			wait = append(wait, t)
		}
	}
	s.transfer = wait
}

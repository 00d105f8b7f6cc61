package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"blkd/internal/api"
)

// streams opens the streams of a connection and serves them until one breaks.
func (p *peer) streams(ctx context.Context, client api.PeerServiceClient, route *api.Route, g *api.Greeting) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	raft, err := client.Raft(ctx)
	if err != nil {
		return readable(err)
	}
	beat, err := client.Beat(ctx)
	if err != nil {
		return readable(err)
	}
	p.out.take() // what was meant for an earlier run
	p.c.connected(p, client, route, g)

	s := &session{peer: p, client: client, route: route, sent: map[uint64]time.Duration{}, last: p.c.now()}
	var wait sync.WaitGroup
	for _, serve := range []func(context.Context) error{
		func(ctx context.Context) error { return s.sendRaft(ctx, raft) },
		func(context.Context) error { return s.ended(raft) },
		func(ctx context.Context) error { return s.sendBeats(ctx, beat) },
		func(ctx context.Context) error { return s.readBeats(ctx, beat) },
	} {
		wait.Go(func() { cancel(serve(ctx)) })
	}
	wait.Wait()
	return readable(context.Cause(ctx))
}

// session is the sending side of an open connection.
type session struct {
	peer   *peer
	client api.PeerServiceClient
	route  *api.Route

	mu   sync.Mutex
	sent map[uint64]time.Duration // heartbeats without an answer, by number
	last time.Duration            // when an answer came in
}

// sendRaft sends what is in the outbox, gathered.
func (s *session) sendRaft(ctx context.Context, stream api.PeerService_RaftClient) error {
	var snapshot sync.WaitGroup
	defer snapshot.Wait()
	for {
		var messages []*raftpb.Message
		for _, m := range s.peer.out.take() {
			if m.GetType() == raftpb.MsgSnap {
				// It may be large: heartbeats shall not wait behind it.
				snapshot.Go(func() { s.sendSnapshot(ctx, m) })
				continue
			}
			messages = append(messages, m)
		}
		if err := pack(s.route, messages, stream.Send); err != nil {
			return broken(ctx, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.peer.out.wake:
		}
	}
}

// sendSnapshot sends a snapshot on a stream of its own. Raft sends it again when
// it sees no effect of it.
func (s *session) sendSnapshot(ctx context.Context, m *raftpb.Message) {
	err := func() error {
		stream, err := s.client.Raft(ctx)
		if err != nil {
			return err
		}
		if err := pack(s.route, []*raftpb.Message{m}, stream.Send); err != nil {
			return err
		}
		_, err = stream.CloseAndRecv()
		return err
	}()
	if err != nil {
		s.peer.c.log.Warn("a snapshot of the metadata could not be sent", "peer", s.peer.name, "err", readable(err))
	}
}

// sendBeats sends heartbeats and gives the connection up when none is answered.
func (s *session) sendBeats(ctx context.Context, stream api.PeerService_BeatClient) error {
	c := s.peer.c
	for {
		beat := c.beat(s.peer, s.route)
		now := c.now()
		s.mu.Lock()
		s.sent[beat.Seq] = now
		silent := now - s.last
		s.mu.Unlock()
		if silent > silentMost {
			return fmt.Errorf("no heartbeat was answered for %v", silent.Round(100*time.Millisecond))
		}
		if err := stream.Send(beat); err != nil {
			return broken(ctx, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.after(c.every):
		}
	}
}

// readBeats takes in the answers to heartbeats.
func (s *session) readBeats(_ context.Context, stream api.PeerService_BeatClient) error {
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		now := s.peer.c.now()
		s.mu.Lock()
		sent, ok := s.sent[answer.Echo]
		for seq := range s.sent {
			if seq <= answer.Echo {
				delete(s.sent, seq)
			}
		}
		if ok {
			s.last = now
		}
		s.mu.Unlock()
		if ok {
			s.peer.c.roundTrip(s.peer, now-sent)
		}
	}
}

// ended returns when the other side has ended the stream, with its reason.
func (s *session) ended(stream api.PeerService_RaftClient) error {
	if err := stream.RecvMsg(new(api.RaftClosed)); err != nil {
		return err
	}
	return errors.New("the node closed the connection")
}

// broken is why a stream takes nothing more. Of one that the other side ended
// gRPC tells the reader why, not the sender, whose error comes second then.
func broken(ctx context.Context, err error) error {
	if err != io.EOF {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

package cluster

import (
	"context"
	"errors"
	"io"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// window is how many bytes a stream and a connection may send ahead. With a fixed
// one gRPC does not measure the network, which costs a ping and its answer with
// each message that comes after a pause.
const window = 4 << 20

// ServerOptions are for the server that PeerService is registered with.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window)}
}

// Register serves PeerService on s, which has to be done before s serves. Its
// streams end when the node stops.
func (c *Cluster) Register(s *grpc.Server) {
	api.RegisterPeerServiceServer(s, &peerService{c: c})
}

// peerService implements api.PeerService: what other nodes ask of this one.
type peerService struct {
	api.UnimplementedPeerServiceServer
	c *Cluster
}

// Hello implements api.PeerService.
func (s *peerService) Hello(ctx context.Context, req *api.HelloRequest) (*api.HelloResponse, error) {
	g := req.GetGreeting()
	if CheckNodeName(g.GetName()) != nil || g.Disk == 0 || g.Incarnation == 0 {
		return nil, status.Error(codes.InvalidArgument, "a greeting needs the node's name, disk and incarnation")
	}
	refusal := s.c.judge(s.c.claimedName(ctx), g)
	if refusal != nil {
		s.c.logRefusal(g, refusal)
	} else {
		s.c.met(g)
	}
	return &api.HelloResponse{Greeting: s.c.greeting(), Refusal: refusal}, nil
}

// Raft implements api.PeerService.
func (s *peerService) Raft(stream api.PeerService_RaftServer) error {
	return s.c.untilStopped(func() error { return s.raft(stream) })
}

func (s *peerService) raft(stream api.PeerService_RaftServer) error {
	var u unpacker
	for {
		batch, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&api.RaftClosed{})
		}
		if err != nil {
			return err
		}
		server, _, err := s.c.admitMember(stream.Context(), batch.Route)
		if err != nil {
			return err
		}
		messages, err := u.unpack(batch)
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		for _, m := range messages {
			if m.GetFrom() != batch.Route.From || m.GetTo() != batch.Route.To || !travels(m.GetType()) {
				return status.Errorf(codes.InvalidArgument, "a Raft message %v from %d to %d on the stream from %d to %d",
					m.GetType(), m.GetFrom(), m.GetTo(), batch.Route.From, batch.Route.To)
			}
			server.Step(m)
		}
	}
}

// travels tells whether Raft sends messages of that type to other members; those
// of other types are what a member says to itself.
func travels(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgSnap, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		return true
	}
	return false
}

// Beat implements api.PeerService.
func (s *peerService) Beat(stream api.PeerService_BeatServer) error {
	return s.c.untilStopped(func() error { return s.beat(stream) })
}

func (s *peerService) beat(stream api.PeerService_BeatServer) error {
	var name string
	var route *api.Route
	defer func() {
		if route != nil {
			s.c.listens(name, route.FromIncarnation, -1)
		}
	}()
	for {
		beat, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		_, from, err := s.c.admitMember(stream.Context(), beat.Route)
		if err != nil {
			return err
		}
		switch {
		case route == nil:
			name, route = from, beat.Route
			s.c.listens(name, route.FromIncarnation, 1)
		case !proto.Equal(route, beat.Route):
			return status.Error(codes.InvalidArgument, "the route of a stream of heartbeats has changed")
		}
		s.c.heartbeat(name, beat)
		if err := stream.Send(&api.Heartbeat{Route: turned(beat.Route), Echo: beat.Seq}); err != nil {
			return err
		}
	}
}

// turned is the way back.
func turned(r *api.Route) *api.Route {
	return &api.Route{Cluster: r.Cluster, From: r.To, FromIncarnation: r.ToIncarnation, To: r.From, ToIncarnation: r.FromIncarnation}
}

// Propose implements api.PeerService.
func (s *peerService) Propose(ctx context.Context, req *api.ProposeRequest) (*api.ProposeResponse, error) {
	if req.Command == nil || len(req.Command.Request) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a proposal needs a command with a request id")
	}
	server, _, err := s.c.admit(ctx, req.Route)
	if err != nil {
		return nil, err
	}
	if req.Route.From == 0 {
		return s.proposeForGuest(ctx, req.Command)
	}
	result, err := server.Propose(ctx, req.Command)
	var elsewhere *metadata.NotLeaderError
	switch {
	case errors.As(err, &elsewhere):
		return &api.ProposeResponse{Leader: elsewhere.Leader}, nil
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &api.ProposeResponse{Result: result}, nil
}

// Transfer implements api.PeerService.
func (s *peerService) Transfer(ctx context.Context, req *api.TransferRequest) (*api.TransferResponse, error) {
	server, _, err := s.c.admit(ctx, req.Route)
	if err != nil {
		return nil, err
	}
	err = s.c.transfer(ctx, server, req.To)
	var elsewhere *metadata.NotLeaderError
	var refused *refusedTransfer
	switch {
	case errors.As(err, &elsewhere):
		return &api.TransferResponse{Elsewhere: true}, nil
	case errors.As(err, &refused):
		return &api.TransferResponse{Refusal: refused.text}, nil
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &api.TransferResponse{}, nil
}

// proposeForGuest passes on the command of a node that is not a Raft member yet.
// It may do one thing: register itself.
func (s *peerService) proposeForGuest(ctx context.Context, command *metapb.Command) (*api.ProposeResponse, error) {
	register := command.GetRegisterNode()
	if name := s.c.claimedName(ctx); register == nil || name != "" && register.Name != name {
		return nil, status.Error(codes.PermissionDenied, "a node that is not a member may only register itself")
	}
	result, err := s.c.Do(ctx, command)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &api.ProposeResponse{Result: result}, nil
}

// untilStopped serves a stream until it ends or the node stops.
func (c *Cluster) untilStopped(serve func() error) error {
	done := make(chan error, 1)
	go func() { done <- serve() }() // ends with the stream, which ends when this returns
	select {
	case err := <-done:
		return err
	case <-c.ctx.Done():
		return status.Errorf(codes.Unavailable, "node %s is stopping", c.cfg.Name)
	}
}

package cluster

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// stranger is a client of a node's peer service that says what it likes.
func (l *lab) stranger(name string) api.PeerServiceClient {
	l.Helper()
	c := l.node("n1").Cluster
	conn, _, err := c.dial(name, name+":7400")
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { conn.Close() }) //nolint:errcheck // at the end
	return api.NewPeerServiceClient(conn)
}

// honest is the route of what n1 says to n2.
func (l *lab) honest() *api.Route {
	a, b := l.node("n1").Status(), l.node("n2").Status()
	return &api.Route{Cluster: a.Cluster, From: a.ID, FromIncarnation: a.Incarnation, To: b.ID, ToIncarnation: b.Incarnation}
}

// Nothing is taken that is not from a run that said Hello, and for this very run.
func TestRoutes(t *testing.T) {
	running(t, func(l *lab) {
		client := l.stranger("n2")
		for _, c := range []struct {
			name string
			bend func(*api.Route)
			text string // of the error; empty: it is taken
		}{
			{"honest", func(*api.Route) {}, ""},
			{"another cluster", func(r *api.Route) { r.Cluster++ }, "belongs to cluster"},
			{"another Raft id", func(r *api.Route) { r.To++ }, "has Raft id 2, the message is for 3"},
			{"an earlier run of the receiver", func(r *api.Route) { r.ToIncarnation++ }, "for another run of node n2"},
			{"a run that nobody knows", func(r *api.Route) { r.FromIncarnation++ }, "it has to say Hello first"},
			{"in the name of another", func(r *api.Route) { r.From = 3 }, "it has to say Hello first"},
			{"no member", func(r *api.Route) { r.From = 0 }, "only members"},
		} {
			route := l.honest()
			c.bend(route)
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			beats, err := client.Beat(ctx)
			if err != nil {
				t.Fatal(err)
			}
			err = beats.Send(&api.Heartbeat{Route: route, Seq: 1 << 40})
			if err == nil {
				_, err = beats.Recv()
			}
			cancel()
			if c.text == "" && err != nil || c.text != "" && (err == nil || !strings.Contains(err.Error(), c.text)) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}, three...)
}

// Raft messages that contradict their route, or that no member sends to another,
// end the stream and reach nobody.
func TestForgedRaftMessages(t *testing.T) {
	running(t, func(l *lab) {
		client := l.stranger("n2")
		term := l.leader().Status().Term
		for _, m := range []*raftpb.Message{
			{Type: raftpb.MsgVote.Enum(), From: proto.Uint64(3), To: proto.Uint64(2), Term: proto.Uint64(term + 9)},
			{Type: raftpb.MsgVote.Enum(), From: proto.Uint64(1), To: proto.Uint64(3), Term: proto.Uint64(term + 9)},
			{Type: raftpb.MsgHup.Enum(), From: proto.Uint64(1), To: proto.Uint64(2)},
			{Type: raftpb.MsgProp.Enum(), From: proto.Uint64(1), To: proto.Uint64(2)},
		} {
			encoded, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			stream, err := client.Raft(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&api.RaftBatch{Route: l.honest(), Messages: [][]byte{encoded}}); err != nil {
				t.Fatal(err)
			}
			if err := stream.RecvMsg(new(api.RaftClosed)); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v from %d to %d: %v", m.GetType(), m.GetFrom(), m.GetTo(), err)
			}
		}
		time.Sleep(5 * time.Second)
		if now := l.leader().Status().Term; now != term {
			t.Errorf("forged messages raised the term from %d to %d", term, now)
		}
	}, three...)
}

// Whoever is no member may have itself registered, and nothing else.
func TestGuests(t *testing.T) {
	running(t, func(l *lab) {
		l.node("n1").do(add("n4"))
		time.Sleep(time.Second) // n2 may not have applied it yet
		client := l.stranger("n2")
		g := &api.Greeting{Name: "n4", Disk: 4, Incarnation: 44, Address: "n4:7400", List: formatList(l.list)}
		answer, err := client.Hello(context.Background(), &api.HelloRequest{Greeting: g})
		if err != nil || answer.Refusal != nil {
			t.Fatalf("%v, %v", answer, err)
		}
		route := &api.Route{Cluster: answer.Greeting.Cluster, FromIncarnation: 44, To: answer.Greeting.Id, ToIncarnation: answer.Greeting.Incarnation}
		command := create("v")
		command.Request = make([]byte, 16)
		if _, err := client.Propose(context.Background(), &api.ProposeRequest{Route: route, Command: command}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a guest made a volume: %v", err)
		}
		register := &metapb.Command{Request: []byte("0123456789abcdef"), Op: &metapb.Command_RegisterNode{RegisterNode: &metapb.RegisterNode{
			Name: "n4", Disk: 4, Incarnation: 44, Address: "n4:7400", VersionMin: versionMin, VersionMax: versionMax}}}
		r, err := client.Propose(context.Background(), &api.ProposeRequest{Route: route, Command: register})
		if err != nil || r.GetResult().GetCode() != metapb.Code_CODE_OK {
			t.Errorf("a guest could not register: %v, %v", r, err)
		}
	}, three...)
}

// A greeting that says too little, or lies about the name, is no greeting.
func TestBadGreetings(t *testing.T) {
	running(t, func(l *lab) {
		client := l.stranger("n2")
		for _, g := range []*api.Greeting{nil, {}, {Name: "n3", Disk: 1}, {Name: "N 3", Disk: 1, Incarnation: 1}} {
			if _, err := client.Hello(context.Background(), &api.HelloRequest{Greeting: g}); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v: %v", g, err)
			}
		}
		for name, code := range map[string]api.RefusalCode{
			"n2":     api.RefusalCode_REFUSAL_CODE_NAME, // its own
			"n3":     api.RefusalCode_REFUSAL_CODE_RUNS, // another run of it is alive
			"nobody": api.RefusalCode_REFUSAL_CODE_NAME,
		} {
			g := &api.Greeting{Name: name, Disk: 1, Incarnation: 1, Address: name + ":7400"}
			r, err := client.Hello(context.Background(), &api.HelloRequest{Greeting: g})
			if err != nil || r.Refusal.GetCode() != code || r.Refusal.Text == "" || r.Refusal.Advice == "" {
				t.Errorf("%s: %v, %v", name, r.GetRefusal(), err)
			}
		}
		if refusal := l.node("n2").judge("n3", &api.Greeting{Name: "n1", Disk: 1, Incarnation: 1}); refusal.GetCode() != api.RefusalCode_REFUSAL_CODE_NAME ||
			!strings.Contains(refusal.Text, "it calls itself node n1, but its certificate is of n3") {
			t.Errorf("with the certificate of another node: %v", refusal)
		}
		l.node("n1").do(create("v")) // nobody was hurt
	}, three...)
}

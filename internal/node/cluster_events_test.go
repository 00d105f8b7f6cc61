package node

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

func TestWait(t *testing.T) {
	c := newTrio(t, []string{"n1"}, nil)
	c.startAll()
	s := c.socket("n1")
	wait := func(condition api.WaitCondition, volume string) <-chan *api.WaitResponse {
		out := make(chan *api.WaitResponse, 1)
		go func() {
			r, err := s.Wait(brief(t), &api.WaitRequest{Condition: condition, Volume: volume})
			if err != nil {
				t.Error(condition, err)
			}
			out <- r
		}()
		return out
	}
	exists, primary, full := wait(api.WaitCondition_WAIT_CONDITION_EXISTS, "demo"), wait(api.WaitCondition_WAIT_CONDITION_PRIMARY, "demo"), wait(api.WaitCondition_WAIT_CONDITION_UP_TO_DATE, "demo")
	if r := <-wait(api.WaitCondition_WAIT_CONDITION_DELETED, "demo"); r.GetVolume() != nil {
		t.Error(r)
	}
	if _, err := s.volumes.Create(brief(t), &api.CreateVolumeRequest{Name: "demo", SizeBytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	for _, out := range []<-chan *api.WaitResponse{exists, primary, full} {
		if r := <-out; r.GetVolume().GetName() != "demo" {
			t.Error(r)
		}
	}
	deleted := wait(api.WaitCondition_WAIT_CONDITION_DELETED, "demo")
	if _, err := s.volumes.Delete(brief(t), &api.DeleteVolumeRequest{Name: "demo"}); err != nil {
		t.Fatal(err)
	}
	<-deleted
	for _, req := range []*api.WaitRequest{{}, {Condition: 99, Volume: "demo"}, {Condition: api.WaitCondition_WAIT_CONDITION_EXISTS}} {
		_, err := s.Wait(brief(t), req)
		wantError(t, err, codes.InvalidArgument, "condition")
	}
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Wait(short, &api.WaitRequest{Condition: api.WaitCondition_WAIT_CONDITION_EXISTS, Volume: "never"}); api.Explain(err).Code != codes.DeadlineExceeded {
		t.Error(err)
	}
}

// TestQuorumHasSettled: who has waited for the quorum of a new cluster can use
// all of its nodes.
func TestQuorumHasSettled(t *testing.T) {
	c := newTrio(t, three, nil)
	c.start(three...)
	if _, err := c.address("n2").Wait(brief(t), &api.WaitRequest{Condition: api.WaitCondition_WAIT_CONDITION_QUORUM}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.address("n1").volumes.Create(brief(t), &api.CreateVolumeRequest{Name: "demo", SizeBytes: 1 << 30, Nodes: three,
		Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: 3}}); err != nil {
		t.Error(err)
	}
}

// TestStopEndsStreams: who follows events or waits is told to ask another node.
func TestStopEndsStreams(t *testing.T) {
	c := newTrio(t, []string{"n1"}, nil)
	c.startAll()
	s := c.socket("n1")
	events, err := s.Events(brief(t), &api.EventsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		item, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if item.GetSync() != nil {
			break
		}
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop(t, c.nodes["n1"])
	}()
	_, err = events.Recv()
	if x := api.Explain(err); x.Code != codes.Unavailable || x.Node != "" || !strings.Contains(x.Text, "n1 is stopping") {
		t.Errorf("%+v", x)
	}
	<-stopped
	delete(c.nodes, "n1")
}

// received reads a stream of events up to the sync of a dump, or for so many
// items.
func received(t *testing.T, stream grpc.ServerStreamingClient[api.Event], items int) (out []*api.Event) {
	t.Helper()
	for len(out) < items {
		item, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(out), items, err)
		}
		out = append(out, item)
	}
	return out
}

func TestEvents(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	if _, err := c.socket("n1").volumes.Create(brief(t), &api.CreateVolumeRequest{Name: "demo", SizeBytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	stream, err := c.address("n1").Events(brief(t), &api.EventsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	dump := received(t, stream, 6)
	if dump[0].GetCluster().GetId() == 0 || dump[1].GetNode().GetRecord().GetName() != "n1" || dump[3].GetNode().GetRecord().GetName() != "n3" ||
		dump[4].GetVolume().GetName() != "demo" || dump[5].GetSync() == nil {
		t.Fatal(dump)
	}
	seq := dump[5].GetSync().Seq

	if _, err := c.socket("n2").DrainNode(brief(t), &api.DrainNodeRequest{Node: &metapb.DrainNode{Name: "n2"}}); err != nil {
		t.Fatal(err)
	}
	change := received(t, stream, 1)[0].GetChange()
	for change.GetName() != "n2" { // that the volume is served now, for example
		change = received(t, stream, 1)[0].GetChange()
	}
	if change.Seq <= seq || change.Type != "node" || change.Action != "change" {
		t.Error(change)
	}
	seq = change.Seq - 1

	// Resumed on another node, it goes on where it was.
	resumed, err := c.address("n3").Events(brief(t), &api.EventsRequest{Resume: true, After: seq})
	if err != nil {
		t.Fatal(err)
	}
	if again := received(t, resumed, 1)[0].GetChange(); !proto.Equal(again, change) {
		t.Errorf("%v, want %v", again, change)
	}
	for last := change.Seq; ; last++ {
		item, err := resumed.Recv()
		if errors.Is(err, io.EOF) {
			break // it does not follow
		}
		if err != nil || item.GetChange().GetSeq() != last+1 {
			t.Fatalf("%v, %v", item, err)
		}
	}

	// From the beginning, without a gap.
	all, err := c.address("n2").Events(brief(t), &api.EventsRequest{Resume: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, item := range received(t, all, int(change.Seq)) {
		if item.GetChange().GetSeq() != uint64(i+1) {
			t.Fatalf("event %d: %v", i+1, item)
		}
	}

	// What is not kept is told, and a dump takes its place.
	gap, err := c.address("n2").Events(brief(t), &api.EventsRequest{Resume: true, After: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	items := received(t, gap, 7)
	if items[0].GetGap().GetAfter() != 1<<40 || items[1].GetCluster() == nil || items[6].GetSync().GetSeq() < change.Seq {
		t.Error(items)
	}
}

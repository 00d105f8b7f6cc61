package node

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// TestServiceIsWanted: requests say where a service shall run, and the cluster chooses
// where they leave that open.
func TestServiceIsWanted(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n2")
	c.makeVolume(via, "v")
	ask := func(req *api.SetServiceRequest) (*api.Volume, error) {
		req.Name, req.Request = "v", &api.RequestInfo{By: "op"}
		return via.volumes.SetService(brief(t), req)
	}
	_, err := ask(&api.SetServiceRequest{Away: true})
	wantError(t, err, codes.FailedPrecondition, "has no service")
	_, err = ask(&api.SetServiceRequest{Nodes: []string{"n1", "n9"}})
	wantError(t, err, codes.NotFound, `no node "n9"`)
	for _, x := range []struct {
		req  *api.SetServiceRequest
		want string
	}{
		{&api.SetServiceRequest{Nodes: []string{"n3", "n1"}}, "n3"},
		{&api.SetServiceRequest{}, "n3"},
		{&api.SetServiceRequest{Away: true}, "n1"},
		{&api.SetServiceRequest{Away: true}, "n3"},
		{&api.SetServiceRequest{Away: true, From: "n1"}, "n3"},
		{&api.SetServiceRequest{Away: true, From: "n3"}, "n1"},
		{&api.SetServiceRequest{To: "n1"}, "n1"},
		{&api.SetServiceRequest{Stop: true}, ""},
		{&api.SetServiceRequest{}, "n3"},
		{&api.SetServiceRequest{Nodes: []string{"n1"}}, "n1"},
	} {
		v, err := ask(x.req)
		if err != nil || v.Record.Service.Wanted != x.want {
			t.Fatalf("%v: %v, %v", x.req, v.GetRecord().GetService(), err)
		}
	}
	waits := func(why string) {
		t.Helper()
		v, err := via.volumes.Show(brief(t), &api.ShowVolumeRequest{Name: "v"})
		i := slices.IndexFunc(v.GetProblems(), func(p *api.Problem) bool { return p.Code == serviceWaits })
		if err != nil || (i >= 0) != (why != "") || i >= 0 && !strings.Contains(v.Problems[i].Text, why) {
			t.Errorf("%v, %v, want one that says %q", v.GetProblems(), err, why)
		}
	}
	waits("n1, which has not taken the volume")
	for _, x := range []struct{ holder, why string }{{"db1", "another client holds the volume: db1"}, {metapb.ServiceOf("n1"), ""}} {
		if _, err := via.volumes.Attach(brief(t), &api.AttachRequest{Name: "v", Holder: x.holder, Takeover: true}); err != nil {
			t.Fatal(err)
		}
		waits(x.why)
	}
	if _, err := ask(&api.SetServiceRequest{Nodes: []string{"n1", "n2"}, To: "n2"}); err != nil {
		t.Fatal(err)
	}
	waits("service@n1 has not given the volume up")
	if _, err := ask(&api.SetServiceRequest{Nodes: []string{"n1"}, To: "n1"}); err != nil {
		t.Fatal(err)
	}
	_, err = ask(&api.SetServiceRequest{Away: true})
	wantError(t, err, codes.FailedPrecondition, "no other node may run")
	_, err = ask(&api.SetServiceRequest{To: "n2"})
	wantError(t, err, codes.InvalidArgument, "none of the nodes")
	v, err := ask(&api.SetServiceRequest{Forget: true})
	if err != nil || v.Record.Service != nil {
		t.Errorf("%v, %v", v, err)
	}

	// Its node dies, and another one shall run it.
	if _, err := ask(&api.SetServiceRequest{Nodes: []string{"n3", "n1", "n2"}}); err != nil {
		t.Fatal(err)
	}
	c.kill("n3")
	known := uint64(0)
	for {
		answer, err := via.volumes.Follow(brief(t), &api.FollowRequest{Name: "v", Known: known})
		if err != nil {
			t.Fatal(err)
		}
		known = answer.Record.Number
		if answer.Record.Service.Wanted == "n1" {
			break
		}
	}
	h, err := via.History(brief(t), &api.HistoryRequest{Volume: "v"})
	if err != nil || !slices.ContainsFunc(h.Entries, func(e *metapb.HistoryEntry) bool { return e.What == "service n3 -> n1" }) {
		t.Errorf("%v, %v", h, err)
	}
}

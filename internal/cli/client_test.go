package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"blkd/internal/api"
	"blkd/internal/pki"
	"blkd/metadata/metapb"
)

// nobody is an address at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestNextNode: a node that is dead or has no quorum is passed over, and a change
// that was asked twice carries the same request id, who asks, and why.
func TestNextNode(t *testing.T) {
	lost, good := newFake(t, nil), newFake(t, nil)
	lost.fail(noQuorum())
	good.answer("VolumeService/Resize", exampleRecord())
	list := []string{nobody(t), lost.address, good.address}
	for range 10 { // which of them accepts first is not certain, but depends on the order
		slices.Reverse(list)
		code, out, errs := blkctl("--node", strings.Join(list, ","), "volume", "resize", "pgdata", "1GiB", "--reason", "ticket 1")
		if code != OK || !strings.Contains(out, "pgdata") || errs != "" {
			t.Fatalf("exit code %d, %q, %s", code, out, errs)
		}
	}
	ids := map[string]bool{}
	for _, r := range good.got("VolumeService/Resize") {
		req := r.(*api.ResizeVolumeRequest).Request
		if len(req.Id) != 16 || !strings.Contains(req.By, "@") || req.Reason != "ticket 1" {
			t.Errorf("request %v", req)
		}
		ids[string(req.Id)] = true
	}
	for _, r := range lost.got("VolumeService/Resize") {
		if id := r.(*api.ResizeVolumeRequest).Request.Id; !ids[string(id)] {
			t.Errorf("request %x changed its id when another node was asked", id)
		}
	}
	if len(ids) != 10 || len(lost.got("VolumeService/Resize")) == 0 {
		t.Errorf("%d requests, %d of them asked in vain first", len(ids), len(lost.got("VolumeService/Resize")))
	}

	code, _, errs := blkctl("--node", lost.address+","+nobody(t), "volume", "resize", "pgdata", "1GiB")
	if code != NoQuorum || !strings.Contains(errs, "1 of 3 voters in contact") {
		t.Errorf("without a quorum: exit code %d, %s", code, errs)
	}
	dead := nobody(t)
	code, _, errs = blkctl("--node", dead, "volume", "list")
	if code != Failed || !strings.Contains(errs, "no node answers: "+dead) {
		t.Errorf("without a node: exit code %d, %s", code, errs)
	}
}

// TestFrozenNode: a node that accepts connections and says nothing, as a process
// does that was stopped, is passed over too.
func TestFrozenNode(t *testing.T) {
	frozen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Close() // nobody accepts; the kernel does
	good := newFake(t, nil)
	good.answer("VolumeService/Resize", exampleRecord())
	for range 2 { // one of the two is asked first
		if code, _, errs := blkctl("--node", frozen.Addr().String()+","+good.address, "volume", "resize", "pgdata", "1GiB"); code != OK {
			t.Fatalf("exit code %d, %s", code, errs)
		}
	}
	code, _, errs := blkctl("--node", frozen.Addr().String(), "volume", "list")
	if code != Failed || !strings.Contains(errs, frozen.Addr().String()+" does not answer") {
		t.Errorf("alone: exit code %d, %s", code, errs)
	}
}

func TestPromoteRequests(t *testing.T) {
	f := newFake(t, nil)
	f.answer("NodeService/Status", &api.NodeStatus{Node: "n2", Mode: "cluster"})
	f.answer("VolumeService/Promote", exampleHandover())
	last := func() *api.PromoteRequest {
		all := f.got("VolumeService/Promote")
		return all[len(all)-1].(*api.PromoteRequest)
	}
	for line, want := range map[string]*api.PromoteRequest{
		"promote pgdata":                             {Name: "pgdata"},
		"promote pgdata --to n3 --dry-run":           {Name: "pgdata", To: "n3", DryRun: true},
		"promote pgdata --force --reason fire":       {Name: "pgdata", Force: true, Request: &api.RequestInfo{Reason: "fire"}},
		"promote pgdata --force --dry-run":           {Name: "pgdata", Force: true, DryRun: true},
		"primary pgdata":                             {Name: "pgdata", To: "n2"},
		"secondary pgdata --reason maintenance":      {Name: "pgdata", From: "n2", Request: &api.RequestInfo{Reason: "maintenance"}},
		"promote pgdata --to n1 --reason maintained": {Name: "pgdata", To: "n1", Request: &api.RequestInfo{Reason: "maintained"}},
	} {
		code, out, errs := blkctl(f.on(strings.Fields(line)...)...)
		if code != OK || !strings.HasPrefix(out, "pgdata: hand-over from n1 to n2, generation 17 -> 18, in 12 ms\n") {
			t.Errorf("%s: exit code %d, %s%s", line, code, out, errs)
		}
		got := last()
		if got.Name != want.Name || got.To != want.To || got.From != want.From || got.DryRun != want.DryRun || got.Force != want.Force ||
			got.Request.Reason != want.Request.GetReason() || len(got.Request.Id) != 16 {
			t.Errorf("%s: asked for %v", line, got)
		}
	}
	asked := len(f.got("VolumeService/Promote"))
	if code, _, errs := blkctl(f.on("promote", "pgdata", "--force")...); code != Usage || !strings.Contains(errs, "--reason TEXT") {
		t.Errorf("--force without a reason: exit code %d, %s", code, errs)
	}
	if code, _, errs := blkctl("--node", f.address, "primary", "pgdata"); code != Usage || !strings.Contains(errs, "blkctl promote pgdata --to NODE") {
		t.Errorf("primary of another machine: exit code %d, %s", code, errs)
	}
	if len(f.got("VolumeService/Promote")) != asked {
		t.Error("what was refused here was asked for nevertheless")
	}
	f.answer("VolumeService/Promote", exampleRefused())
	if code, out, errs := blkctl(f.on("promote", "pgdata", "--dry-run")...); code != Refused || !strings.Contains(out, "would be refused") || errs != "" {
		t.Errorf("a dry run of what would be refused: exit code %d, %s%s", code, out, errs)
	}
}

func TestReplicaRequests(t *testing.T) {
	f := newFake(t, nil)
	for _, m := range []string{"AddReplica", "RemoveReplica", "MoveReplica", "InvalidateReplica"} {
		f.answer("VolumeService/"+m, exampleServed())
	}
	for _, line := range []string{"add pgdata", "add pgdata n4 --dry-run", "remove pgdata n3 --force", "move pgdata n3", "move pgdata n3 n4", "invalidate pgdata n3"} {
		if code, _, errs := blkctl(f.on(append([]string{"replica"}, strings.Fields(line)...)...)...); code != OK {
			t.Errorf("%s: exit code %d, %s", line, code, errs)
		}
	}
	add, move := f.got("VolumeService/AddReplica"), f.got("VolumeService/MoveReplica")
	if a := add[0].(*api.AddReplicaRequest); a.Node != "" || a.DryRun {
		t.Errorf("add: %v", a)
	}
	if a := add[1].(*api.AddReplicaRequest); a.Node != "n4" || !a.DryRun {
		t.Errorf("add: %v", a)
	}
	if m := move[0].(*api.MoveReplicaRequest); m.From != "n3" || m.To != "" {
		t.Errorf("move: %v", m)
	}
	if m := move[1].(*api.MoveReplicaRequest); m.From != "n3" || m.To != "n4" {
		t.Errorf("move: %v", m)
	}
	if r := f.got("VolumeService/RemoveReplica")[0].(*api.RemoveReplicaRequest); r.Node != "n3" || !r.Force || len(r.Request.Id) != 16 {
		t.Errorf("remove: %v", r)
	}
}

// TestWait goes on while no node has a quorum, and ends with its own code when
// the time is over.
func TestWait(t *testing.T) {
	f := newFake(t, nil)
	tries := 0
	f.handle("ClusterService/Wait", func(any) (any, error) {
		if tries++; tries < 4 {
			return nil, noQuorum()
		}
		return &api.WaitResponse{Volume: exampleServed()}, nil
	})
	if code, out, errs := blkctl(f.on("wait", "pgdata", "--for", "uptodate")...); code != OK || out != "pgdata: uptodate\n" || tries != 4 {
		t.Errorf("exit code %d after %d tries, %s%s", code, tries, out, errs)
	}
	req := f.got("ClusterService/Wait")[0].(*api.WaitRequest)
	if req.Volume != "pgdata" || req.Condition != api.WaitCondition_WAIT_CONDITION_UP_TO_DATE {
		t.Errorf("asked for %v", req)
	}

	f.handle("ClusterService/Wait", func(any) (any, error) { return nil, noQuorum() })
	code, _, errs := blkctl(f.on("wait", "cluster", "--for", "quorum", "--timeout", "300ms")...)
	if code != TimedOut || !strings.Contains(errs, `cluster: not "quorum" within 300ms; at last: no quorum: 1 of 3 voters`) || !strings.Contains(errs, "next: blkctl why") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	f.handle("ClusterService/Wait", func(any) (any, error) { return nil, api.Errorf(codes.NotFound, "n1", "", "there is no volume v") })
	if code, _, _ := blkctl(f.on("wait", "v", "--for", "primary")...); code != NotFound {
		t.Errorf("of what does not exist: exit code %d", code)
	}
	if code, _, errs := blkctl(f.on("wait", "v", "--for", "rain")...); code != Usage || !strings.Contains(errs, "quorum, exists, deleted, primary, uptodate") {
		t.Errorf("for rain: exit code %d, %s", code, errs)
	}
}

// lines are what a command prints, as it prints it.
type lineReader struct {
	*json.Decoder
	exit chan Code
	errs *bytes.Buffer
}

// follow runs a command that goes on until stop is called.
func follow(t *testing.T, args ...string) (l lineReader, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	l = lineReader{json.NewDecoder(out), make(chan Code, 1), new(bytes.Buffer)}
	go func() {
		l.exit <- Run(ctx, args, Streams{In: strings.NewReader(""), Out: in, Err: l.errs})
		in.Close()
	}()
	return l, func() {
		t.Helper()
		cancel()
		go io.Copy(io.Discard, out) //nolint:errcheck // so that the command can end
		if code := <-l.exit; code != Interrupted {
			t.Errorf("exit code %d, %s", code, l.errs)
		}
	}
}

// TestEventsFollow: a stream that breaks is resumed after the last event that was
// printed, on another node if need be, and nothing is printed twice.
func TestEventsFollow(t *testing.T) {
	f := newFake(t, nil)
	change := func(seq uint64) *api.Event {
		return &api.Event{Item: &api.Event_Change{Change: &metapb.Event{Seq: seq, Time: before(0), Type: "node", Action: "change", Name: "n1"}}}
	}
	f.events = func(req *api.EventsRequest, s api.ClusterService_EventsServer) error {
		send := func(events ...*api.Event) {
			for _, e := range events {
				s.Send(e) //nolint:errcheck // blkctl may have gone
			}
		}
		switch {
		case !req.Resume:
			send(&api.Event{Item: &api.Event_Node{Node: exampleNode(1, api.NodeRole_NODE_ROLE_LEADER)}},
				&api.Event{Item: &api.Event_Sync{Sync: &api.Sync{Seq: 10}}}, change(11))
			return noQuorum()
		case req.After == 11:
			send(change(12), change(13))
			return api.Errorf(codes.Unavailable, "", "", "node n1 is stopping")
		default:
			send(change(req.After + 1))
			<-s.Context().Done()
			return nil
		}
	}
	lines, stop := follow(t, f.on("events", "--follow", "-o", "json")...)
	var got []string
	for range 6 {
		var e Event
		if err := lines.Decode(&e); err != nil {
			t.Fatal(err, lines.errs)
		}
		word := e.Type
		if e.Action == "change" {
			word = string(rune('a' + e.Seq - 11))
		}
		got = append(got, word)
	}
	stop()
	if strings.Join(got, " ") != "node sync a b c d" {
		t.Errorf("printed %v", got)
	}
	if !strings.Contains(lines.errs.String(), "1 of 3 voters") {
		t.Errorf("it does not tell why the stream broke off: %s", lines.errs)
	}
	f.events = nil
	f.fail(noQuorum())
	if code, _, _ := blkctl(f.on("events", "--follow")...); code != NoQuorum {
		t.Errorf("a stream that cannot begin: exit code %d", code)
	}
}

// TestStatusWatch goes on when a node does not answer for a while.
func TestStatusWatch(t *testing.T) {
	f := newFake(t, nil)
	f.answer("NodeService/Status", &api.NodeStatus{Node: "n2", Mode: modeCluster})
	tries := 0
	f.handle("ClusterService/Status", func(any) (any, error) {
		if tries++; tries == 2 {
			return nil, noQuorum()
		}
		return exampleServing(exampleServed()), nil
	})
	lines, stop := follow(t, f.on("status", "--watch=0.1", "-o", "json")...)
	for i := range 3 {
		var s Status
		if err := lines.Decode(&s); err != nil {
			t.Fatal(err)
		}
		if s.State != "ok" || s.Cluster.Quorum.Leader != "n2" || s.Volumes[0].Runtime.Serving != "n1" {
			t.Errorf("look %d: %+v", i, s)
		}
	}
	stop()
	if !strings.Contains(lines.errs.String(), `"code":5`) {
		t.Errorf("it does not tell that a look failed: %s", lines.errs)
	}
	f.answer("ClusterService/Status", exampleServing(exampleWaiting()))
	if code, out, _ := blkctl(f.on("status", "--check")...); code != Degraded || !strings.Contains(out, "waiting") {
		t.Errorf("status --check: exit code %d, %s", code, out)
	}
	if code, _, _ := blkctl(f.on("cluster", "status", "--check")...); code != Degraded {
		t.Errorf("cluster status --check: exit code %d", code)
	}
}

// TestNodeWithTLS: certificates by directory, by files and by environment; what is
// wrong is said.
func TestNodeWithTLS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	pkiRun(t, dir, "init")
	pkiRun(t, dir, "issue", "node", "n1")
	pkiRun(t, dir, "issue", "admin", "alice")
	files, err := pki.FilesIn(filepath.Join(dir, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.NewReloader(files)
	if err != nil {
		t.Fatal(err)
	}
	f := newFake(t, certs.ServerCredentials(nil))
	f.answer("VolumeService/List", &api.ListVolumesResponse{Volumes: []*api.Volume{exampleServed()}})
	list := func(args ...string) (Code, string, string) {
		return blkctl(append(args, "--node", f.address, "volume", "list", "-o", "name")...)
	}
	alice := filepath.Join(dir, "alice")
	for _, args := range [][]string{{"--tls-dir", alice},
		{"--tls-cert", alice + "/alice.crt", "--tls-key", alice + "/alice.key", "--tls-ca", alice + "/ca.crt"}} {
		if code, out, errs := list(args...); code != OK || out != "pgdata\n" {
			t.Errorf("%v: exit code %d, %s%s", args, code, out, errs)
		}
	}
	plain := "blkctl: " + f.address + " does not answer as a node of a cluster: the peer speaks TLS, this side plain text\n  next: give this side a certificate, blkctl pki issue\n"
	if code, _, errs := list(); code != Failed || errs != plain {
		t.Errorf("plain text to TLS: exit code %d, %s", code, errs)
	}
	if code, _, errs := list("--tls-cert", alice+"/alice.crt"); code != Usage || !strings.Contains(errs, "go together") {
		t.Errorf("one of three files: exit code %d, %s", code, errs)
	}
	other := filepath.Join(t.TempDir(), "other")
	pkiRun(t, other, "init")
	pkiRun(t, other, "issue", "admin", "mallory")
	if code, _, errs := list("--tls-dir", filepath.Join(other, "mallory")); code != Failed ||
		!strings.Contains(errs, "does not answer as a node of a cluster: the certificate of node n1 is signed by CA blkd/") || !strings.Contains(errs, "\n  next: ") {
		t.Errorf("a certificate of another cluster: exit code %d, %s", code, errs)
	}
	t.Setenv("BLKCTL_TLS_DIR", alice)
	t.Setenv("BLKCTL_NODE", f.address)
	if code, out, errs := blkctl("volume", "list", "-o", "name"); code != OK || out != "pgdata\n" {
		t.Errorf("by environment: exit code %d, %s%s", code, out, errs)
	}
	if code, _, errs := blkctl("--node", "198.51.100.1:7400", "--tls-dir", "", "volume", "list"); code != Usage || !strings.Contains(errs, "is another machine") {
		t.Errorf("another machine without certificates: exit code %d, %s", code, errs)
	}
}

// TestTwoOfThreeDead: the answer of the one that lives counts, and it is asked once.
func TestTwoOfThreeDead(t *testing.T) {
	f := newFake(t, nil)
	f.fail(noQuorum())
	code, _, errs := blkctl("--node", nobody(t)+","+f.address+","+nobody(t), "volume", "create", "v", "1GiB")
	if code != NoQuorum || !strings.Contains(errs, "2 needed") || len(f.got("VolumeService/Create")) != 1 {
		t.Errorf("exit code %d after %d tries, %s", code, len(f.got("VolumeService/Create")), errs)
	}
}

func TestPolicyRequests(t *testing.T) {
	f := newFake(t, nil)
	f.answer("VolumeService/Change", exampleServed())
	f.answer("VolumeService/Create", exampleServed())
	change := func(line string) *api.ChangeVolumeRequest {
		t.Helper()
		if code, _, errs := blkctl(f.on(append([]string{"volume", "change", "v"}, strings.Fields(line)...)...)...); code != OK {
			t.Fatalf("%s: exit code %d, %s", line, code, errs)
		}
		all := f.got("VolumeService/Change")
		return all[len(all)-1].(*api.ChangeVolumeRequest)
	}
	if r := change("--ack majority --min-copies 2"); r.Ack != metapb.AckPolicy_ACK_POLICY_MAJORITY || r.MinCopies != 2 || r.Shared != nil || r.ManualFailover != nil {
		t.Errorf("policies: %v", r)
	}
	if r := change("--failover manual --shared=false --durability write"); !r.GetManualFailover() || r.Shared == nil || *r.Shared || r.Durability != metapb.Durability_DURABILITY_WRITE || r.Ack != 0 {
		t.Errorf("policies: %v", r)
	}
	if r := change("--failover automatic"); r.ManualFailover == nil || *r.ManualFailover {
		t.Errorf("policies: %v", r)
	}
	for line, text := range map[string]string{"volume change v": "nothing to change", "volume change v --failover never": "write automatic or manual",
		"volume create v 1GiB --failover never": "write automatic or manual", "volume change v --ack some": "write all or majority"} {
		if code, _, errs := blkctl(f.on(strings.Fields(line)...)...); code != Usage || !strings.Contains(errs, text) {
			t.Errorf("%s: exit code %d, %s", line, code, errs)
		}
	}
	if code, _, errs := blkctl(f.on("volume", "create", "v", "1GiB", "--failover", "manual")...); code != OK || !f.got("VolumeService/Create")[0].(*api.CreateVolumeRequest).ManualFailover {
		t.Errorf("create: exit code %d, %s", code, errs)
	}
}

// TestCompletion offers names that a node knows, and nothing when none answers.
func TestCompletion(t *testing.T) {
	f := newFake(t, nil)
	f.answer("VolumeService/List", &api.ListVolumesResponse{Volumes: []*api.Volume{exampleServed()}})
	f.answer("ClusterService/ListNodes", &api.ListNodesResponse{Nodes: []*api.ClusterNode{exampleNode(1, api.NodeRole_NODE_ROLE_LEADER)}})
	for line, want := range map[string]string{
		"promote": "pgdata", "promote pgdata --to": "n1", "replica remove": "pgdata", "replica remove pgdata": "n1", "node drain": "n1",
		"wait": "cluster pgdata", "wait pgdata --for": "quorum exists deleted primary uptodate", "why": "pgdata n1",
		"volume change pgdata --failover": "automatic manual", "pki issue": "node admin client",
	} {
		args := append(append([]string{"__complete"}, f.on(strings.Fields(line)...)...), "")
		code, out, _ := blkctl(args...)
		lines := strings.Fields(out)
		if code != OK || len(lines) == 0 || strings.Join(lines[:len(lines)-1], " ") != want { // the last line is a directive
			t.Errorf("%s: exit code %d, %q, want %s", line, code, lines, want)
		}
	}
	f.fail(noQuorum())
	f.handle("VolumeService/List", nil)
	if _, out, _ := blkctl(append(append([]string{"__complete"}, f.on("wait")...), "")...); !strings.HasPrefix(out, "cluster\n") {
		t.Errorf("wait without a quorum: %q", out)
	}
}

package node

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/env"
	"blkd/metadata/metapb"
)

func TestClusterIsFound(t *testing.T) {
	c := newTrio(t, three, nil)
	begin := time.Now()
	c.startAll()
	t.Logf("three nodes are members after %v", time.Since(begin).Round(time.Millisecond))
	var ids []uint64
	for _, name := range three {
		var st *api.ClusterStatus
		eventually(t, name+" sees all three", func() bool {
			var err error
			st, err = c.socket(name).Status(brief(t), &api.ClusterStatusRequest{})
			return err == nil && !st.Stale && st.Quorum.Have == 3
		})
		if q := st.Quorum; st.Node != name || q.Voters != 3 || q.Need != 2 || len(q.Missing) != 0 || q.Leader == "" ||
			len(st.Nodes) != 3 || len(st.Volumes) != 0 || len(st.Problems) != 0 || st.Name != "blkd" || st.Created == nil {
			t.Errorf("%s: %v", name, st)
		}
		ids = append(ids, st.Id)
		h, err := c.address(name).health.Check(brief(t), &grpc_health_v1.HealthCheckRequest{})
		if err != nil || h.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("%s: health %v, %v", name, h, err)
		}
		node, err := c.address(name).node.Status(brief(t), &api.StatusRequest{})
		if err != nil || node.Node != name || node.Mode != "cluster" || node.DiskSizeBytes == 0 || node.DataDir != c.cfgs[name].DataDir {
			t.Errorf("%s: %v, %v", name, node, err)
		}
		if v, err := c.address(name).node.Version(brief(t), &api.VersionRequest{}); err != nil || v.Version == "" {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
	if ids[0] == 0 || ids[0] != ids[1] || ids[0] != ids[2] {
		t.Errorf("cluster ids %x", ids)
	}
}

func TestClusterVolumes(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	ask := func(i int) api.VolumeServiceClient { return c.address(three[i%3]).volumes } // any node will do

	dry, err := ask(0).Create(brief(t), &api.CreateVolumeRequest{Name: "demo", SizeBytes: 1 << 30, DryRun: true})
	if err != nil || dry.Plan == nil || len(dry.Record.Members) != 2 || dry.Record.Id != 0 {
		t.Fatalf("%v, %v", dry, err)
	}
	info := &api.RequestInfo{Id: []byte("0123456789abcdef"), By: "root@db1", Reason: "ticket 4711"}
	create := &api.CreateVolumeRequest{Name: "demo", SizeBytes: 1 << 30, Request: info}
	v, err := ask(0).Create(brief(t), create)
	if err != nil || v.State != api.VolumeState_VOLUME_STATE_RECORDED || v.Record.Generation != 1 || v.Record.Primary == "" || len(v.Plan.Reasons) == 0 {
		t.Fatalf("%v, %v", v, err)
	}
	if again, err := ask(1).Create(brief(t), create); err != nil || again.Record.Lineage != v.Record.Lineage {
		t.Errorf("the same request on another node: %v, %v", again, err)
	}
	_, err = ask(2).Create(brief(t), &api.CreateVolumeRequest{Name: "demo", SizeBytes: 1 << 30})
	wantError(t, err, codes.AlreadyExists, "there is a volume demo already")
	_, err = ask(2).Create(brief(t), &api.CreateVolumeRequest{Name: "odd", SizeBytes: 12345})
	wantError(t, err, codes.InvalidArgument, "12345")
	_, err = ask(2).Create(brief(t), &api.CreateVolumeRequest{Name: "x", SizeBytes: 1 << 30, Request: &api.RequestInfo{Id: []byte("short")}})
	wantError(t, err, codes.InvalidArgument, "16 bytes, not 5")

	_, err = ask(1).Resize(brief(t), &api.ResizeVolumeRequest{Name: "demo", SizeBytes: 1 << 29})
	wantError(t, err, codes.FailedPrecondition, "cannot be made smaller")
	if v, err := ask(0).Show(brief(t), &api.ShowVolumeRequest{Name: "demo"}); err != nil || v.SizeBytes != 1<<30 {
		t.Errorf("%v, %v", v, err)
	}
	if all, err := ask(1).List(brief(t), &api.ListVolumesRequest{}); err != nil || len(all.Volumes) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	_, err = ask(2).Show(brief(t), &api.ShowVolumeRequest{Name: "no"})
	wantError(t, err, codes.NotFound, `no volume "no"`)

	one, err := c.socket("n2").Status(brief(t), &api.ClusterStatusRequest{Volume: "demo"})
	if err != nil || len(one.Volumes) != 1 || len(one.Nodes) != 0 {
		t.Errorf("%v, %v", one, err)
	}
	_, err = c.socket("n2").Status(brief(t), &api.ClusterStatusRequest{Volume: "no"})
	wantError(t, err, codes.NotFound, `no volume "no"`)

	if _, err := ask(0).Delete(brief(t), &api.DeleteVolumeRequest{Name: "demo"}); err != nil {
		t.Error(err)
	}
	h, err := c.address("n3").History(brief(t), &api.HistoryRequest{Volume: "demo"})
	if err != nil || !h.Deleted || len(h.Entries) < 2 || h.Entries[0].By != "root@db1" || h.Entries[0].Reason != "ticket 4711" || h.Entries[0].Node != "n1" {
		t.Errorf("%v, %v", h, err)
	}
	_, err = c.address("n3").History(brief(t), &api.HistoryRequest{Volume: "no"})
	wantError(t, err, codes.NotFound, `no volume "no"`)
}

// wantError wants an error of a service that says what is wrong, on which node.
func wantError(t *testing.T, err error, code codes.Code, say string) {
	t.Helper()
	x := api.Explain(err)
	if err == nil || x.Code != code || x.Node == "" || !strings.Contains(x.Text, say) {
		t.Errorf("%+v; want %v and %q", x, code, say)
	}
}

func TestClusterNodes(t *testing.T) {
	c := newTrio(t, three, func(cfg *Config) { cfg.Cluster.Labels = []string{"rack=r" + cfg.NodeName[1:]} })
	c.startAll()
	ask := c.address("n2")
	nodes, err := ask.ListNodes(brief(t), &api.ListNodesRequest{})
	if err != nil || len(nodes.Nodes) != 3 {
		t.Fatalf("%v, %v", nodes, err)
	}
	leaders := 0
	for i, n := range nodes.Nodes {
		r := n.Record
		if r.Name != three[i] || r.Labels["rack"] != "r"+r.Name[1:] || r.Incarnation == 0 || r.CapacityBytes == 0 || len(r.Nbd) != 1 || !strings.HasPrefix(r.Nbd[0], "unix:/") {
			t.Errorf("%v", n)
		}
		if n.Role == api.NodeRole_NODE_ROLE_LEADER {
			leaders++
		}
	}
	if leaders != 1 {
		t.Errorf("%d leaders: %v", leaders, nodes)
	}
	if _, err := ask.volumes.Create(brief(t), &api.CreateVolumeRequest{Name: "demo", SizeBytes: 1 << 30, Nodes: []string{"n1", "n3"}}); err != nil {
		t.Fatal(err)
	}

	n3, err := ask.DrainNode(brief(t), &api.DrainNodeRequest{Node: &metapb.DrainNode{Name: "n3"}})
	if err != nil || !n3.Record.Drained || n3.Members != 1 || !hasProblem(n3.Problems, nodeDraining) {
		t.Errorf("%v, %v", n3, err)
	}
	n3, err = ask.DrainNode(brief(t), &api.DrainNodeRequest{Node: &metapb.DrainNode{Name: "n3", Undo: true}})
	if err != nil || n3.Record.Drained || len(n3.Problems) != 0 {
		t.Errorf("%v, %v", n3, err)
	}
	_, err = ask.RemoveNode(brief(t), &api.RemoveNodeRequest{Node: &metapb.RemoveNode{Name: "n3"}})
	wantError(t, err, codes.FailedPrecondition, "n3")
	_, err = ask.ShowNode(brief(t), &api.ShowNodeRequest{Name: "n9"})
	wantError(t, err, codes.NotFound, `no node "n9"`)
	_, err = ask.RemoveNode(brief(t), &api.RemoveNodeRequest{})
	wantError(t, err, codes.NotFound, "")

	// A fourth node is made known, joins, and is forgotten.
	address := c.listen("n4")
	n4, err := ask.AddNode(brief(t), &api.AddNodeRequest{Node: &metapb.AddNode{Name: "n4", Address: address}})
	if err != nil || !hasProblem(n4.Problems, nodeNew) || n4.Role != api.NodeRole_NODE_ROLE_NONE {
		t.Fatalf("%v, %v", n4, err)
	}
	c.configure("n4", c.cfgs["n1"].Cluster.Nodes, func(cfg *Config) { cfg.Cluster.Address = address })
	c.start("n4")
	c.ready("n4")
	eventually(t, "the new node is well", func() bool {
		n4, err := c.socket("n4").ShowNode(brief(t), &api.ShowNodeRequest{Name: "n4"})
		return err == nil && n4.Record.Incarnation != 0 && len(n4.Problems) == 0
	})
	if _, err := ask.RemoveNode(brief(t), &api.RemoveNodeRequest{Node: &metapb.RemoveNode{Name: "n4"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node that was removed knows it", func() bool {
		st, err := c.socket("n4").Status(brief(t), &api.ClusterStatusRequest{})
		return err == nil && st.Stale && hasProblem(st.Problems, notAMember) && strings.Contains(st.Problems[0].Text, "refused")
	})
	_, err = c.socket("n4").ListNodes(brief(t), &api.ListNodesRequest{})
	wantError(t, err, codes.FailedPrecondition, "takes no part in the cluster")
}

// TestReplaceNode: a node that has lost its disk comes back under a new Raft id.
func TestReplaceNode(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	before, err := c.address("n1").ShowNode(brief(t), &api.ShowNodeRequest{Name: "n3"})
	if err != nil {
		t.Fatal(err)
	}
	c.kill("n3")
	if err := os.RemoveAll(c.cfgs["n3"].DataDir); err != nil {
		t.Fatal(err)
	}
	c.start("n3")
	eventually(t, "the blank node says what helps", func() bool {
		st, err := c.socket("n3").Status(brief(t), &api.ClusterStatusRequest{})
		return err == nil && st.Stale && slices.ContainsFunc(st.Problems, func(p *api.Problem) bool {
			return p.Code == notAMember && strings.HasPrefix(p.Advice, "blkctl node replace n3")
		})
	})
	after, err := c.address("n1").ReplaceNode(brief(t), &api.ReplaceNodeRequest{Node: &metapb.ReplaceNode{Name: "n3"}})
	if err != nil || after.Record.Id <= before.Record.Id {
		t.Fatalf("%v, %v", after, err)
	}
	c.ready("n3")
	eventually(t, "it votes again", func() bool {
		n3, err := c.address("n1").ShowNode(brief(t), &api.ShowNodeRequest{Name: "n3"})
		return err == nil && n3.Role == api.NodeRole_NODE_ROLE_VOTER
	})
}

// TestReplacedNodeBeginsWithNothing: a volume whose only copy was on a node that was
// replaced does not come back empty: it waits, and says why.
func TestReplacedNodeBeginsWithNothing(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	c.on(c.address("n1"), "v", "n3")
	client := c.dial("n1", "v")
	if err := blockdev.WriteAt(client, block(1), 0, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	client.Close()
	c.kill("n3")
	if err := os.RemoveAll(c.cfgs["n3"].DataDir); err != nil {
		t.Fatal(err)
	}
	if _, err := c.address("n1").ReplaceNode(brief(t), &api.ReplaceNodeRequest{Node: &metapb.ReplaceNode{Name: "n3"}}); err != nil {
		t.Fatal(err)
	}
	c.start("n3")
	c.ready("n3")
	eventually(t, "the volume says what it lacks", func() bool {
		v, err := c.address("n1").volumes.Show(brief(t), &api.ShowVolumeRequest{Name: "v"})
		if err != nil {
			return false
		}
		if v.Record.Generation > 1 {
			t.Fatalf("it was made anew without its data: %v", v.Record)
		}
		return slices.ContainsFunc(v.Problems, func(p *api.Problem) bool {
			return p.Code == recovering && strings.Contains(p.Text, "none of its logs is whole")
		})
	})
}

// TestVotersGoAndCome: with one of three nodes down everything works; with two,
// changes are refused with a reason, reads of the status are not; when one comes
// back it all works again, by itself.
func TestVotersGoAndCome(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	leader := c.nodes["n1"].member.cluster.Status().Leader
	rest := slices.DeleteFunc(slices.Clone(three), func(name string) bool { return name == leader })
	last, middle := rest[0], rest[1]
	create := func(name string) error {
		_, err := c.socket(last).volumes.Create(brief(t), &api.CreateVolumeRequest{Name: name, SizeBytes: 1 << 30, Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: 1}})
		return err
	}
	c.kill(leader)
	begin := time.Now()
	if err := create("one"); err != nil {
		t.Fatal(err)
	}
	t.Logf("%v after the leader is gone, a volume can be created", time.Since(begin).Round(time.Millisecond))
	eventually(t, "the status names the missing voter", func() bool {
		st, err := c.socket(last).Status(brief(t), &api.ClusterStatusRequest{})
		return err == nil && !st.Stale && hasProblem(st.Problems, voterMissing) && slices.Equal(st.Quorum.Missing, []string{leader})
	})
	eventually(t, "the quorum records that it is down", func() bool {
		n, err := c.socket(last).ShowNode(brief(t), &api.ShowNodeRequest{Name: leader})
		return err == nil && hasProblem(n.Problems, nodeDown)
	})

	c.kill(middle)
	begin = time.Now()
	err := create("two")
	t.Logf("without two of three, a change is refused after %v", time.Since(begin).Round(time.Millisecond))
	wantError(t, err, codes.Unavailable, "1 of 3 voters in contact, 2 needed; missing n")
	if x := api.Explain(err); !strings.Contains(x.Text, leader+": not heard for") || !strings.Contains(x.Text, middle+": not heard for") || !strings.HasPrefix(x.Advice, "start blkd on ") {
		t.Errorf("%+v", x)
	}
	st, err := c.socket(last).Status(brief(t), &api.ClusterStatusRequest{})
	if err != nil || !st.Stale || !hasProblem(st.Problems, noQuorum) || st.Quorum.Have != 1 || len(st.Volumes) != 1 || len(st.Nodes) != 3 {
		t.Errorf("%v, %v", st, err)
	}
	eventually(t, "the node says that it does not serve", func() bool {
		h, err := c.socket(last).health.Check(brief(t), &grpc_health_v1.HealthCheckRequest{})
		return err == nil && h.Status == grpc_health_v1.HealthCheckResponse_NOT_SERVING
	})
	waited := make(chan error, 1)
	go func() {
		_, err := c.socket(last).Wait(brief(t), &api.WaitRequest{Condition: api.WaitCondition_WAIT_CONDITION_QUORUM})
		waited <- err
	}()

	c.start(middle)
	if err := <-waited; err != nil {
		t.Error("wait for the quorum:", err)
	}
	if err := create("three"); err != nil {
		t.Error(err)
	}
}

// TestWitness: two data nodes and a witness, which holds nothing.
func TestWitness(t *testing.T) {
	c := newTrio(t, []string{"n1", "n2", "w1"}, func(cfg *Config) { cfg.Cluster.Witness = cfg.NodeName == "w1" })
	c.startAll()
	if c.nodes["w1"].nbd != nil {
		t.Error("the witness serves NBD")
	}
	v, err := c.socket("w1").volumes.Create(brief(t), &api.CreateVolumeRequest{Name: "demo", SizeBytes: 1 << 30})
	if err != nil || len(v.Record.Members) != 2 || v.Record.Members[0].Node != "n1" || v.Record.Members[1].Node != "n2" {
		t.Fatalf("%v, %v", v, err)
	}
	w1, err := c.socket("n1").ShowNode(brief(t), &api.ShowNodeRequest{Name: "w1"})
	if err != nil || !w1.Record.Witness || len(w1.Record.Nbd) != 0 || w1.Members != 0 {
		t.Errorf("%v, %v", w1, err)
	}
	_, err = c.socket("n1").volumes.Create(brief(t), &api.CreateVolumeRequest{Name: "wide", SizeBytes: 1 << 30, Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: 3}})
	wantError(t, err, codes.FailedPrecondition, "w1")
	c.kill("n2")
	if _, err := c.socket("n1").volumes.Delete(brief(t), &api.DeleteVolumeRequest{Name: "demo"}); err != nil {
		t.Error("with one data node and the witness:", err)
	}
}

func TestTransferLeadership(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	leader := c.nodes["n1"].member.cluster.Status().Leader
	for _, to := range []string{"n1", "n2", "n3", "n3"} {
		r, err := c.address("n2").TransferLeadership(brief(t), &api.TransferLeadershipRequest{To: to})
		if err != nil || r.Leader != to || r.From != leader {
			t.Fatalf("from %s to %s: %v, %v", leader, to, r, err)
		}
		leader = to
	}
	r, err := c.address("n2").TransferLeadership(brief(t), &api.TransferLeadershipRequest{})
	if err != nil || r.Leader == "n3" || r.From != "n3" {
		t.Errorf("%v, %v", r, err)
	}
	_, err = c.address("n2").TransferLeadership(brief(t), &api.TransferLeadershipRequest{To: "n9"})
	wantError(t, err, codes.NotFound, `no node "n9"`)
}

// TestSnapshot saves the metadata of a cluster and founds another one from it.
func TestSnapshot(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	old, err := c.socket("n1").volumes.Create(brief(t), &api.CreateVolumeRequest{Name: "demo", SizeBytes: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.socket("n2").SaveSnapshot(brief(t), &api.SaveSnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var file []byte
	for {
		part, err := stream.Recv()
		if err != nil {
			break
		}
		file = append(file, part.Data...)
	}
	b, err := api.DecodeBackup(file)
	if err != nil || len(b.State.Nodes) != 3 || len(b.State.Volumes) != 1 || b.Index == 0 || b.Time == 0 {
		t.Fatalf("%v, %v", b, err)
	}

	restored := newTrio(t, three, nil)
	for _, name := range three {
		dir := restored.cfgs[name].DataDir
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, api.StagedBackup), file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	restored.startAll()
	st, err := restored.socket("n3").Status(brief(t), &api.ClusterStatusRequest{})
	if err != nil || st.Id == b.State.Cluster || len(st.Volumes) != 1 {
		t.Fatalf("%v, %v", st, err)
	}
	r := st.Volumes[0].Record
	if r.Lineage == old.Record.Lineage || r.Generation < old.Record.Generation+1000000 || r.Primary != "" || !hasProblem(st.Volumes[0].Problems, noPrimary) {
		t.Errorf("%v", r)
	}
}

// TestNotAlone: the data of a cluster is never served without asking its quorum.
func TestNotAlone(t *testing.T) {
	c := newTrio(t, []string{"n1"}, nil)
	c.startAll()
	c.kill("n1")
	cfg := testConfig(t)
	cfg.DataDir = c.cfgs["n1"].DataDir
	_, err := Start(cfg, World{FS: env.OS{}, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "belongs to a node of a cluster") {
		t.Errorf("%v", err)
	}
}

func TestClusterPages(t *testing.T) {
	c := newTrio(t, []string{"n1"}, func(cfg *Config) { cfg.Metrics.Listen = "127.0.0.1:0" })
	c.startAll()
	_, metrics := get(t, c.nodes["n1"], "/metrics")
	for _, line := range []string{`blk_quorum_phase{phase="member"} 1`, `blk_quorum_phase{phase="refused"} 0`, "blk_quorum_voters 1", "blk_quorum_is_leader 1", "blk_quorum_voters_needed 1"} {
		if !strings.Contains(metrics, "\n"+line+"\n") {
			t.Errorf("no %s in\n%s", line, metrics)
		}
	}
	code, health := get(t, c.nodes["n1"], "/health")
	if code != 200 || !strings.Contains(health, "n1 is the only voter") {
		t.Errorf("%d %s", code, health)
	}
	st, err := c.socket("n1").Status(brief(t), &api.ClusterStatusRequest{})
	if err != nil || !hasProblem(st.Problems, noSpareVoter) {
		t.Errorf("%v, %v", st, err)
	}
}

// TestGreetingOfAMember: people are told what runs and what to do next.
func TestGreetingOfAMember(t *testing.T) {
	c := newTrio(t, []string{"n1"}, nil)
	c.startAll()
	var out syncBuffer
	c.nodes["n1"].greet(&out)
	c.nodes["n1"].announce(&out)
	for _, line := range []string{"node n1 of a cluster, at 127.0.0.1:", "n1 is a member of cluster ", "1 of 1 voters, leader n1", fmt.Sprintf("try: blkctl --data-dir %s status\n", c.cfgs["n1"].DataDir)} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("%q lacks %q", out.String(), line)
		}
	}
}

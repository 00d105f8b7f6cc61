package node

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// on makes a mirror on nodes, the first of which is primary, and waits until it is
// served and level.
func (c *trio) on(via services, name string, nodes ...string) *api.Volume {
	c.t.Helper()
	_, err := via.volumes.Create(brief(c.t), &api.CreateVolumeRequest{Name: name, SizeBytes: 16 << 20, Nodes: nodes})
	if err != nil {
		c.t.Fatal(err)
	}
	c.wait(via, name, api.WaitCondition_WAIT_CONDITION_PRIMARY)
	return c.wait(via, name, api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
}

// members are the nodes of a volume's replicas.
func members(v *api.Volume) (nodes []string) {
	for _, m := range v.GetRecord().GetMembers() {
		nodes = append(nodes, m.Node)
	}
	return nodes
}

// store is where a node keeps its replica of a volume.
func (c *trio) store(node string, v *api.Volume) string {
	return filepath.Join(c.cfgs[node].DataDir, volumesDir, fmt.Sprintf("%s.%d", v.Record.Name, v.Record.Id), "store")
}

func (c *trio) hasStore(node string, v *api.Volume) bool {
	_, err := os.Stat(c.store(node, v))
	return err == nil
}

func TestReplicasComeAndGo(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n2")
	c.on(via, "v", "n1", "n2")
	client := c.dial("n3", "v")
	if err := blockdev.WriteAt(client, block(1), 8192, 0); err != nil {
		t.Fatal(err)
	}

	dry, err := via.volumes.AddReplica(brief(t), &api.AddReplicaRequest{Name: "v", DryRun: true})
	if err != nil || len(dry.Plan.GetMembers()) != 3 || dry.Plan.Members[2].Node != "n3" || len(members(dry)) != 2 {
		t.Fatalf("dry run: %v, %v", dry, err)
	}
	id := []byte("0123456789abcdef")
	add := &api.AddReplicaRequest{Name: "v", Request: &api.RequestInfo{Id: id, By: "op", Reason: "more"}}
	v, err := via.volumes.AddReplica(brief(t), add)
	if err != nil || len(members(v)) != 3 || v.Record.Layout.Copies != 3 {
		t.Fatalf("add: %v, %v", v, err)
	}
	if again, err := c.address("n1").volumes.AddReplica(brief(t), add); err != nil || again.Record.Number != v.Record.Number {
		t.Errorf("the same request again: %v, %v", again, err)
	}
	_, err = via.volumes.AddReplica(brief(t), &api.AddReplicaRequest{Name: "v", Node: "n3"})
	wantError(t, err, codes.AlreadyExists, "n3 has a replica")
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)

	// What n3 was given it can serve.
	if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n3"}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, client, 8192, 1)
	_, err = via.volumes.RemoveReplica(brief(t), &api.RemoveReplicaRequest{Name: "v", Node: "n3"})
	wantError(t, err, codes.FailedPrecondition, "is the primary")
	_, err = via.volumes.RemoveReplica(brief(t), &api.RemoveReplicaRequest{Name: "v", Node: "n9"})
	wantError(t, err, codes.FailedPrecondition, "n9 has no replica")

	remove := &api.RemoveReplicaRequest{Name: "v", Node: "n1", Request: &api.RequestInfo{By: "op", Reason: "less"}}
	if v, err = via.volumes.RemoveReplica(brief(t), remove); err != nil {
		t.Fatal(err)
	}
	if again, err := c.address("n3").volumes.RemoveReplica(brief(t), remove); err != nil || again.Record.Number != v.Record.Number {
		t.Errorf("the same request again: %v, %v", again, err)
	}
	if got := members(v); !slices.Equal(got, []string{"n2", "n3"}) || v.Record.Layout.Copies != 2 {
		t.Errorf("after the removal: %v of %v", got, v.Record.Layout)
	}
	eventually(t, "the data is gone", func() bool { return !c.hasStore("n1", v) })
	h, err := via.History(brief(t), &api.HistoryRequest{Volume: "v"})
	if err != nil || !slices.ContainsFunc(h.Entries, func(e *metapb.HistoryEntry) bool { return strings.Contains(e.Reason, "removed by op: less") }) {
		t.Errorf("%v, %v", h, err)
	}
	// The same run of n1 gets another replica, under the promise of the last.
	if _, err = via.volumes.AddReplica(brief(t), &api.AddReplicaRequest{Name: "v", Node: "n1"}); err != nil {
		t.Fatal(err)
	}
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	mustHold(t, client, 8192, 1)
}

func TestReplicaMoves(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	v := c.on(via, "v", "n1", "n2")
	client := c.dial("n2", "v")
	version := 0
	for _, from := range []string{"n2", "n1"} { // the second is the primary
		version++
		if err := blockdev.WriteAt(client, block(version), 8192, 0); err != nil {
			t.Fatal(err)
		}
		v, err := via.volumes.MoveReplica(brief(t), &api.MoveReplicaRequest{Name: "v", From: from})
		if err != nil || len(members(v)) != 3 || v.Record.Layout.Copies != 2 {
			t.Fatalf("move from %s: %v, %v", from, v, err)
		}
		eventually(t, "it has moved from "+from, func() bool {
			v, err := via.volumes.Show(brief(t), &api.ShowVolumeRequest{Name: "v"})
			return err == nil && len(members(v)) == 2 && !slices.Contains(members(v), from)
		})
		mustHold(t, client, 8192, version)
	}
	eventually(t, "the data is gone", func() bool { return !c.hasStore("n1", v) })
	_, err := via.volumes.MoveReplica(brief(t), &api.MoveReplicaRequest{Name: "v", From: "n1"})
	wantError(t, err, codes.FailedPrecondition, "n1 has no replica")
}

func TestInvalidatedReplicaIsCopied(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n2")
	c.on(via, "v", "n1", "n2")
	client := c.dial("n1", "v")
	if err := blockdev.WriteAt(client, block(1), 8192, 0); err != nil {
		t.Fatal(err)
	}
	v, err := via.volumes.InvalidateReplica(brief(t), &api.InvalidateReplicaRequest{Name: "v", Node: "n2"})
	if err != nil {
		t.Fatal(err)
	}
	if m := v.Record.Members[1]; len(v.Record.Members) != 2 || m.Node != "n2" {
		t.Errorf("%v", v.Record.Members)
	}
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	if log := c.logs["n1"].String(); !strings.Contains(log, "quorum made a change") || !strings.Contains(log, "declared worthless") {
		t.Error("n1 tells of no such change")
	}
	if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n2"}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, client, 8192, 1)
}

// TestRemovedWhileDown: a replica that is taken away from a node that is down is
// destroyed when that returns; min-copies and the last copy are kept.
func TestRemovedWhileDown(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	c.on(via, "v", "n1", "n2", "n3")
	c.kill("n3")
	eventually(t, "n3 is down", func() bool {
		n, err := via.ShowNode(brief(t), &api.ShowNodeRequest{Name: "n3"})
		return err == nil && hasProblem(n.Problems, nodeDown)
	})
	_, err := via.volumes.RemoveReplica(brief(t), &api.RemoveReplicaRequest{Name: "v", Node: "n3"})
	wantError(t, err, codes.FailedPrecondition, "n3 is down")
	v, err := via.volumes.RemoveReplica(brief(t), &api.RemoveReplicaRequest{Name: "v", Node: "n3", Force: true})
	if err != nil || len(members(v)) != 2 {
		t.Fatalf("%v, %v", v, err)
	}
	if v.Record.Ack != metapb.AckPolicy_ACK_POLICY_ALL || v.Record.Layout.Copies != 2 {
		t.Errorf("%v", v.Record)
	}
	_, err = via.volumes.RemoveReplica(brief(t), &api.RemoveReplicaRequest{Name: "v", Node: "n2"})
	wantError(t, err, codes.FailedPrecondition, "min-copies is 2")
	if v, err = via.volumes.Change(brief(t), &api.ChangeVolumeRequest{Name: "v", MinCopies: 1}); err != nil || v.Record.MinCopies != 1 {
		t.Fatalf("%v, %v", v, err)
	}
	if v, err = c.address("n2").volumes.RemoveReplica(brief(t), &api.RemoveReplicaRequest{Name: "v", Node: "n2"}); err != nil || len(members(v)) != 1 {
		t.Fatalf("%v, %v", v, err)
	}
	if !c.hasStore("n3", v) {
		t.Fatal("n3 is down, and its data is gone")
	}
	delete(c.listeners, "n3")
	c.start("n3")
	c.ready("n3")
	eventually(t, "the data is gone", func() bool { return !c.hasStore("n3", v) && !c.hasStore("n2", v) })
	if !c.hasStore("n1", v) {
		t.Error("the last copy is gone")
	}
}

func TestVolumeChanges(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n3")
	c.on(via, "v", "n1", "n2", "n3")
	shared := true
	v, err := via.volumes.Change(brief(t), &api.ChangeVolumeRequest{Name: "v", Ack: metapb.AckPolicy_ACK_POLICY_ALL,
		Durability: metapb.Durability_DURABILITY_WRITE, ManualFailover: &shared})
	if err != nil || v.Record.Ack != metapb.AckPolicy_ACK_POLICY_ALL || v.Record.Durability != metapb.Durability_DURABILITY_WRITE || v.Record.MinCopies != 2 || !v.Record.ManualFailover {
		t.Fatalf("%v, %v", v, err)
	}
	_, err = via.volumes.Change(brief(t), &api.ChangeVolumeRequest{Name: "v", MinCopies: 4})
	wantError(t, err, codes.FailedPrecondition, "min-copies 4")
	_, err = via.volumes.Change(brief(t), &api.ChangeVolumeRequest{Name: "w", MinCopies: 1})
	wantError(t, err, codes.NotFound, "w")
}

// TestTooFewCopies: a volume whose requests wait says so, and goes on when it may.
func TestTooFewCopies(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.socket("n3")
	_, err := via.volumes.Create(brief(t), &api.CreateVolumeRequest{Name: "v", SizeBytes: 1 << 20, Nodes: []string{"n1", "n2"}, MinCopies: 2,
		Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: 2}})
	if err != nil {
		t.Fatal(err)
	}
	v := c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_PRIMARY)
	other := "n1"
	if v.Record.Primary == other {
		other = "n2"
	}
	state := func() (*api.Volume, error) { return via.volumes.Show(brief(t), &api.ShowVolumeRequest{Name: "v"}) }
	c.kill(other)
	eventually(t, "a volume that waits says so", func() bool {
		v, err := state()
		return err == nil && v.State == api.VolumeState_VOLUME_STATE_WAITING && hasProblem(v.Problems, tooFewCopies)
	})
	if _, err := via.volumes.Change(brief(t), &api.ChangeVolumeRequest{Name: "v", MinCopies: 1}); err != nil {
		t.Fatal(err)
	}
	client := c.dial(v.Record.Primary, "v")
	if err := blockdev.WriteAt(client, block(1), 0, 0); err != nil {
		t.Fatal(err)
	}
	client.Close()
	c.start(other)
	eventually(t, "it has all its copies again", func() bool {
		v, err := state()
		return err == nil && v.State == api.VolumeState_VOLUME_STATE_OK
	})
}

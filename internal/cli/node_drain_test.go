package cli

import (
	"strings"
	"testing"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// TestDrainWaits: the command ends when the node is empty, and says meanwhile, once,
// what does not come by itself.
func TestDrainWaits(t *testing.T) {
	f := newFake(t, nil)
	n3 := func(members, primaries int32) *api.ClusterNode {
		n := exampleNode(3, api.NodeRole_NODE_ROLE_VOTER)
		n.Record.Drained, n.Members, n.Primaries = true, members, primaries
		return n
	}
	f.answer("ClusterService/DrainNode", n3(2, 1))
	var answers []*api.ClusterNode
	f.handle("ClusterService/ShowNode", func(any) (any, error) {
		now := answers[0]
		answers = answers[min(1, len(answers)-1):]
		return now, nil
	})
	stuck := n3(1, 0)
	stuck.Problems = []*api.Problem{{Code: "drain_waits", Text: "the drain waits: volume v: a replica is behind", Advice: "blkctl why v"}}
	answers = []*api.ClusterNode{n3(2, 1), stuck, stuck, n3(0, 0)}
	code, out, errs := blkctl(f.on("node", "drain", "n3", "-o", "name")...)
	if code != OK || out != "n3\n" || strings.Count(errs, "the drain waits: volume v") != 1 || !strings.Contains(errs, "blkctl why v") {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
	answers = []*api.ClusterNode{n3(1, 0)}
	if code, _, errs := blkctl(f.on("node", "drain", "n3", "--keep-replicas")...); code != OK {
		t.Errorf("replicas are kept: exit code %d, %s", code, errs)
	}
	if req := f.got("ClusterService/DrainNode")[1].(*api.DrainNodeRequest); !req.Node.KeepReplicas {
		t.Errorf("asked for %v", req)
	}
	if code, _, errs := blkctl(f.on("node", "drain", "n3", "--timeout", "300ms")...); code != TimedOut || !strings.Contains(errs, "1 replica to move; the drain goes on") {
		t.Errorf("a drain that does not end: exit code %d, %s", code, errs)
	}
	answers = []*api.ClusterNode{{Record: &metapb.Node{Name: "n3"}}}
	if code, _, errs := blkctl(f.on("node", "drain", "n3")...); code != Conflict || !strings.Contains(errs, "taken back") {
		t.Errorf("a drain that is taken back: exit code %d, %s", code, errs)
	}
}

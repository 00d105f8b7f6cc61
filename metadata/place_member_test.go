package metadata

import (
	"strings"
	"testing"

	"blkd/metadata/metapb"
)

// TestPlaceMember: one more replica goes where a new volume would put it, beside
// those that stay.
func TestPlaceMember(t *testing.T) {
	w := newStewardWorld()
	if err := w.found([]string{"n1/zone=a", "n2/zone=b", "n3/zone=a", "n4/zone=b", "n5/zone=c", "w*"}); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"create_volume name=v size_bytes=1G layout=mirror:2 nodes=n1,n2",
		"create_volume name=e size_bytes=1G layout=ec:2+1 nodes=n1,n2,n3",
	} {
		if err := w.line(line); err != nil {
			t.Fatal(err)
		}
	}
	place := func(volume, node, from, want string) {
		t.Helper()
		plan, err := PlaceMember(w.s, volume, node, from)
		switch {
		case err != nil && !strings.Contains(err.Error(), want):
			t.Errorf("%s on %q: %v; want %q", volume, node, err, want)
		case err == nil:
			m := plan.Members[len(plan.Members)-1]
			if m.Node != want || m.State != metapb.ReplicaState_REPLICA_STATE_INCONSISTENT || m.Incarnation != w.s.Node(want).Incarnation {
				t.Errorf("%s on %q: %v; want %s", volume, node, m, want)
			}
			if len(plan.Reasons) != 1 || len(plan.Survives) == 0 || len(plan.Rejected) == 0 {
				t.Errorf("%s on %q: %v", volume, node, plan)
			}
		}
	}
	place("v", "", "", "n5") // the zone without a replica
	place("v", "n4", "", "n4")
	place("v", "n1", "", "has a replica of volume v already")
	place("v", "w", "", "it is a witness")
	place("v", "n9", "", "no node")
	place("x", "", "", "no volume")
	place("e", "", "", "it has 3 shards, never more")
	place("e", "", "n1", "n5") // the zone without a replica
	place("e", "n4", "n2", "n4")
	plan, err := PlaceMember(w.s, "e", "n4", "n2")
	if err != nil {
		t.Fatal(err)
	}
	if m := plan.Members[len(plan.Members)-1]; m.Shard != 1 || heirOf(&metapb.Volume{Layout: w.s.Volume("e").Layout, Members: plan.Members}, "n2") != "n4" {
		t.Errorf("moved from n2: %v", plan.Members)
	}
	if err := w.line("drain_node name=n5"); err != nil {
		t.Fatal(err)
	}
	place("v", "n5", "", "it is drained")
	place("v", "", "", "n4") // which has the fewest replicas
	// Moved away from n1, what counts is that n2 stays.
	place("v", "", "n1", "n3")
	place("v", "", "n2", "n4")
	place("v", "", "n3", "node n3 has no replica")
}

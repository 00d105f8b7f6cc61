package metadata

import (
	"fmt"
	"strings"
	"testing"

	"blkd/metadata/metapb"
)

// coded is a volume of six shards on six nodes in three racks, and its cluster.
func coded() (nodes []*metapb.Node, voters []uint64, v *metapb.Volume) {
	v = &metapb.Volume{Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_EC, Data: 4, Parity: 2}, Ack: metapb.AckPolicy_ACK_POLICY_MAJORITY, MinCopies: 4}
	for i := range 6 {
		n := &metapb.Node{Name: fmt.Sprintf("n%d", i+1), Id: uint64(i + 1), Health: metapb.Health_HEALTH_UP, Labels: map[string]string{"rack": fmt.Sprintf("r%d", i/2)}}
		nodes = append(nodes, n)
		v.Members = append(v.Members, &metapb.Member{Node: n.Name, Shard: int32(i), Log: true, State: metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE})
		if i < 5 {
			voters = append(voters, n.Id)
		}
	}
	return nodes, voters, v
}

// TestSurvivesNow: what has failed, does not count or may have lost writes is taken off.
func TestSurvivesNow(t *testing.T) {
	for _, tc := range []struct {
		what, want string
		fail       func(nodes []*metapb.Node, v *metapb.Volume)
	}{
		{"all are well", "any 2 nodes, any 1 rack", func([]*metapb.Node, *metapb.Volume) {}},
		{"one is down", "any 1 node", func(nodes []*metapb.Node, _ *metapb.Volume) { nodes[5].Health = metapb.Health_HEALTH_DOWN }},
		{"a rack is cut off", "", func(nodes []*metapb.Node, _ *metapb.Volume) {
			nodes[4].Health, nodes[5].Health = metapb.Health_HEALTH_PARTITIONED, metapb.Health_HEALTH_PARTITIONED
		}},
		{"one is being rebuilt", "any 1 node", func(_ []*metapb.Node, v *metapb.Volume) {
			v.Members[5].State = metapb.ReplicaState_REPLICA_STATE_SYNCING
		}},
		{"one may have lost writes", "any 1 node", func(_ []*metapb.Node, v *metapb.Volume) { v.Members[5].Amnesiac = true }},
	} {
		nodes, voters, v := coded()
		tc.fail(nodes, v)
		if got := strings.Join(Survives(nodes, voters, v), ", "); got != tc.want {
			t.Errorf("%s: it survives %q, not %q", tc.what, got, tc.want)
		}
	}
}

// TestPlanLacks: a plan says which failures its layout allows for and its places do not,
// and whether that is for the replicas or for the voters.
func TestPlanLacks(t *testing.T) {
	for _, tc := range []struct {
		what, want string
		racks      int
		voters     int
	}{
		{"a rack for each, and five voters", "", 6, 5},
		{"a rack for each, and three voters", "not the loss of any 2 nodes, which ec 4+2 allows for: too many voters of the quorum may be there", 6, 3},
		{"three racks", "not the loss of any 2 racks, which ec 4+2 allows for: too many replicas may be there", 3, 5},
	} {
		nodes, voters, v := coded()
		s := NewState()
		for i, n := range nodes {
			n.Labels["rack"] = fmt.Sprint(i % tc.racks)
			s.nodes.rows = append(s.nodes.rows, n)
		}
		s.voters = voters[:tc.voters]
		if _, lacks := survives(s, v); strings.Join(lacks, "; ") != tc.want {
			t.Errorf("%s: %q, not %q", tc.what, lacks, tc.want)
		}
	}
}

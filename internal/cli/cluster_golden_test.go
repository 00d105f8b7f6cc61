package cli

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// noon is the moment of all examples.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func before(d time.Duration) int64 { return noon.Add(-d).UnixNano() }

func exampleNode(id uint64, role api.NodeRole) *api.ClusterNode {
	return &api.ClusterNode{
		Record: &metapb.Node{
			Name: fmt.Sprintf("n%d", id), Id: id, Address: fmt.Sprintf("10.0.0.%d:7400", id), Nbd: []string{fmt.Sprintf("10.0.0.%d:10809", id)},
			Labels: map[string]string{"zone": "a", "rack": fmt.Sprintf("r%d", id)}, Disk: 0xd15c0 + id, Incarnation: 0x1c + id, Build: "0.1.0",
			CapacityBytes: 1 << 40, FreeBytes: 300 << 30, Health: metapb.Health_HEALTH_UP, HealthText: "answers",
			HealthSince: before(5 * time.Minute), Registered: before(6 * time.Minute),
		},
		Role: role, Members: 2, Primaries: 1,
	}
}

func exampleRecord() *api.Volume {
	member := func(node string, state metapb.ReplicaState) *metapb.Member {
		return &metapb.Member{Node: node, Incarnation: 0x1d, State: state, Log: true}
	}
	return &api.Volume{
		Name: "pgdata", SizeBytes: 200 << 30, State: api.VolumeState_VOLUME_STATE_RECORDED,
		Record: &metapb.Volume{
			Id: 1, Name: "pgdata", SizeBytes: 200 << 30, BlockBytes: 4096,
			Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: 3},
			Ack:    metapb.AckPolicy_ACK_POLICY_MAJORITY, MinCopies: 2, Durability: metapb.Durability_DURABILITY_FLUSH,
			Lineage: 0xabc, Generation: 17, Number: 40, Primary: "n1", PrimaryIncarnation: 0x1d,
			Members: []*metapb.Member{member("n1", metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE),
				member("n2", metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE), member("n3", metapb.ReplicaState_REPLICA_STATE_SYNCING)},
			Attachment: &metapb.Attachment{Holder: "db1", Number: 4}, Mark: &metapb.Mark{Generation: 17, Seq: 9000}, Created: before(time.Hour),
		},
		Problems: []*api.Problem{{Code: "member_behind", Text: "replica n3 is Syncing", Advice: "nothing to do"}},
	}
}

func exampleEC() *api.Volume {
	v := exampleRecord()
	v.Name, v.Record.Name, v.Problems = "logs", "logs", nil
	v.Record.Layout = &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_EC, Data: 2, Parity: 1}
	v.Record.Attachment, v.Record.Mark, v.Record.Primary = nil, nil, ""
	for i, m := range v.Record.Members {
		m.Shard, m.Amnesiac = int32(i), i == 1
	}
	return v
}

func exampleCluster() *api.ClusterStatus {
	held := exampleNode(3, api.NodeRole_NODE_ROLE_VOTER)
	held.Record.Health, held.Record.HealthText = metapb.Health_HEALTH_SLOW, "answers after 800 ms"
	held.Record.HeldUntil, held.Record.Drained = before(-2*time.Minute), true
	held.Problems = []*api.Problem{{Code: "node_held_back", Text: "it came and went 4 times in 10m", Advice: "look at its network"}}
	fresh := &api.ClusterNode{Record: &metapb.Node{Name: "w1", Id: 4, Address: "10.0.0.9:7400", Witness: true}, Role: api.NodeRole_NODE_ROLE_NONE}
	return &api.ClusterStatus{
		Node: "n2", Id: 0x0123456789abcdef, Name: "prod", Version: 1, Created: timestamppb.New(noon.Add(-24 * time.Hour)),
		Quorum: &api.Quorum{Voters: 3, Need: 2, Have: 3, Leader: "n2", Term: 41}, Event: 1234,
		Nodes:   []*api.ClusterNode{exampleNode(1, api.NodeRole_NODE_ROLE_VOTER), exampleNode(2, api.NodeRole_NODE_ROLE_LEADER), held, fresh},
		Volumes: []*api.Volume{exampleEC(), exampleRecord()},
	}
}

// exampleServed is a healthy volume that n1 serves.
func exampleServed() *api.Volume {
	v := exampleRecord()
	v.State, v.Problems, v.Clients, v.Uris = api.VolumeState_VOLUME_STATE_OK, nil, 2, []string{"nbd://10.0.0.1:10809/pgdata", "nbd://10.0.0.2:10809/pgdata"}
	v.Io = &api.VolumeIO{LogUsedBytes: 30 << 20, LogSizeBytes: 1 << 30, ClientWrittenBytes: 1 << 30, DiskWrittenBytes: 2 << 30, WriteAmplification: 2}
	v.Survives, v.Space = []string{"any 1 node", "any 1 rack"}, &api.Space{DataBytes: v.SizeBytes, LogBytes: 1 << 30}
	v.Serving, v.Lease = "n1", &api.Lease{Held: true, Left: durationpb.New(412 * time.Millisecond)}
	for i, m := range v.Record.Members {
		m.State = metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE
		v.Replicas = append(v.Replicas, &api.Replica{Node: m.Node, State: m.State, Connected: true, HeldSeq: 9000 - uint64(i), DurableSeq: 8900,
			BehindEntries: uint64(i), Compared: timestamppb.New(noon.Add(-time.Hour))})
	}
	return v
}

// exampleSyncing is an erasure-coded volume one of whose replicas is brought level.
func exampleSyncing() *api.Volume {
	v := exampleServed()
	v.Name, v.Record.Name, v.SizeBytes, v.State = "logs", "logs", 50<<30, api.VolumeState_VOLUME_STATE_DEGRADED
	v.Record.Layout = &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_EC, Data: 4, Parity: 2}
	v.Record.Primary, v.Serving, v.Record.Generation = "n3", "n3", 4
	v.Record.Attachment.Holder = "db3"
	for i := 3; i < 6; i++ {
		m := proto.CloneOf(v.Record.Members[0])
		m.Node, m.Shard = fmt.Sprintf("n%d", i+1), int32(i)
		v.Record.Members = append(v.Record.Members, m)
		v.Replicas = append(v.Replicas, &api.Replica{Node: m.Node, State: m.State, Connected: true, HeldSeq: 9000, DurableSeq: 9000})
	}
	v.Record.Members[4].State = metapb.ReplicaState_REPLICA_STATE_SYNCING
	r := v.Replicas[4]
	r.State, r.HeldSeq, r.BehindEntries = metapb.ReplicaState_REPLICA_STATE_SYNCING, 8000, 1000
	r.Resync = &api.Resync{Kind: api.ResyncKind_RESYNC_KIND_EXTENTS, SyncedBytes: 63 << 20, TotalBytes: 100 << 20, BytesPerSecond: 300 << 10,
		Left: durationpb.New(125 * time.Second), Started: timestamppb.New(noon.Add(-3 * time.Minute))}
	v.Problems = []*api.Problem{{Code: "member_behind", Text: "it survives one more failure (normally two): n5 returned 11:57 and is catching up", Advice: "nothing to do"}}
	return v
}

// exampleWaiting is a volume whose requests wait.
func exampleWaiting() *api.Volume {
	v := exampleServed()
	v.Name, v.Record.Name, v.State, v.Lease = "mail", "mail", api.VolumeState_VOLUME_STATE_WAITING, &api.Lease{}
	v.Replicas[2].Connected, v.Survives = false, nil
	v.Replicas[1].Resync = &api.Resync{Kind: api.ResyncKind_RESYNC_KIND_LOG, SyncedBytes: 1, TotalBytes: 3, Waits: "n3 has what it needs"}
	v.Problems = []*api.Problem{{Code: "too_few_copies", Text: "1 of 3 copies is reachable, and writes wait below 2", Advice: "start blkd on n3"}}
	return v
}

// exampleSealing is a volume that was promoted and is not served yet.
func exampleSealing() *api.Volume {
	v := exampleServed()
	v.Name, v.Record.Name, v.State, v.Serving, v.Lease = "web", "web", api.VolumeState_VOLUME_STATE_WAITING, "", nil
	for _, r := range v.Replicas {
		r.Connected = false
	}
	return v
}

// exampleServing is a cluster that serves these volumes.
func exampleServing(volumes ...*api.Volume) *api.ClusterStatus {
	s := exampleCluster()
	s.Nodes, s.Volumes = s.Nodes[:2], volumes
	return s
}

func exampleStale() *api.ClusterStatus {
	s := exampleCluster()
	s.Stale, s.Nodes, s.Volumes = true, s.Nodes[:1], nil
	s.Quorum = &api.Quorum{Voters: 3, Need: 2, Have: 1, Missing: []string{"n1", "n3"}, Term: 41}
	s.Problems = []*api.Problem{{Code: "no_quorum", Text: "no quorum: 1 of 3 voters in contact, 2 needed; missing n1: connection refused, n3: connection refused",
		Advice: "start blkd on n1 or n3"}}
	return s
}

func examplePlan() *api.Volume {
	v := exampleRecord()
	v.Problems = nil
	v.Plan = &metapb.Plan{Members: v.Record.Members, Primary: "n1",
		Reasons:  []string{"n1: most free space in rack r1", "n2: rack r2 had none yet"},
		Rejected: []string{"n4: drained"}, Survives: []string{"any 1 node", "any 1 rack"},
		Lacks: []string{"not the loss of any 2 nodes, which mirror 3 allows for: too many voters of the quorum may be there"}}
	return v
}

func exampleHistory() History {
	return newHistory(&metapb.History{Volume: 1, Name: "pgdata", Dropped: 3, Deleted: true, Entries: []*metapb.HistoryEntry{
		{Generation: 1, Number: 1, What: "created", By: "root@db1", Node: "n2", Time: before(time.Hour), Index: 12},
		{Generation: 2, Number: 2, What: "promoted n1 -> n2", By: "steward", Node: "n2", Reason: "n1 is down", Time: before(time.Minute), Index: 90,
			Certificate: exampleCertificate()},
	}})
}

func exampleEvents() []Event {
	var out []Event
	c := exampleCluster()
	for _, e := range []*api.Event{
		{Item: &api.Event_Gap{Gap: &api.Gap{After: 3}}},
		{Item: &api.Event_Cluster{Cluster: &api.ClusterStatus{Node: c.Node, Id: c.Id, Name: c.Name, Version: 1, Created: c.Created, Quorum: c.Quorum, Event: 1234}}},
		{Item: &api.Event_Node{Node: c.Nodes[0]}},
		{Item: &api.Event_Volume{Volume: c.Volumes[1]}},
		{Item: &api.Event_Sync{Sync: &api.Sync{Seq: 1234}}},
		{Item: &api.Event_Change{Change: &metapb.Event{Seq: 1235, Time: before(0), Type: "volume", Action: "change", Name: "pgdata", By: "root@db1",
			Reason: "ticket 4711", Index: 5678, Changes: []*metapb.Change{{Field: "size_bytes", Old: "1073741824", New: "2147483648"}}}}},
		{Item: &api.Event_Change{Change: &metapb.Event{Seq: 1236, Time: before(0), Type: "node", Action: "change", Name: "n1", By: "steward",
			Index: 5679, Changes: []*metapb.Change{{Field: "health", Old: "up", New: "down"}, {Field: "held_until", New: fmt.Sprint(before(0))}}}}},
	} {
		out = append(out, newEvent(e))
	}
	return out
}

func TestClusterJSON(t *testing.T) {
	status := exampleStatus()
	status.Mode = modeCluster
	status.setCluster(newCluster(exampleCluster()))
	volume := newVolume(exampleRecord())
	for name, data := range map[string]any{
		"cluster.json":        newCluster(exampleCluster()),
		"cluster_stale.json":  newCluster(exampleStale()),
		"cluster_node.json":   newNode(exampleNode(1, api.NodeRole_NODE_ROLE_LEADER)),
		"cluster_volume.json": newVolume(exampleEC()),
		"cluster_plan.json":   newVolume(examplePlan()),
		"status_cluster.json": status,
		"history.json":        exampleHistory(),
		"why.json":            newWhy(status).waiting(),
		"volume_served.json":  newVolume(exampleSyncing()),
		"replicas.json":       replicaResult(newVolume(exampleSyncing())).data,
		"waited.json":         Waited{Name: "pgdata", Condition: "exists", Volume: &volume},
		"waited_quorum.json":  Waited{Name: "cluster", Condition: "quorum"},
		"transferred.json":    Transferred{From: "n1", Leader: "n2", Term: 42},
		"saved.json": newSaved("meta.backup", 1234, &metapb.Backup{Index: 77, Time: before(0),
			State: &metapb.State{Cluster: 0xabc, Nodes: []*metapb.Node{{Name: "n1"}, {Name: "n2"}, {Name: "w1"}}, Volumes: make([]*metapb.Volume, 2)}}),
	} {
		var out bytes.Buffer
		if err := show(&out, formatJSON, result{data: data}); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.Bytes())
	}
}

func TestEventLines(t *testing.T) {
	for format, name := range map[string]string{formatJSON: "events.json", formatTable: "events.txt", formatYAML: "events.yaml"} {
		var out bytes.Buffer
		print := newEventPrinter(&out, format)
		for _, e := range exampleEvents() {
			if err := print(e); err != nil {
				t.Fatal(err)
			}
		}
		golden(t, name, out.Bytes())
	}
}

func TestClusterTables(t *testing.T) {
	status := exampleStatus()
	status.setCluster(newCluster(exampleCluster()))
	stale := exampleStatus()
	stale.setCluster(newCluster(exampleStale()))
	serving := exampleStatus()
	serving.setCluster(newCluster(exampleServing(exampleSyncing(), exampleWaiting(), exampleServed(), exampleSealing())))
	healthy := exampleStatus()
	healthy.setCluster(newCluster(exampleServing(exampleServed())))
	a := &app{output: formatTable}
	table := func(r result, format string) []byte {
		var out bytes.Buffer
		if err := show(&out, format, r); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	captured := func(print func() error) []byte {
		var out bytes.Buffer
		a.Out = &out
		if err := print(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	why := func(s Status, w Why) result {
		return result{table: whyTable(w, s)}
	}
	for name, got := range map[string][]byte{
		"status_cluster.txt": table(statusResult(status), formatTable),
		"status_stale.txt":   table(statusResult(stale), formatTable),
		"status_serving.txt": table(statusResult(serving), formatTable),
		"status_healthy.txt": table(statusResult(healthy), formatWide),
		"volume_served.txt":  captured(func() error { return a.showVolume(exampleServed()) }),
		"volume_waiting.txt": captured(func() error { return a.showVolume(exampleWaiting()) }),
		"replicas.txt":       table(replicaResult(newVolume(exampleSyncing())), formatWide),
		"replicas_idle.txt":  table(replicaResult(newVolume(exampleRecord())), formatTable),
		"cluster.txt":        table(clusterResult(newCluster(exampleCluster()), noon), formatTable),
		"cluster_wide.txt":   table(clusterResult(newCluster(exampleCluster()), noon), formatWide),
		"cluster_node.txt":   table(nodeResult(newNode(exampleCluster().Nodes[2]), noon), formatTable),
		"cluster_volume.txt": captured(func() error { return a.showVolume(exampleRecord()) }),
		"cluster_plan.txt":   captured(func() error { return a.showCreated(examplePlan(), true) }),
		"history.txt":        table(historyResult(exampleHistory(), true), formatTable),
		"why.txt":            table(why(status, newWhy(status).waiting()), formatTable),
		"why_one.txt":        table(why(status, newWhy(status).only("logs")), formatTable),
		"why_stale.txt":      table(why(stale, newWhy(stale).only("n1")), formatTable),
	} {
		golden(t, name, got)
	}
}

func TestClusterState(t *testing.T) {
	healthy := exampleCluster()
	healthy.Nodes, healthy.Volumes = healthy.Nodes[:2], healthy.Volumes[:1]
	for _, tc := range []struct {
		status *api.ClusterStatus
		want   string
	}{{healthy, "ok"}, {exampleCluster(), "degraded"}, {exampleStale(), "failed"}, {exampleServing(exampleServed()), "ok"},
		{exampleServing(exampleSyncing(), exampleServed()), "degraded"}, {exampleServing(exampleWaiting(), exampleSyncing()), "waiting"}} {
		if got := newCluster(tc.status).State; got != tc.want {
			t.Errorf("state %s, want %s", got, tc.want)
		}
	}
}

package metadata

import (
	"bytes"
	"strings"
	"testing"

	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// decodable is a state with something of everything.
func decodable(t testing.TB) *State {
	return stateOf(t,
		"found_cluster cluster=7 founders=n1,n2,n3",
		"register_node name=n1 disk=1001 incarnation=11 address=n1:7400 version_min=1 version_max=1",
		"register_node name=n2 disk=1002 incarnation=21 address=n2:7400 version_min=1 version_max=1",
		"create_volume name=a size_bytes=1G", "create_volume name=b size_bytes=1G layout=mirror:1", "create_volume name=c size_bytes=1G",
		"attach volume=a holder=x @", "delete_volume name=c", "replace_node name=n3")
}

func TestDecodeRefuses(t *testing.T) {
	good := decodable(t).Encode()
	for _, c := range []struct {
		name  string
		spoil func(p *metapb.State)
		want  string
	}{
		{"a newer format", func(p *metapb.State) { p.Format = 2 }, "its format is 2, this build reads format 1"},
		{"no cluster", func(p *metapb.State) { p.Cluster = 0 }, "it has records, but no cluster"},
		{"no version", func(p *metapb.State) { p.Version = 0 }, "a cluster without a version"},
		{"no event number", func(p *metapb.State) { p.NextEvent, p.Events = 0, nil }, "events"},
		{"a lost event", func(p *metapb.State) { p.Events = append(p.Events[:2], p.Events[3:]...) }, "event 1 is not in order"},
		{"more events than there were", func(p *metapb.State) { p.NextEvent = 3 }, "events, the last of number 2"},
		{"nodes out of order", func(p *metapb.State) { p.Nodes[0], p.Nodes[1] = p.Nodes[1], p.Nodes[0] }, "node n1 is not in order"},
		{"a node's name", func(p *metapb.State) { p.Nodes[0].Name = "N" }, `node name "N"`},
		{"a Raft id never given out", func(p *metapb.State) { p.Nodes[2].Id = 99 }, "has Raft id 99 of 4 given out"},
		{"a Raft id twice", func(p *metapb.State) { p.Nodes[0].Id = 2 }, "share the Raft id 2"},
		{"a retired Raft id", func(p *metapb.State) { p.Nodes[0].Id = 3 }, "retired Raft id 3"},
		{"a run without a disk", func(p *metapb.State) { p.Nodes[0].Disk = 0 }, "without a disk number"},
		{"volumes out of order", func(p *metapb.State) { p.Volumes[0], p.Volumes[1] = p.Volumes[1], p.Volumes[0] }, "volume a is not in order"},
		{"a volume id twice", func(p *metapb.State) { p.Volumes[1].Id = 1 }, "shares its id"},
		{"a volume id never given out", func(p *metapb.State) { p.Volumes[0].Id = 9 }, "has id 9 of 3 given out"},
		{"no lineage", func(p *metapb.State) { p.Volumes[0].Lineage = 0 }, "no lineage"},
		{"no attachment", func(p *metapb.State) { p.Volumes[0].Attachment = nil }, "no attachment or mark"},
		{"a mark of the future", func(p *metapb.State) { p.Volumes[0].Mark.Generation = 2 }, "its mark at 2"},
		{"no layout", func(p *metapb.State) { p.Volumes[0].Layout = nil }, "neither a mirror nor an erasure code"},
		{"no members", func(p *metapb.State) { p.Volumes[0].Members = nil }, "no members"},
		{"a member that is no node", func(p *metapb.State) { p.Volumes[0].Members[0].Node = "n9" }, "is no node"},
		{"a member of another run", func(p *metapb.State) { p.Volumes[0].Members[0].Incarnation = 5 }, "has incarnation 5"},
		{"a member without a state", func(p *metapb.State) { p.Volumes[0].Members[0].State = 0 }, "is in state 0"},
		{"an amnesiac joiner", func(p *metapb.State) {
			p.Volumes[0].Members[0].State, p.Volumes[0].Members[0].Amnesiac = metapb.ReplicaState_REPLICA_STATE_SYNCING, true
		}, "both amnesiac and Syncing"},
		{"a shard of a mirror", func(p *metapb.State) { p.Volumes[0].Members[0].Shard = 1 }, "cannot have shard 1"},
		{"no history", func(p *metapb.State) { p.Histories = p.Histories[1:] }, "volume a has no history"},
		{"an empty history", func(p *metapb.State) { p.Histories[1].Entries = nil }, "has 0 entries"},
		{"a history of nothing", func(p *metapb.State) { p.Histories[2].Deleted = false }, "belongs to none"},
		{"histories out of order", func(p *metapb.State) { p.Histories[1], p.Histories[2] = p.Histories[2], p.Histories[1] }, "history"},
		{"voters out of order", func(p *metapb.State) { p.Voters = []uint64{2, 1} }, "not in order"},
		{"a damaged answer", func(p *metapb.State) { p.Applied[0].Result = []byte{0xff} }, "is damaged"},
		{"a short request id", func(p *metapb.State) { p.Applied[0].Request = []byte{1} }, "is damaged"},
		{"an answer twice", func(p *metapb.State) { p.Applied = append(p.Applied, p.Applied[0]) }, "is damaged, or one too many"},
	} {
		p := new(metapb.State)
		if err := proto.Unmarshal(good, p); err != nil {
			t.Fatal(err)
		}
		c.spoil(p)
		if _, err := DecodeState(encode(p)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	if _, err := DecodeState([]byte{0xff}); err == nil {
		t.Error("decoded what is no message")
	}
	s, err := DecodeState(good)
	if err != nil || !bytes.Equal(s.Encode(), good) {
		t.Errorf("the state itself: %v", err)
	}
}

// TestRecordsAreNeverWrittenInto keeps what a reader may have kept.
func TestRecordsAreNeverWrittenInto(t *testing.T) {
	r := newStateRun(3)
	var kept []proto.Message
	var encoded [][]byte
	keep := func(m proto.Message) { kept, encoded = append(kept, m), append(encoded, encode(m)) }
	for range 150 {
		if err := r.step(r.gen.command()); err != nil {
			t.Fatal(err)
		}
		for _, v := range r.a.Volumes() {
			keep(v)
			keep(r.a.History(v.Name))
		}
		for _, n := range r.a.Nodes() {
			keep(n)
		}
	}
	for i, m := range kept {
		if !bytes.Equal(encode(m), encoded[i]) {
			t.Fatalf("a record was changed that had been given out: %v", m)
		}
	}
}

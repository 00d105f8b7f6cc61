package cli

import (
	"fmt"
	"time"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// The types of this file are the part of the JSON contract that clusters add;
// see model.go. Numbers that may use all of 64 bits are hexadecimal strings,
// because JSON readers round such integers.

// Cluster is the result of cluster status.
type Cluster struct {
	ClusterInfo
	Nodes   []Node   `json:"nodes"`
	Volumes []Volume `json:"volumes"`
}

// ClusterInfo describes a cluster apart from its nodes and volumes.
type ClusterInfo struct {
	ID       string     `json:"id"`
	Name     string     `json:"name"`
	State    string     `json:"state"` // ok, degraded, waiting or failed: the worst of quorum, nodes and volumes
	Version  int        `json:"version"`
	Created  *time.Time `json:"created"`
	Node     string     `json:"node"`  // which one answers
	Stale    bool       `json:"stale"` // what that node last knew; no quorum confirmed it
	Quorum   Quorum     `json:"quorum"`
	Problems []Problem  `json:"problems"`
	Event    uint64     `json:"event"` // the last one that is reflected here
}

// Quorum tells whether the metadata quorum can decide.
type Quorum struct {
	Voters  int      `json:"voters"`
	Need    int      `json:"need"`
	Have    int      `json:"have"`
	Missing []string `json:"missing"`
	Leader  string   `json:"leader"` // empty: none or unknown
	Term    uint64   `json:"term"`
}

// Node is one node of a cluster.
type Node struct {
	Name          string            `json:"name"`
	ID            uint64            `json:"id"`
	Address       string            `json:"address"`
	NBD           []string          `json:"nbd"`
	Labels        map[string]string `json:"labels"`
	Role          string            `json:"role"` // leader, voter, learner or none
	Witness       bool              `json:"witness"`
	Drained       bool              `json:"drained"`
	KeepReplicas  bool              `json:"keep_replicas"` // drained, but its replicas stay
	Fenced        string            `json:"fenced"`        // what became of switching its machine, in this run; empty: nobody has
	Health        string            `json:"health"`        // up, slow, partitioned, down, new or unknown
	HealthText    string            `json:"health_text"`
	HealthSince   *time.Time        `json:"health_since"`
	HeldUntil     *time.Time        `json:"held_until"`
	Registered    *time.Time        `json:"registered"`
	Disk          string            `json:"disk"`
	Incarnation   string            `json:"incarnation"`
	Build         string            `json:"build"`
	CapacityBytes int64             `json:"capacity_bytes"`
	FreeBytes     int64             `json:"free_bytes"`
	Members       int               `json:"members"`
	Primaries     int               `json:"primaries"`
	Problems      []Problem         `json:"problems"`
}

// NodeList is the result of node list.
type NodeList struct {
	Nodes []Node `json:"nodes"`
}

// Record is what the metadata quorum decided about a volume.
type Record struct {
	ID         uint64      `json:"id"`
	BlockBytes int         `json:"block_bytes"`
	Layout     string      `json:"layout"`
	Ack        string      `json:"ack"`
	MinCopies  int         `json:"min_copies"`
	Durability string      `json:"durability"`
	Shared     bool        `json:"shared"`
	Failover   string      `json:"failover"` // automatic or manual
	Lineage    string      `json:"lineage"`
	Generation uint64      `json:"generation"`
	Number     uint64      `json:"number"`
	Primary    string      `json:"primary"` // empty: none
	Members    []Member    `json:"members"`
	Attachment *Attachment `json:"attachment"` // null: nobody has ever attached
	Mark       *Mark       `json:"mark"`       // null: nothing was reported as committed
	Created    time.Time   `json:"created"`
}

// Member is one replica, as recorded.
type Member struct {
	Node        string `json:"node"`
	State       string `json:"state"`
	Incarnation string `json:"incarnation"`
	Amnesiac    bool   `json:"amnesiac"`
	Shard       int    `json:"shard"`
	Log         bool   `json:"log"`
	Leaving     bool   `json:"leaving"` // it goes when all the others count
}

// Attachment is the client that may write.
type Attachment struct {
	Holder string `json:"holder"` // empty: nobody
	Number uint64 `json:"number"`
}

// Mark is a frontier that was reported as committed.
type Mark struct {
	Generation uint64 `json:"generation"`
	Seq        uint64 `json:"seq"`
}

// Plan is what placement decided, and why.
type Plan struct {
	Members  []Member `json:"members"`
	Primary  string   `json:"primary"`
	Reasons  []string `json:"reasons"`
	Rejected []string `json:"rejected"`
	Survives []string `json:"survives"`
	Lacks    []string `json:"lacks"` // what its layout allows to fail, and these places do not
}

func hex(n uint64) string { return fmt.Sprintf("%016x", n) }

// moment is nil for a time that was not recorded.
func moment(nanos int64) *time.Time {
	if nanos == 0 {
		return nil
	}
	t := at(nanos)
	return &t
}

// at is a recorded time in the precision of the contract.
func at(nanos int64) time.Time { return time.Unix(0, nanos).UTC().Truncate(time.Millisecond) }

func some(in []string) []string { return append([]string{}, in...) } // [] in JSON, not null

func newRecord(v *metapb.Volume) *Record {
	if v == nil {
		return nil
	}
	r := &Record{
		ID: v.Id, BlockBytes: int(v.BlockBytes), Layout: api.LayoutWord(v.Layout), Ack: api.AckWord(v.Ack),
		MinCopies: int(v.MinCopies), Durability: api.DurabilityWord(v.Durability), Shared: v.Shared, Failover: failoverWord(v.ManualFailover),
		Lineage: hex(v.Lineage), Generation: v.Generation, Number: v.Number, Primary: v.Primary,
		Members: newMembers(v.Members), Created: at(v.Created),
	}
	if a := v.Attachment; a != nil {
		r.Attachment = &Attachment{Holder: a.Holder, Number: a.Number}
	}
	if m := v.Mark; m != nil {
		r.Mark = &Mark{Generation: m.Generation, Seq: m.Seq}
	}
	return r
}

func failoverWord(manual bool) string {
	if manual {
		return "manual"
	}
	return "automatic"
}

func newMembers(in []*metapb.Member) []Member {
	out := make([]Member, 0, len(in))
	for _, m := range in {
		out = append(out, Member{Node: m.Node, State: api.ReplicaWord(m.State), Incarnation: hex(m.Incarnation),
			Amnesiac: m.Amnesiac, Shard: int(m.Shard), Log: m.Log, Leaving: m.Leaving})
	}
	return out
}

func newPlan(p *metapb.Plan) *Plan {
	if p == nil {
		return nil
	}
	return &Plan{Members: newMembers(p.Members), Primary: p.Primary,
		Reasons: some(p.Reasons), Rejected: some(p.Rejected), Survives: some(p.Survives), Lacks: some(p.Lacks)}
}

func newNode(n *api.ClusterNode) Node {
	r := n.GetRecord()
	labels := map[string]string{}
	for k, v := range r.GetLabels() {
		labels[k] = v
	}
	return Node{
		Name: r.GetName(), ID: r.GetId(), Address: r.GetAddress(), NBD: some(r.GetNbd()), Labels: labels,
		Role: n.Role.Word(), Witness: r.GetWitness(), Drained: r.GetDrained(), KeepReplicas: r.GetKeepReplicas(), Fenced: r.GetFenced(),
		Health: api.HealthWord(r), HealthText: r.GetHealthText(), HealthSince: moment(r.GetHealthSince()),
		HeldUntil: moment(r.GetHeldUntil()), Registered: moment(r.GetRegistered()),
		Disk: hex(r.GetDisk()), Incarnation: hex(r.GetIncarnation()), Build: r.GetBuild(),
		CapacityBytes: r.GetCapacityBytes(), FreeBytes: r.GetFreeBytes(),
		Members: int(n.Members), Primaries: int(n.Primaries), Problems: newProblems(n.Problems),
	}
}

func newNodes(in []*api.ClusterNode) []Node {
	out := make([]Node, 0, len(in))
	for _, n := range in {
		out = append(out, newNode(n))
	}
	return out
}

func newClusterInfo(s *api.ClusterStatus) ClusterInfo {
	q := s.GetQuorum()
	return ClusterInfo{
		ID: hex(s.Id), Name: s.Name, Version: int(s.Version), Created: instant(s.Created),
		Node: s.Node, Stale: s.Stale, Event: s.Event, Problems: newProblems(s.Problems),
		Quorum: Quorum{Voters: int(q.GetVoters()), Need: int(q.GetNeed()), Have: int(q.GetHave()),
			Missing: some(q.GetMissing()), Leader: q.GetLeader(), Term: q.GetTerm()},
	}
}

func newCluster(s *api.ClusterStatus) Cluster {
	c := Cluster{ClusterInfo: newClusterInfo(s), Nodes: newNodes(s.Nodes), Volumes: newVolumes(s.Volumes)}
	c.State = c.worst()
	return c
}

// worst is the state in one word: failed without a quorum, else that of the worst
// volume, and with any problem not better than degraded.
func (c *Cluster) worst() string {
	state, problems := "ok", len(c.Problems)
	for _, n := range c.Nodes {
		problems += len(n.Problems)
	}
	for _, v := range c.Volumes {
		problems += len(v.Problems)
		state = worse(state, v.State)
	}
	switch {
	case c.Stale:
		return "failed"
	case problems > 0:
		return worse(state, "degraded")
	default:
		return state
	}
}

// Transferred is the result of cluster transfer.
type Transferred struct {
	From   string `json:"from"` // empty: unknown
	Leader string `json:"leader"`
	Term   uint64 `json:"term"`
}

// Waited is the result of wait.
type Waited struct {
	Name      string  `json:"name"`
	Condition string  `json:"condition"`
	Volume    *Volume `json:"volume"` // as it then was; null for quorum and deleted
}

// Saved is the result of cluster snapshot save and restore.
type Saved struct {
	File      string    `json:"file"`
	SizeBytes int64     `json:"size_bytes"`
	Index     uint64    `json:"index"` // of the last change in it
	Time      time.Time `json:"time"`
	Cluster   string    `json:"cluster"`
	Nodes     int       `json:"nodes"`
	Volumes   int       `json:"volumes"`
	NodeNames []string  `json:"node_names"`
	Next      []string  `json:"next"` // what is to be done now, for people
}

package cli

import (
	"time"

	"blkd/internal/api"
	"blkd/internal/version"
)

// The types of this file are the JSON contract; docs/json.md describes them and
// testdata/*.json pins them. Fields may be added, never renamed or removed.

// Problem is something that needs attention, and what to do about it.
type Problem struct {
	Code   string `json:"code"`
	Text   string `json:"text"`
	Advice string `json:"advice"`
}

// Volume is one volume.
type Volume struct {
	Name           string    `json:"name"`
	SizeBytes      int64     `json:"size_bytes"`
	AllocatedBytes int64     `json:"allocated_bytes"`
	State          string    `json:"state"` // ok, degraded, waiting, failed or recorded
	Clients        int       `json:"clients"`
	URIs           []string  `json:"uris"`
	IO             *VolumeIO `json:"io"` // null while the store is not open
	Problems       []Problem `json:"problems"`
	Record         *Record   `json:"record,omitempty"`   // in a cluster: what was decided
	Runtime        *Runtime  `json:"runtime,omitempty"`  // in a cluster: how it is right now; absent: nobody knows
	Branches       []Branch  `json:"branches,omitempty"` // in a cluster: what forced promotions have left
	Plan           *Plan     `json:"plan,omitempty"`     // of volume create in a cluster
	DryRun         bool      `json:"dry_run,omitempty"`
}

// VolumeIO counts since the node opened the volume.
type VolumeIO struct {
	LogUsedBytes       int64   `json:"log_used_bytes"`
	LogSizeBytes       int64   `json:"log_size_bytes"`
	ClientWrittenBytes int64   `json:"client_written_bytes"`
	DiskWrittenBytes   int64   `json:"disk_written_bytes"`
	WriteAmplification float64 `json:"write_amplification"`
	MemoryBytes        int64   `json:"memory_bytes"`
}

// VolumeList is the result of volume list.
type VolumeList struct {
	Volumes []Volume `json:"volumes"`
}

// Deleted is the result of volume delete.
type Deleted struct {
	Name    string `json:"name"`
	Deleted bool   `json:"deleted"`
	Note    string `json:"note,omitempty"` // what is left to do
}

// Verified is the result of volume verify.
type Verified struct {
	Name         string     `json:"name"`
	CheckedBytes int64      `json:"checked_bytes"`
	OK           bool       `json:"ok"`
	BadTotal     int64      `json:"bad_total"`
	BadBlocks    []BadBlock `json:"bad_blocks"` // the first of them
}

// BadBlock is a block whose bytes do not match their checksum.
type BadBlock struct {
	Offset     int64  `json:"offset"`
	File       string `json:"file"`
	FileOffset int64  `json:"file_offset"`
}

// Status is the result of status.
type Status struct {
	Node          string       `json:"node"`
	Mode          string       `json:"mode"`
	State         string       `json:"state"` // the worst of the node and its volumes
	Version       version.Info `json:"version"`
	Started       time.Time    `json:"started"`
	DataDir       string       `json:"data_dir"`
	DiskSizeBytes int64        `json:"disk_size_bytes"`
	DiskFreeBytes int64        `json:"disk_free_bytes"`
	Volumes       []Volume     `json:"volumes"`
	Problems      []Problem    `json:"problems"`
	Cluster       *ClusterInfo `json:"cluster,omitempty"` // in a cluster
	Nodes         []Node       `json:"nodes,omitempty"`   // likewise
}

// Versions is the result of version.
type Versions struct {
	Client version.Info  `json:"client"`
	Server *version.Info `json:"server"` // null if no blkd answers
}

func newProblems(in []*api.Problem) []Problem {
	out := make([]Problem, 0, len(in)) // [] in JSON, not null
	for _, p := range in {
		out = append(out, Problem{Code: p.Code, Text: p.Text, Advice: p.Advice})
	}
	return out
}

func newVolume(v *api.Volume) Volume {
	out := Volume{
		Name: v.Name, SizeBytes: v.SizeBytes, AllocatedBytes: v.AllocatedBytes,
		State: v.State.Word(), Clients: int(v.Clients),
		URIs: append([]string{}, v.Uris...), Problems: newProblems(v.Problems),
		Record: newRecord(v.Record), Runtime: newRuntime(v), Plan: newPlan(v.Plan),
	}
	if len(v.Branches) > 0 {
		out.Branches = newBranches(v.Branches)
	}
	if io := v.Io; io != nil {
		out.IO = &VolumeIO{
			LogUsedBytes: io.LogUsedBytes, LogSizeBytes: io.LogSizeBytes,
			ClientWrittenBytes: io.ClientWrittenBytes, DiskWrittenBytes: io.DiskWrittenBytes,
			WriteAmplification: io.WriteAmplification, MemoryBytes: io.MemoryBytes,
		}
	}
	return out
}

func newVolumes(in []*api.Volume) []Volume {
	out := make([]Volume, 0, len(in))
	for _, v := range in {
		out = append(out, newVolume(v))
	}
	return out
}

func newVersion(v *api.VersionInfo) version.Info {
	return version.Info{Version: v.GetVersion(), Revision: v.GetRevision(), Go: v.GetGo(), Platform: v.GetPlatform()}
}

func newStatus(s *api.NodeStatus) Status {
	out := Status{
		Node: s.Node, Mode: s.Mode, State: "ok", Version: newVersion(s.Version),
		Started: s.Started.AsTime().Truncate(time.Second), DataDir: s.DataDir,
		DiskSizeBytes: s.DiskSizeBytes, DiskFreeBytes: s.DiskFreeBytes,
		Volumes: newVolumes(s.Volumes), Problems: newProblems(s.Problems),
	}
	if len(out.Problems) > 0 {
		out.State = "degraded"
	}
	for _, v := range out.Volumes {
		out.State = worse(out.State, v.State)
	}
	return out
}

// severity orders the states of volumes, nodes and clusters.
var severity = map[string]int{"ok": 0, "recorded": 0, "degraded": 1, "unknown": 1, "waiting": 2, "failed": 3}

// worse is the worse of two states; recorded counts as ok.
func worse(a, b string) string {
	if severity[b] > severity[a] {
		return b
	}
	return a
}

// setCluster adds the cluster that the node belongs to.
func (s *Status) setCluster(c Cluster) {
	s.Cluster, s.Nodes, s.Volumes = &c.ClusterInfo, c.Nodes, c.Volumes
	s.State = worse(s.State, c.State)
}

func newVerified(name string, p *api.VerifyVolumeProgress) Verified {
	out := Verified{Name: name, CheckedBytes: p.CheckedBytes, OK: p.BadTotal == 0, BadTotal: p.BadTotal, BadBlocks: []BadBlock{}}
	for _, b := range p.BadBlocks {
		out.BadBlocks = append(out.BadBlocks, BadBlock{Offset: b.Offset, File: b.File, FileOffset: b.FileOffset})
	}
	return out
}

package cli

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"blkd/internal/api"
)

// The types of this file are the part of the JSON contract that tells how a
// volume of a cluster is doing right now; see model.go. Nothing decides by it.

// Runtime is how a volume is doing.
type Runtime struct {
	Serving  string    `json:"serving"` // node that serves clients; empty: none does
	Lease    *Lease    `json:"lease"`   // null: none serves
	Replicas []Replica `json:"replicas"`
	Survives []string  `json:"survives"` // what may fail now without loss of service
	Space    *Space    `json:"space"`    // null: it is not known
}

// Space is what a volume takes when all of it is written.
type Space struct {
	DataBytes int64   `json:"data_bytes"` // of each replica: the image, or the shard,
	LogBytes  int64   `json:"log_bytes"`  // and its logs
	RawBytes  int64   `json:"raw_bytes"`  // of all replicas
	Usable    float64 `json:"usable"`     // the volume's size, as a part of that
}

// Lease is what lets the serving node answer reads by itself.
type Lease struct {
	Held        bool     `json:"held"`
	LeftSeconds *float64 `json:"left_seconds"` // null: no lease is used
	Confirm     bool     `json:"confirm"`      // none is used: each read asks the replicas
}

// Replica is one copy, as the serving node sees it.
type Replica struct {
	Node          string     `json:"node"`
	State         string     `json:"state"`
	Connected     bool       `json:"connected"`
	HeldSeq       uint64     `json:"held_seq"`
	DurableSeq    uint64     `json:"durable_seq"`
	BehindEntries uint64     `json:"behind_entries"`
	Resync        *Resync    `json:"resync"`   // null: it is not being brought level
	Compared      *time.Time `json:"compared"` // null: never since it joined
	Problems      []Problem  `json:"problems"`
}

// Resync is the progress of bringing a replica level.
type Resync struct {
	Kind           string     `json:"kind"` // log, extents, digest or full
	SyncedBytes    int64      `json:"synced_bytes"`
	TotalBytes     int64      `json:"total_bytes"`
	BytesPerSecond int64      `json:"bytes_per_second"`
	LeftSeconds    *float64   `json:"left_seconds"` // null: unknown
	Started        *time.Time `json:"started"`
	Waits          string     `json:"waits"` // why it does not go on; empty: it does
}

// newRuntime is nil where the answering node told nothing.
func newRuntime(v *api.Volume) *Runtime {
	if v.Serving == "" && len(v.Replicas) == 0 {
		return nil
	}
	out := &Runtime{Serving: v.Serving, Survives: some(v.Survives), Replicas: make([]Replica, 0, len(v.Replicas))}
	if l := v.Lease; l != nil {
		out.Lease = &Lease{Held: l.Held, LeftSeconds: seconds(l.Left), Confirm: l.Confirm}
	}
	if s := v.Space; s != nil && len(v.Replicas) > 0 {
		out.Space = &Space{DataBytes: s.DataBytes, LogBytes: s.LogBytes, RawBytes: int64(len(v.Replicas)) * (s.DataBytes + s.LogBytes)}
		out.Space.Usable = float64(v.SizeBytes) / float64(out.Space.RawBytes)
	}
	for _, r := range v.Replicas {
		out.Replicas = append(out.Replicas, Replica{Node: r.Node, State: api.ReplicaWord(r.State), Connected: r.Connected,
			HeldSeq: r.HeldSeq, DurableSeq: r.DurableSeq, BehindEntries: r.BehindEntries, Resync: newResync(r.Resync),
			Compared: instant(r.Compared), Problems: newProblems(r.Problems)})
	}
	return out
}

func newResync(r *api.Resync) *Resync {
	if r == nil {
		return nil
	}
	return &Resync{Kind: r.Kind.Word(), SyncedBytes: r.SyncedBytes, TotalBytes: r.TotalBytes, BytesPerSecond: r.BytesPerSecond,
		LeftSeconds: seconds(r.Left), Started: instant(r.Started), Waits: r.Waits}
}

// replica finds what is known of a replica right now; nil: nothing, as where no
// node serves.
func (r *Runtime) replica(node string) *Replica {
	if r == nil || r.Serving == "" {
		return nil
	}
	for i := range r.Replicas {
		if r.Replicas[i].Node == node {
			return &r.Replicas[i]
		}
	}
	return nil
}

// seconds is nil for a duration that is not known.
func seconds(d *durationpb.Duration) *float64 {
	if d == nil {
		return nil
	}
	s := d.AsDuration().Seconds()
	return &s
}

// instant is nil for a time that is not known, in the precision of the contract.
func instant(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	return moment(t.AsTime().UnixNano())
}

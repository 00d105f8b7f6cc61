package cluster

import (
	"time"

	"blkd/metadata/metapb"
)

// Phase is how far a node is on its way into the cluster; the package comment
// draws them.
type Phase int

// The phases of a node.
const (
	Founding Phase = iota + 1
	Joining
	Starting
	Registering
	Member
	Refused
	Failed
)

// String is the phase as people and JSON read it.
func (p Phase) String() string {
	switch p {
	case Founding:
		return "founding"
	case Joining:
		return "joining"
	case Starting:
		return "starting"
	case Registering:
		return "registering"
	case Member:
		return "member"
	case Refused:
		return "refused"
	case Failed:
		return "failed"
	default:
		return "unknown"
	}
}

// Status is the cluster as this node sees it now. It is a copy.
type Status struct {
	Name        string
	ID          uint64 // Raft id; 0: not founded or joined yet
	Incarnation uint64 // of this run
	Cluster     uint64 // 0: not founded or joined yet

	Phase   Phase
	Waiting string // what for, for people; empty: for nothing
	Advice  string // what to do about it; empty: it helps itself

	Leader  string // name; empty: there is none, or it is not known
	Term    uint64
	Commit  uint64 // index of the last Raft entry known as committed
	Applied uint64 // index of the last one that the state reflects

	Voters  []string // names, in order
	Missing []string // voters that are not in contact, in order: "n2: not heard for 4.1s (connection refused)"
	Have    int      // voters in contact, this node included if it is one
	Need    int      // a majority of the voters

	Peers []PeerStatus // the other nodes, by name
}

// PeerStatus is another node as this one sees it.
type PeerStatus struct {
	Name        string
	Address     string
	ID          uint64 // Raft id; 0: unknown
	Incarnation uint64 // of the run that was last in contact; 0: none was since this node started
	Build       string
	Connected   bool          // this node's connection to it is open
	Silent      time.Duration // since it was last heard; negative: never since this node started
	RTT         time.Duration // of the latest heartbeat; 0: unknown
	Why         string        // why there is no connection; empty with one
	Health      metapb.Health // this node's own verdict
	HealthText  string        // on what it rests
}

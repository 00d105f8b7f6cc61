package metadata

import (
	"errors"
	"fmt"
	"log/slog"

	"blkd/metadata/metapb"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// CoreConfig is what a Core is made of.
type CoreConfig struct {
	// ID is the node's Raft id, not 0. It must be the one of Log's identity,
	// if that has one.
	ID uint64
	// Log is the node's log; the caller closes it after the Core.
	Log *Log
	// Founders is the first command of the cluster, FoundCluster or
	// RestoreCluster, the same on each node of its list; ID is one of them. It
	// counts only if Log is empty. Nil: the node was in a quorum before, or a
	// leader will send it the state.
	Founders *metapb.Command
	// Backup is the encoded state that RestoreCluster begins with.
	Backup []byte
	// Logger is told what goes on; nil: slog.Default.
	Logger *slog.Logger

	// ElectionTick is after how many ticks of silence a voter campaigns; it
	// waits up to twice as long. 0: 10.
	ElectionTick int
	// HeartbeatTick is how often a leader is heard, in ticks; 0: 2.
	HeartbeatTick int
	// SnapshotEntries and SnapshotBytes: the state is written to the disk, and
	// the log before it cut, after so much of log. 0: 10,000 and 16 MiB.
	SnapshotEntries uint64
	SnapshotBytes   uint64
	// KeepEntries is how much of the log before a snapshot is kept for followers
	// that are behind; 0: 1,000.
	KeepEntries uint64
}

// Limits of what one message, one append and one round may carry, in bytes.
const (
	// MaxCommandBytes is the size of the largest command, encoded.
	MaxCommandBytes = 1 << 20

	maxAppendBytes      = 1 << 20 // more only for one entry
	maxAppends          = 256     // under way to one follower
	maxInflightBytes    = 16 << 20
	maxUncommittedBytes = 32 << 20 // proposals beyond are dropped
	maxApplyBytes       = 4 << 20  // of entries applied in one round
)

func (c *CoreConfig) setDefaults() error {
	if c.ID == 0 || c.Log == nil {
		return errors.New("metadata: a Core needs an id and a log")
	}
	if id := c.Log.Identity().GetId(); id != 0 && id != c.ID {
		return fmt.Errorf("metadata: the log in %s belongs to Raft id %d, not %d", c.Log.dir, id, c.ID)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.Log.logger.Store(c.Logger)
	setDefault(&c.ElectionTick, 10)
	setDefault(&c.HeartbeatTick, 2)
	setDefault(&c.SnapshotEntries, 10000)
	setDefault(&c.SnapshotBytes, 16<<20)
	setDefault(&c.KeepEntries, 1000)
	return nil
}

func setDefault[T int | uint64](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

func (c *CoreConfig) raft(applied uint64) *raft.Config {
	return &raft.Config{
		ID: c.ID, ElectionTick: c.ElectionTick, HeartbeatTick: c.HeartbeatTick,
		Storage: c.Log, Applied: applied,
		MaxSizePerMsg: maxAppendBytes, MaxInflightMsgs: maxAppends, MaxInflightBytes: maxInflightBytes,
		MaxUncommittedEntriesSize: maxUncommittedBytes, MaxCommittedSizePerReady: maxApplyBytes,
		PreVote: true, CheckQuorum: true, ReadOnlyOption: raft.ReadOnlySafe,
		DisableProposalForwarding: true, StepDownOnRemoval: true,
		Logger: raftLogger{c.Logger},
	}
}

// founding returns what every founder begins with: the state after the first
// command, at index 1 of term 1, as a snapshot. A snapshot and not an entry,
// because then there is nothing to agree on: index 1 is committed everywhere
// from the start, the founders' configuration needs no entry that changes it
// while nobody leads, and a node that joins later, with an empty log, does not
// match a log that begins at 2 and therefore always gets the whole state.
func (c *CoreConfig) founding() (*State, *raftpb.ConfState, error) {
	s := NewState()
	var founders []*metapb.Founder
	switch op := c.Founders.Op.(type) {
	case *metapb.Command_FoundCluster:
		founders = op.FoundCluster.Founders
	case *metapb.Command_RestoreCluster:
		founders = op.RestoreCluster.Founders
		var err error
		if s, err = DecodeState(c.Backup); err != nil {
			return nil, nil, fmt.Errorf("restore the cluster: %w", err)
		}
	default:
		return nil, nil, fmt.Errorf("metadata: a cluster cannot begin with %T", c.Founders.Op)
	}
	if r := s.Apply(1, c.Founders); r.Code != metapb.Code_CODE_OK {
		return nil, nil, fmt.Errorf("found the cluster: %s", r.Text)
	}
	conf, known := new(raftpb.ConfState), false
	for _, f := range founders {
		known = known || f.Id == c.ID
		if f.Voter {
			conf.Voters = append(conf.Voters, f.Id)
		} else {
			conf.Learners = append(conf.Learners, f.Id)
		}
	}
	if !known || len(conf.Voters) == 0 {
		return nil, nil, fmt.Errorf("found the cluster: Raft id %d is not among the founders, or none of them votes", c.ID)
	}
	s.ApplyConf(1, conf)
	return s, conf, nil
}

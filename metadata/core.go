package metadata

import (
	"errors"
	"fmt"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Core is one member of the quorum without clock, network and goroutine: Raft, its
// log and the state. Whoever drives it calls Tick, Step, Propose, ProposeConf and
// ReadIndex in any order, and Process after one or several of them. It is not safe
// for concurrent use, and after the first error of any method that says so it must
// not be used again.
type Core struct {
	config CoreConfig
	log    *Log
	raw    *raft.RawNode
	state  *State
	conf   *raftpb.ConfState

	applied position // of the last entry that the state reflects
	commit  uint64
	reads   []pendingRead
	nonce   []byte // tells the reads of this run from those of earlier ones
	// changing has the Contexts of changes of members that are not complete.
	changing  []string
	snapshots map[uint64]*snapshotWait // by follower that was sent one
}

// Output is what one Process brought about, in the order in which it happened.
type Output struct {
	Applied []Applied // commands, with their answers
	Confs   []string  // Contexts of the changes of members that took effect
	Members []Members // what changes of members have made of them
	Reads   []uint64  // ids given to ReadIndex: the state is now new enough for them
	Changed bool      // the state is another one
}

// Applied is a command that was applied.
type Applied struct {
	Index   uint64
	Request string          // the request id's bytes
	Command *metapb.Command // must not be changed
	Result  *metapb.Result
}

// Members are those of the quorum from an index on.
type Members struct {
	Index uint64
	Conf  *raftpb.ConfState // must not be changed
}

var (
	// ErrDropped ends a proposal whose outcome is unknown, or that was not taken
	// because leadership moves. Ask again with the same request id.
	ErrDropped = errors.New("the leader of the quorum changed meanwhile; ask again with the same request id")
	// ErrConfPending refuses a change of members while another one is under way.
	ErrConfPending = errors.New("another change of the quorum's members is under way; ask again when it is done")
)

// NewCore starts a member from what its log holds, or, if that is empty, founds a
// cluster or waits for one that sends it the state.
func NewCore(config CoreConfig) (*Core, error) {
	if err := config.setDefaults(); err != nil {
		return nil, err
	}
	c := &Core{config: config, log: config.Log, snapshots: make(map[uint64]*snapshotWait)}
	if err := c.restore(); err != nil {
		return nil, err
	}
	var err error
	if c.nonce, err = newNonce(config.ID); err != nil {
		return nil, err
	}
	c.raw, err = raft.NewRawNode(config.raft(c.applied.index))
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	c.commit = c.raw.BasicStatus().GetCommit()
	return c, nil
}

// restore makes the state that the log's snapshot holds.
func (c *Core) restore() error {
	if c.log.Empty() && c.config.Founders != nil {
		s, conf, err := c.config.founding()
		if err != nil {
			return err
		}
		if err := c.log.found(conf, s.Encode()); err != nil {
			return err
		}
	}
	c.state = NewState()
	_, conf, err := c.log.InitialState()
	if err != nil {
		return err
	}
	c.conf = conf
	c.applied = position{c.log.snap.GetIndex(), c.log.snap.GetTerm()}
	if c.applied.index == 0 {
		return nil
	}
	snap, err := c.log.Snapshot()
	if err != nil {
		return err
	}
	if c.state, err = DecodeState(snap.GetData()); err != nil {
		return c.log.fail("read the snapshot", err)
	}
	return nil
}

// Tick tells that one unit of time has passed.
func (c *Core) Tick() {
	var err error
	defer c.catch(&err) // Process returns it
	c.raw.Tick()
	c.tickSnapshots()
}

// Step takes in a message of another member, which must not be changed any more.
// An error means that it was of no use.
func (c *Core) Step(m *raftpb.Message) (err error) {
	defer c.catch(&err)
	return c.raw.Step(m)
}

// Propose asks the leader to append a command: the answer comes with a later
// Process, under the command's request id. ErrDropped: not on a leader, or too
// much is under way.
func (c *Core) Propose(cmd *metapb.Command) (err error) {
	defer c.catch(&err)
	b, err := proto.Marshal(cmd)
	if err != nil {
		return fmt.Errorf("encode a command: %w", err)
	}
	if len(b) > MaxCommandBytes {
		return fmt.Errorf("a command of %d bytes is larger than %d", len(b), MaxCommandBytes)
	}
	if err := c.raw.Propose(b); err != nil {
		return fmt.Errorf("%w (%w)", ErrDropped, err)
	}
	return nil
}

// ReadIndex asks for the index that a linearizable read has to wait for. When the
// state has come to it, a later Process names the id. The request can get lost,
// with a message or a leader: then ask again with another id.
func (c *Core) ReadIndex(id uint64) (err error) {
	defer c.catch(&err)
	if mutant.On(mutant.CoreStaleRead) {
		c.reads = append(c.reads, pendingRead{id, c.applied.index})
		return nil
	}
	c.raw.ReadIndex(c.readContext(id))
	return nil
}

// Transfer begins to hand leadership to another voter.
func (c *Core) Transfer(to uint64) (err error) {
	defer c.catch(&err)
	c.raw.TransferLeader(to)
	return nil
}

// State is the state machine; it changes with Process only.
func (c *Core) State() *State { return c.state }

// catch turns a panic of raft over a failed log, which is how it answers an error
// of its storage, into that error. Every other panic is a broken invariant.
func (c *Core) catch(err *error) {
	if c.log.Err() == nil {
		return
	}
	if p := recover(); p != nil {
		c.config.Logger.Debug("raft stopped", "panic", p)
	}
	*err = c.log.Err()
}

package metadata

import (
	"fmt"
	"sync"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// noLock is for a Core whose state nobody else reads.
type noLock struct{}

func (noLock) Lock()   {}
func (noLock) Unlock() {}

// Process does what is to be done: it makes the log durable, sends messages and
// applies what is committed. send must not block, and must take the messages as
// they are: they are never changed afterwards. An error is final: this member has
// to step aside.
//
// The order is Raft's: a leader's appends and heartbeats go out before the own
// disk has synced them (thesis, 10.2.1: the leader counts itself only later), all
// other messages after, because an answer or a vote is a promise.
func (c *Core) Process(send func([]*raftpb.Message)) (Output, error) {
	return c.process(send, noLock{})
}

// process holds the lock while it changes the state.
func (c *Core) process(send func([]*raftpb.Message), lock sync.Locker) (out Output, err error) {
	defer c.catch(&err)
	if err := c.log.Err(); err != nil {
		return out, err
	}
	for c.raw.HasReady() {
		rd := c.raw.Ready()
		early, late := c.split(rd.Messages)
		c.noteSnapshots(rd.Messages)
		if len(early) > 0 {
			send(early)
		}
		var state *State
		if !raft.IsEmptySnap(rd.Snapshot) {
			if state, err = DecodeState(rd.Snapshot.GetData()); err != nil {
				return out, c.log.fail("take in the leader's snapshot", err)
			}
		}
		if err := c.log.save(&rd); err != nil {
			return out, err
		}
		if len(late) > 0 {
			send(late)
		}
		c.checkCommit()
		if err := c.apply(&rd, state, lock, &out); err != nil {
			return out, err
		}
		c.noteReads(rd.ReadStates)
		c.raw.Advance(rd)
	}
	c.releaseReads(&out)
	return out, c.maybeCompact()
}

// split tells the messages that need not wait for the disk. Their term was made
// durable before: a leader has asked for votes in it.
func (c *Core) split(list []*raftpb.Message) (early, late []*raftpb.Message) {
	for _, m := range list {
		switch t := m.GetType(); {
		case (t == raftpb.MsgApp || t == raftpb.MsgHeartbeat) && m.GetTerm() <= c.log.term, mutant.On(mutant.CoreEarlyAnswer):
			early = append(early, m)
		default:
			late = append(late, m)
		}
	}
	return early, late
}

func (c *Core) checkCommit() {
	commit := c.log.hard.GetCommit()
	if commit < c.commit {
		panic(fmt.Sprintf("metadata: the commit index fell from %d to %d", c.commit, commit))
	}
	c.commit = commit
}

// apply brings the state up to what the Ready says is committed.
func (c *Core) apply(rd *raft.Ready, state *State, lock sync.Locker, out *Output) error {
	if state == nil && len(rd.CommittedEntries) == 0 {
		return nil
	}
	lock.Lock()
	defer lock.Unlock()
	if state != nil {
		meta := rd.Snapshot.GetMetadata()
		if meta.GetIndex() <= c.applied.index {
			panic(fmt.Sprintf("metadata: a snapshot of index %d, but %d is applied", meta.GetIndex(), c.applied.index))
		}
		c.state, c.conf = state, proto.CloneOf(meta.GetConfState())
		c.applied = position{meta.GetIndex(), meta.GetTerm()}
		out.Changed = true
	}
	for _, e := range rd.CommittedEntries {
		if e.GetIndex() != c.applied.index+1 || e.GetTerm() < c.applied.term || e.GetIndex() > c.commit {
			panic(fmt.Sprintf("metadata: entry %d of term %d follows %d of term %d, committed is %d", e.GetIndex(), e.GetTerm(), c.applied.index, c.applied.term, c.commit))
		}
		if err := c.applyEntry(e, out); err != nil {
			return c.log.fail(fmt.Sprintf("apply entry %d", e.GetIndex()), err)
		}
		c.applied = position{e.GetIndex(), e.GetTerm()}
	}
	return nil
}

func (c *Core) applyEntry(e *raftpb.Entry, out *Output) error {
	switch e.GetType() {
	case raftpb.EntryConfChange:
		change := new(raftpb.ConfChange)
		if err := proto.Unmarshal(e.GetData(), change); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		c.applyConf(e.GetIndex(), change.AsV2(), out)
	case raftpb.EntryConfChangeV2:
		change := new(raftpb.ConfChangeV2)
		if err := proto.Unmarshal(e.GetData(), change); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		c.applyConf(e.GetIndex(), change, out)
	default:
		if len(e.GetData()) == 0 {
			return nil // a new leader's first entry
		}
		cmd := new(metapb.Command)
		if err := proto.Unmarshal(e.GetData(), cmd); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		r := c.state.Apply(e.GetIndex(), cmd)
		out.Applied = append(out.Applied, Applied{e.GetIndex(), string(cmd.Request), cmd, r})
		out.Changed = true
	}
	return nil
}

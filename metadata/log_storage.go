package metadata

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// InitialState implements raft.Storage. The configuration is that of the
// snapshot; what changed it since is in the entries, and Core applies them.
func (l *Log) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	conf := l.snap.GetConfState()
	if conf == nil {
		conf = new(raftpb.ConfState)
	}
	return proto.CloneOf(l.hard), proto.CloneOf(conf), l.Err()
}

// FirstIndex implements raft.Storage.
func (l *Log) FirstIndex() (uint64, error) { return l.base.index + 1, l.Err() }

// LastIndex implements raft.Storage.
func (l *Log) LastIndex() (uint64, error) { return l.last, l.Err() }

// Term implements raft.Storage.
func (l *Log) Term(index uint64) (uint64, error) {
	switch {
	case l.Err() != nil:
		return 0, l.Err()
	case index < l.base.index:
		return 0, raft.ErrCompacted
	case index > l.last:
		return 0, raft.ErrUnavailable
	case index == l.base.index:
		return l.base.term, nil
	}
	if list := l.tail.from(index); list != nil {
		return list[0].GetTerm(), nil
	}
	list, err := l.read(index, index+1, 0)
	if err != nil {
		return 0, err
	}
	return list[0].GetTerm(), nil
}

// Entries implements raft.Storage.
func (l *Log) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	switch {
	case l.Err() != nil:
		return nil, l.Err()
	case lo <= l.base.index:
		return nil, raft.ErrCompacted
	case hi > l.last+1:
		return nil, raft.ErrUnavailable
	case lo >= hi:
		return nil, nil
	}
	list := l.tail.from(lo)
	if list == nil {
		return l.read(lo, hi, maxSize)
	}
	list = list[:hi-lo]
	total, n := uint64(0), 0
	for _, e := range list {
		if total += uint64(proto.Size(e)); n > 0 && total > maxSize {
			break
		}
		n++
	}
	return list[:n:n], nil // an append by the caller copies
}

// read gets entries from the disk.
func (l *Log) read(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	var list []*raftpb.Entry
	total := uint64(0)
	err := l.scan(lo, hi, func(e *raftpb.Entry, size uint64) (bool, error) {
		if total += size; len(list) > 0 && total > maxSize {
			return false, nil
		}
		if want := lo + uint64(len(list)); e.GetIndex() != want {
			return false, fmt.Errorf("%w: entry %d is missing, the next is %d", errDamaged, want, e.GetIndex())
		}
		list = append(list, e)
		return true, nil
	})
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%w: entry %d is missing", errDamaged, lo)
	}
	if err != nil {
		return nil, l.fail("read", err)
	}
	return list, nil
}

// Snapshot implements raft.Storage: the one on the disk.
func (l *Log) Snapshot() (*raftpb.Snapshot, error) {
	if l.Err() != nil {
		return nil, l.Err()
	}
	data, err := l.snapshotData()
	if err != nil {
		return nil, l.fail("read the snapshot", err)
	}
	return &raftpb.Snapshot{Data: data, Metadata: proto.CloneOf(l.snap)}, nil
}

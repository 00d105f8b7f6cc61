package metadata

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// partBytes is how much of a snapshot goes into one key. The parts are written
// first; one synced batch, with the last of them, then makes them the snapshot.
// So no batch is large.
const partBytes = 256 << 10

// compact writes a snapshot of the state at an applied index and drops the log
// up to keep entries before it.
func (l *Log) compact(at position, conf *raftpb.ConfState, data []byte, keep uint64) error {
	if at.index <= l.snap.GetIndex() || at.index > l.last || at.index > l.hard.GetCommit() {
		panic(fmt.Sprintf("metadata: snapshot of index %d; the last was %d, the log ends at %d, committed is %d", at.index, l.snap.GetIndex(), l.last, l.hard.GetCommit()))
	}
	base := l.base
	if at.index > keep && at.index-keep > base.index {
		term, err := l.Term(at.index - keep)
		if err != nil {
			return err
		}
		base = position{at.index - keep, term}
	}
	meta := &raftpb.SnapshotMetadata{Index: &at.index, Term: &at.term, ConfState: conf}
	err := l.replaceSnapshot(meta, data, func(b *pebble.Batch) error {
		if base == l.base {
			return nil
		}
		return errors.Join(
			b.DeleteRange(entryKey(0), entryKey(base.index+1), nil),
			b.Set(baseKey, base.encode(), nil))
	})
	if err != nil {
		return err
	}
	l.base, l.sinceSnap = base, 0
	l.tail.compact(base.index)
	return nil
}

// install replaces state and log by a leader's snapshot, and by the entries behind
// it if they came at the same time.
func (l *Log) install(s *raftpb.Snapshot, entries []*raftpb.Entry) error {
	at := position{s.GetMetadata().GetIndex(), s.GetMetadata().GetTerm()}
	if at.index <= l.snap.GetIndex() || at.index > l.hard.GetCommit() {
		panic(fmt.Sprintf("metadata: install a snapshot of index %d; the last was of %d, committed is %d", at.index, l.snap.GetIndex(), l.hard.GetCommit()))
	}
	var bytes uint64
	err := l.replaceSnapshot(s.GetMetadata(), s.GetData(), func(b *pebble.Batch) error {
		err := errors.Join(
			b.DeleteRange(entryKey(0), entriesEnd, nil),
			b.Set(baseKey, at.encode(), nil))
		if err == nil {
			bytes, err = setEntries(b, at.index+1, entries)
		}
		return err
	})
	if err != nil {
		return err
	}
	l.base, l.last, l.sinceSnap, l.tail = at, at.index, 0, logTail{}
	l.wroteEntries(entries, bytes)
	return nil
}

// found makes the first snapshot of an empty log: what all founders begin with.
func (l *Log) found(conf *raftpb.ConfState, data []byte) error {
	one := uint64(1)
	l.hard, l.hardStale = &raftpb.HardState{Term: &one, Commit: &one}, true
	return l.install(&raftpb.Snapshot{
		Data:     data,
		Metadata: &raftpb.SnapshotMetadata{Index: &one, Term: &one, ConfState: conf},
	}, nil)
}

// replaceSnapshot writes the parts, then commits what makes them the snapshot,
// with the hard state and what more adds.
func (l *Log) replaceSnapshot(meta *raftpb.SnapshotMetadata, data []byte, more func(*pebble.Batch) error) error {
	if err := l.Err(); err != nil {
		return err
	}
	index, n := meta.GetIndex(), uint32(0)
	size := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	for ; len(data) > l.options.partBytes; n++ {
		if err := l.db.Set(partKey(index, n), data[:l.options.partBytes], l.options.partSync); err != nil {
			return l.fail("write a snapshot", err)
		}
		data = data[l.options.partBytes:]
	}
	b := l.db.NewBatch()
	defer b.Close()
	err := errors.Join(
		b.Set(partKey(index, n), data, nil),
		b.DeleteRange(partKey(0, 0), partKey(index, 0), nil),
		b.DeleteRange(partKey(index, n+1), partsEnd, nil),
		setMessage(b, snapshotKey, meta),
		b.Set(sizeKey, size, nil),
		more(b),
		l.putHard(b))
	if err != nil {
		return l.fail("encode", err)
	}
	if err := l.commit(b, "write a snapshot"); err != nil {
		return err
	}
	l.wroteHard()
	l.snap = proto.CloneOf(meta)
	return nil
}

// snapshotData reads the contents of the snapshot.
func (l *Log) snapshotData() ([]byte, error) {
	index := l.snap.GetIndex()
	if index == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	var data []byte
	size := uint64(0)
	err := l.get(sizeKey, func(b []byte) error {
		if len(b) != 8 {
			return fmt.Errorf("%w: %d bytes for a size", errDamaged, len(b))
		}
		size = binary.LittleEndian.Uint64(b)
		return nil
	})
	for n := uint32(0); err == nil && uint64(len(data)) < size; n++ {
		before := len(data)
		err = l.get(partKey(index, n), func(b []byte) error {
			data = append(data, b...)
			return nil
		})
		if err == nil && len(data) == before {
			err = fmt.Errorf("%w: part %d of the snapshot of index %d is missing", errDamaged, n, index)
		}
	}
	if err == nil && uint64(len(data)) != size {
		err = fmt.Errorf("%w: the snapshot of index %d has %d bytes, not %d", errDamaged, index, len(data), size)
	}
	return data, err
}

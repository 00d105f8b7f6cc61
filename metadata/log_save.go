package metadata

import (
	"fmt"

	"blkd/internal/mutant"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// save makes durable what a Ready carries, in one synced batch. A commit index
// alone is not worth one: it goes with the next batch. Losing it is harmless
// because the leader tells it again.
func (l *Log) save(rd *raft.Ready) error {
	if err := l.Err(); err != nil {
		return err
	}
	committed := l.hard.GetCommit() // the Ready may commit what it appends
	if !raft.IsEmptyHardState(rd.HardState) {
		l.hard, l.hardStale = proto.CloneOf(rd.HardState), true
	}
	if !rd.MustSync && raft.IsEmptySnap(rd.Snapshot) {
		return nil
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		return l.install(rd.Snapshot, rd.Entries)
	}
	b := l.db.NewBatch()
	defer b.Close()
	bytes, err := l.putEntries(b, rd.Entries, committed)
	if err != nil {
		return l.fail("encode", err)
	}
	if err := l.putHard(b); err != nil {
		return l.fail("encode", err)
	}
	if err := l.commit(b, "append"); err != nil {
		return err
	}
	l.wroteHard()
	l.wroteEntries(rd.Entries, bytes)
	return nil
}

// commit writes a batch and syncs it.
func (l *Log) commit(b *pebble.Batch, op string) error {
	if err := l.Err(); err != nil {
		return err
	}
	sync := pebble.Sync
	if mutant.On(mutant.LogSkipSync) {
		sync = pebble.NoSync
	}
	if err := l.db.Apply(b, sync); err != nil {
		return l.fail(op, err)
	}
	return l.Err() // see pebbleLogger.Fatalf
}

func (l *Log) putHard(b *pebble.Batch) error {
	if !l.hardStale || mutant.On(mutant.LogForgetVote) && l.last > 1 {
		return nil
	}
	return setMessage(b, hardKey, l.hard)
}

func (l *Log) wroteHard() {
	l.hardStale = false
	l.term, l.vote = l.hard.GetTerm(), l.hard.GetVote()
}

// putEntries adds the entries to a batch, and the removal of what conflicts with
// them: everything from the first on is void, and must not have been committed. It
// returns their size.
func (l *Log) putEntries(b *pebble.Batch, entries []*raftpb.Entry, committed uint64) (bytes uint64, err error) {
	if len(entries) == 0 {
		return 0, nil
	}
	first, end := entries[0].GetIndex(), entries[len(entries)-1].GetIndex()+1
	if first <= l.base.index || first > l.last+1 {
		panic(fmt.Sprintf("metadata: append of entry %d to a log of %d to %d", first, l.base.index+1, l.last))
	}
	if first <= committed && first <= l.last {
		if term, err := l.Term(first); err != nil || term != entries[0].GetTerm() {
			panic(fmt.Sprintf("metadata: entry %d of term %d replaces a committed one of term %d (%v)", first, entries[0].GetTerm(), term, err))
		}
	}
	if end <= l.last && !mutant.On(mutant.LogKeepConflict) {
		if err := b.DeleteRange(entryKey(end), entryKey(l.last+1), nil); err != nil {
			return 0, err
		}
	}
	return setEntries(b, first, entries)
}

// setEntries adds entries to a batch, the first of which has to have an index.
func setEntries(b *pebble.Batch, first uint64, entries []*raftpb.Entry) (bytes uint64, err error) {
	for i, e := range entries {
		if e.GetIndex() != first+uint64(i) {
			panic(fmt.Sprintf("metadata: entry %d follows %d entries from %d", e.GetIndex(), i, first))
		}
		v, err := proto.Marshal(e)
		if err != nil {
			return 0, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		if err := b.Set(entryKey(e.GetIndex()), v, nil); err != nil {
			return 0, err
		}
		bytes += uint64(len(v))
	}
	return bytes, nil
}

func (l *Log) wroteEntries(entries []*raftpb.Entry, bytes uint64) {
	if len(entries) == 0 {
		return
	}
	l.tail.cut(entries[0].GetIndex())
	for _, e := range entries {
		l.tail.append(e)
	}
	l.last = entries[len(entries)-1].GetIndex()
	l.sinceSnap += bytes
}

package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"blkd/internal/env"
	"blkd/metadata/metapb"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Log is what a node of the quorum keeps on its disk, in one Pebble database: who
// it is, its vote, the Raft log and a snapshot of the state. It implements
// raft.Storage. Identity and SetIdentity are safe for concurrent use; everything
// else belongs to one Core.
//
// The first failure to write is final: what the disk has kept is unknown then, so
// everything fails from there on with the same error ([Log.Err]) and only a fresh
// start reads the disk again.
type Log struct {
	db      LogStore
	dir     string
	options logOptions
	logger  atomic.Pointer[slog.Logger]
	failed  atomic.Pointer[LogError] // the first failure

	mu       sync.Mutex
	identity *metapb.Identity

	hard       *raftpb.HardState
	hardStale  bool                     // hard has a commit index that the disk has not
	term, vote uint64                   // as durable
	snap       *raftpb.SnapshotMetadata // of the snapshot on the disk; index 0: none
	base       position                 // of the entry before the first
	last       uint64                   // index of the last entry; base.index if there is none
	tail       logTail
	sinceSnap  uint64 // bytes of the entries behind the snapshot
}

// position is a place in the Raft log.
type position struct{ index, term uint64 }

// OpenLog opens the log in a directory, or makes an empty one there. It fails if
// another process has it open, if a newer build wrote it, or if it is damaged.
func OpenLog(fs env.FS, dir string) (*Log, error) {
	return openLog(fs, dir, logOptions{partBytes: partBytes, partSync: pebble.NoSync})
}

// logOptions are what tests change.
type logOptions struct {
	manual    bool // Pebble compacts only when told to
	partBytes int
	partSync  *pebble.WriteOptions
}

func newLog(dir string, o logOptions) *Log {
	l := &Log{dir: dir, options: o}
	l.logger.Store(slog.Default())
	return l
}

func openLog(fs env.FS, dir string, o logOptions) (*Log, error) {
	l := newLog(dir, o)
	db, err := pebble.Open(dir, l.pebbleOptions(fs))
	if err != nil {
		return nil, l.fail("open", err)
	}
	if err := l.Err(); err != nil { // see stopFS
		db.Close() //nolint:errcheck // the error that matters is known
		return nil, err
	}
	return l.openOn(pebbleStore{db})
}

// openOn reads what a store holds.
func (l *Log) openOn(store LogStore) (*Log, error) {
	l.db = store
	if err := l.load(); err != nil {
		store.Close() //nolint:errcheck // the error that matters is known
		return nil, l.fail("read", err)
	}
	return l, nil
}

// load reads everything but the snapshot's contents.
func (l *Log) load() error {
	if err := l.checkFormat(); err != nil {
		return err
	}
	l.identity, l.hard, l.snap = new(metapb.Identity), new(raftpb.HardState), new(raftpb.SnapshotMetadata)
	for _, r := range []struct {
		key []byte
		m   proto.Message
	}{{identityKey, l.identity}, {hardKey, l.hard}, {snapshotKey, l.snap}} {
		if err := l.get(r.key, func(b []byte) error { return proto.Unmarshal(b, r.m) }); err != nil {
			return err
		}
	}
	if err := l.get(baseKey, l.base.decode); err != nil {
		return err
	}
	l.term, l.vote = l.hard.GetTerm(), l.hard.GetVote()
	if err := l.loadEntries(); err != nil {
		return err
	}
	return l.checkLoaded()
}

// loadEntries checks that the entries follow one another and fills the tail.
func (l *Log) loadEntries() error {
	l.last = l.base.index
	term := l.base.term
	return l.scan(l.base.index+1, ^uint64(0), func(e *raftpb.Entry, size uint64) (bool, error) {
		if e.GetIndex() != l.last+1 || e.GetTerm() < term {
			return false, fmt.Errorf("%w: entry %d of term %d follows entry %d of term %d", errDamaged, e.GetIndex(), e.GetTerm(), l.last, term)
		}
		l.last, term = e.GetIndex(), e.GetTerm()
		if l.last > l.snap.GetIndex() {
			l.sinceSnap += size
		}
		l.tail.append(e)
		return true, nil
	})
}

// checkLoaded checks what the records say of each other.
func (l *Log) checkLoaded() error {
	snap, commit := l.snap.GetIndex(), l.hard.GetCommit()
	switch {
	case snap < l.base.index || snap > l.last:
		return fmt.Errorf("%w: the snapshot is of index %d, the log has %d to %d", errDamaged, snap, l.base.index+1, l.last)
	case commit < snap || commit > l.last:
		return fmt.Errorf("%w: index %d is committed, the snapshot is of %d, the log ends at %d", errDamaged, commit, snap, l.last)
	}
	if l.last == 0 {
		return nil
	}
	term, err := l.Term(l.last)
	if err == nil && term > l.term {
		err = fmt.Errorf("%w: the last entry is of term %d, the vote of term %d", errDamaged, term, l.term)
	}
	return err
}

// checkFormat refuses what a newer build wrote and marks an empty database.
func (l *Log) checkFormat() error {
	found := false
	err := l.get(formatKey, func(b []byte) error {
		found = true
		if bytes.Equal(b, formatValue) {
			return nil
		}
		if v, err := decodeFormat(b); err == nil && v > logFormat {
			return fmt.Errorf("%w: it has format %d, this build knows %d", errNewerFormat, v, logFormat)
		}
		return fmt.Errorf("%w: format record %x", errDamaged, b)
	})
	if err != nil || found {
		return err
	}
	if empty, err := l.empty(); err != nil || !empty {
		return errors.Join(err, fmt.Errorf("%w: it has no format record", errDamaged))
	}
	return l.db.Set(formatKey, formatValue, pebble.Sync)
}

// Identity returns what the disk knows of the node: all zero in a fresh
// directory. The caller owns it.
func (l *Log) Identity() *metapb.Identity {
	l.mu.Lock()
	defer l.mu.Unlock()
	return proto.CloneOf(l.identity)
}

// SetIdentity replaces the identity; it is durable when it returns nil.
func (l *Log) SetIdentity(id *metapb.Identity) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	id = proto.CloneOf(id)
	b := l.db.NewBatch()
	defer b.Close()
	if err := setMessage(b, identityKey, id); err != nil {
		return err
	}
	if err := l.commit(b, "write the identity"); err != nil {
		return err
	}
	l.identity = id
	return nil
}

// Empty tells whether the node has never been part of a quorum on this disk: no
// entry, no snapshot, no vote.
func (l *Log) Empty() bool { return l.last == 0 && l.term == 0 }

// Err returns the failure after which nothing works any more; nil if there is none.
func (l *Log) Err() error {
	if e := l.failed.Load(); e != nil {
		return e
	}
	return nil
}

// Close ends the use of the log. After a failure it lets go of what it can.
func (l *Log) Close() error {
	if l.Err() == nil && l.hardStale {
		l.saveHard() //nolint:errcheck // a failure is recorded
	}
	if err := l.db.Close(); err != nil && l.Err() == nil {
		return l.fail("close", err)
	}
	return l.Err()
}

// saveHard writes a commit index that no batch has carried.
func (l *Log) saveHard() error {
	b := l.db.NewBatch()
	defer b.Close()
	if err := l.putHard(b); err != nil {
		return l.fail("encode", err)
	}
	return l.commit(b, "write the commit index")
}

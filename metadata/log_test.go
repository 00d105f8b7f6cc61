package metadata

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"blkd/internal/env/crashfs"
	"blkd/metadata/metapb"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// appendTo saves entries of one term behind the log's end, as a Ready brings them.
func appendTo(l *Log, term uint64, sizes ...int) error {
	var entries []*raftpb.Entry
	for i, n := range sizes {
		entries = append(entries, &raftpb.Entry{Index: new(l.last + uint64(i) + 1), Term: new(term), Data: bytes.Repeat([]byte{'e'}, n)})
	}
	return saveTo(l, term, entries)
}

func saveTo(l *Log, term uint64, entries []*raftpb.Entry) error {
	return l.save(&raft.Ready{Entries: entries, MustSync: true, HardState: &raftpb.HardState{Term: new(term), Vote: new(uint64(1)), Commit: new(l.hard.GetCommit())}})
}

// commitUpTo lets the log know what is committed; that is not worth a sync by itself.
func commitUpTo(l *Log, index uint64) { l.hard.Commit, l.hardStale = &index, true }

func mustOpen(t testing.TB, fs *crashfs.FS) *Log {
	t.Helper()
	l, err := OpenLog(fs, "/log")
	if err != nil {
		t.Fatal(err)
	}
	l.logger.Store(quiet)
	return l
}

func mustDo(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestLogKeepsWhatItIsGiven closes and opens a log again and again.
func TestLogKeepsWhatItIsGiven(t *testing.T) {
	fs := crashfs.New()
	l := mustOpen(t, fs)
	if !l.Empty() || !proto.Equal(l.Identity(), &metapb.Identity{}) {
		t.Errorf("a fresh log: %v", l.Identity())
	}
	id := &metapb.Identity{Disk: 5, Name: "n1", Tried: []uint64{7}}
	mustDo(t, l.SetIdentity(id))
	if !l.Empty() {
		t.Error("an identity alone makes no log")
	}
	mustDo(t, appendTo(l, 3, 10, 20, 30))
	commitUpTo(l, 2)
	mustDo(t, l.Close())

	l = mustOpen(t, fs)
	if !proto.Equal(l.Identity(), id) || l.Empty() || l.last != 3 || l.term != 3 || l.vote != 1 || l.hard.GetCommit() != 2 {
		t.Errorf("opened again: %v, %v, last %d", l.Identity(), l.hard, l.last)
	}
	// A leader of a later term replaces the tail.
	mustDo(t, saveTo(l, 4, []*raftpb.Entry{{Index: new(uint64(3)), Term: new(uint64(4)), Data: []byte("new")}}))
	mustDo(t, appendTo(l, 4, 5), l.Close())
	l = mustOpen(t, fs)
	list, err := l.Entries(1, 5, 1<<20)
	if err != nil || len(list) != 4 || string(list[2].GetData()) != "new" || list[3].GetTerm() != 4 {
		t.Errorf("entries %v, %v", list, err)
	}
	mustDo(t, l.Close())
}

// TestLogServesTailAndDisk reads entries that are in memory, on the disk and gone.
func TestLogServesTailAndDisk(t *testing.T) {
	l := mustOpen(t, crashfs.New())
	defer l.Close()
	for range 100 {
		mustDo(t, appendTo(l, 1, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100))
	}
	commitUpTo(l, 2000)
	mustDo(t, l.compact(position{2000, 1}, &raftpb.ConfState{Voters: []uint64{1}}, []byte("state"), 1500))
	if l.base.index != 500 || l.tail.entries[0].GetIndex() <= 1000 {
		t.Fatalf("base %d, tail from %d", l.base.index, l.tail.entries[0].GetIndex())
	}
	for _, c := range []struct {
		lo, hi, size uint64
		want         int
		err          error
	}{
		{500, 600, 1 << 30, 0, raft.ErrCompacted},
		{501, 600, 1 << 30, 99, nil}, // from the disk
		{501, 600, 0, 1, nil},
		{501, 600, 250, 2, nil},
		{501, 2501, 1 << 30, 2000, nil},
		{2490, 2501, 1 << 30, 11, nil}, // from memory
		{2490, 2501, 0, 1, nil},
		{2490, 2501, 250, 2, nil},
		{2490, 2490, 1 << 30, 0, nil},
		{2490, 2502, 1 << 30, 0, raft.ErrUnavailable},
	} {
		list, err := l.Entries(c.lo, c.hi, c.size)
		if !errors.Is(err, c.err) || len(list) != c.want || len(list) > 0 && list[0].GetIndex() != c.lo {
			t.Errorf("[%d,%d) up to %d bytes: %d entries, %v", c.lo, c.hi, c.size, len(list), err)
		}
	}
	for index, want := range map[uint64]error{499: raft.ErrCompacted, 500: nil, 501: nil, 2500: nil, 2501: raft.ErrUnavailable} {
		if term, err := l.Term(index); !errors.Is(err, want) || err == nil && term != 1 {
			t.Errorf("term of %d: %d, %v", index, term, err)
		}
	}
	if s, err := l.Snapshot(); err != nil || string(s.GetData()) != "state" || s.GetMetadata().GetIndex() != 2000 {
		t.Errorf("snapshot %v, %v", s, err)
	}
}

// TestLogSnapshotInParts writes snapshots of several parts, larger and smaller.
func TestLogSnapshotInParts(t *testing.T) {
	fs := crashfs.New()
	l := mustOpen(t, fs)
	if _, err := l.Snapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Errorf("a snapshot that was never made: %v", err)
	}
	l = reopen(t, l, fs)
	for i, size := range []int{3*partBytes + 5, 0, partBytes, 2 * partBytes, 1} {
		mustDo(t, appendTo(l, 1, 1))
		commitUpTo(l, l.last)
		want := bytes.Repeat([]byte{byte(i)}, size)
		mustDo(t, l.compact(position{l.last, 1}, &raftpb.ConfState{Voters: []uint64{1}}, want, 0))
		l = reopen(t, l, fs)
		s, err := l.Snapshot()
		if err != nil || !bytes.Equal(s.GetData(), want) || s.GetMetadata().GetIndex() != uint64(i+1) {
			t.Fatalf("snapshot %d has %d bytes, not %d: %v", i, len(s.GetData()), size, err)
		}
	}
	parts := 0
	it, err := l.pebble().NewIter(&pebble.IterOptions{LowerBound: partKey(0, 0), UpperBound: partsEnd})
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		parts++
	}
	if mustDo(t, it.Close(), l.Close()); parts != 1 {
		t.Errorf("%d parts are kept of a snapshot of one byte", parts)
	}
}

func reopen(t testing.TB, l *Log, fs *crashfs.FS) *Log {
	t.Helper()
	if l.Err() != nil {
		l.Close()
		fs.Kill()
	} else {
		mustDo(t, l.Close())
	}
	return mustOpen(t, fs)
}

// TestLogOnAFullDisk fills the disk of a log with Pebble at its liberty, so that
// the space runs out in all places. It has to stop with that error, refuse to open
// again as long as there is no space, and then have all that it said it had.
func TestLogOnAFullDisk(t *testing.T) {
	for _, room := range []int64{0, 4 << 10, 20 << 10, 100 << 10, 1 << 20, 3 << 20, 5 << 20, 9 << 20} {
		fs := crashfs.New()
		l := mustOpen(t, fs)
		mustDo(t, appendTo(l, 1, 10))
		fs.SetBudget(fs.Used() + room)
		var err error
		kept := l.last
		for err == nil {
			kept = l.last
			err = appendTo(l, 1, 30000, 5000)
		}
		for _, err := range []error{err, l.SetIdentity(&metapb.Identity{Disk: 1}), appendTo(l, 1, 1), l.Err(), l.Close()} {
			if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "free some space and restart blkd") {
				t.Errorf("%d bytes of room: %v", room, err)
			}
		}
		fs.Kill()
		for range 2 {
			fs.SetBudget(0)
			if _, err := OpenLog(fs, "/log"); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%d bytes of room, opened on a full disk: %v", room, err)
			}
			if lock, err := fs.Lock("/log/LOCK"); err != nil {
				t.Errorf("%d bytes of room: who did not open it holds it: %v", room, err)
			} else {
				lock.Close()
			}
			fs.Kill()
		}
		fs.SetBudget(-1)
		l = mustOpen(t, fs)
		if l.last < kept {
			t.Errorf("%d bytes of room: the log ends at %d, it had %d", room, l.last, kept)
		}
		mustDo(t, appendTo(l, 1, 10), l.Close())
	}
}

// TestLogFailures injects an error into each kind of operation.
func TestLogFailures(t *testing.T) {
	for _, rule := range []crashfs.Rule{
		{Ops: crashfs.OpSync, Name: "*.log"}, {Ops: crashfs.OpWrite, Name: "*.log"}, {Ops: crashfs.OpCreate},
		{Ops: crashfs.OpSyncDir}, {Ops: crashfs.OpSync, Name: "*.sst"}, {Ops: crashfs.OpSync, Name: "MANIFEST*"}, {Ops: crashfs.OpRename},
	} {
		for _, skip := range []int{0, 2} {
			fs := crashfs.New()
			l := mustOpen(t, fs)
			rule.Skip, rule.Times = skip, 1
			fs.Inject(rule)
			kept := l.last
			for n := 0; n < 60 && l.Err() == nil; n++ {
				if err := appendTo(l, 1, 30000); err == nil {
					kept = l.last
				}
			}
			if err := l.Close(); err != l.Err() || err != nil && !errors.Is(err, syscall.EIO) {
				t.Errorf("%v of %s: closed with %v, failed with %v", rule.Ops, rule.Name, err, l.Err())
			}
			fs.Kill()
			fs.ClearRules()
			fs = fs.CrashMode(crashfs.AllLost, 1)
			l = mustOpen(t, fs)
			if l.last < kept {
				t.Errorf("%v of %s: the log ends at %d, it had %d", rule.Ops, rule.Name, l.last, kept)
			}
			mustDo(t, l.Close())
		}
	}
}

// TestLogRefuses opens what it must not go on with.
func TestLogRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(db *pebble.DB) error
		want  string
	}{
		{"a newer format", func(db *pebble.DB) error { return db.Set(formatKey, []byte{9, 0, 0, 0}, nil) }, "it has format 9, this build knows 1; start a build that is as new"},
		{"no format", func(db *pebble.DB) error { return db.Delete(formatKey, nil) }, "it has no format record"},
		{"a strange format", func(db *pebble.DB) error { return db.Set(formatKey, []byte{9}, nil) }, "format record 09"},
		{"a damaged vote", func(db *pebble.DB) error { return db.Set(hardKey, []byte{0xff}, nil) }, `record "hard"`},
		{"no vote", func(db *pebble.DB) error { return db.Delete(hardKey, nil) }, "index 0 is committed, the snapshot is of 3"},
		{"a damaged identity", func(db *pebble.DB) error { return db.Set(identityKey, []byte{0xff}, nil) }, `record "identity"`},
		{"a missing entry", func(db *pebble.DB) error { return db.Delete(entryKey(4), nil) }, "entry 5 of term 1 follows entry 3"},
		{"a damaged entry", func(db *pebble.DB) error { return db.Set(entryKey(4), []byte{0xff}, nil) }, "the metadata log is damaged: entry"},
		{"an entry of the future", func(db *pebble.DB) error {
			b, err := proto.Marshal(&raftpb.Entry{Index: new(uint64(6)), Term: new(uint64(9))})
			return errors.Join(err, db.Set(entryKey(6), b, nil))
		}, "the last entry is of term 9, the vote of term 1"},
		{"a short base", func(db *pebble.DB) error { return db.Set(baseKey, []byte{1}, nil) }, "1 bytes for a position"},
		{"a base beyond the snapshot", func(db *pebble.DB) error { return db.Set(baseKey, position{5, 1}.encode(), nil) }, "the snapshot is of index 3"},
		{"no snapshot", func(db *pebble.DB) error { return db.Delete(snapshotKey, nil) }, "the snapshot is of index 0"},
	} {
		fs := crashfs.New()
		l := mustOpen(t, fs)
		mustDo(t, appendTo(l, 1, 1, 1, 1, 1, 1))
		commitUpTo(l, 5)
		mustDo(t, l.compact(position{3, 1}, &raftpb.ConfState{Voters: []uint64{1}}, []byte("state"), 1))
		mustDo(t, c.spoil(l.pebble()), l.Close())
		_, err := OpenLog(fs, "/log")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	fs := crashfs.New()
	l := mustOpen(t, fs)
	if _, err := OpenLog(fs, "/log"); err == nil || !strings.Contains(err.Error(), "stop the other blkd") {
		t.Errorf("opened twice: %v", err)
	}
	mustDo(t, l.Close())
}

// TestSnapshotIsDamaged reads snapshots with parts missing.
func TestSnapshotIsDamaged(t *testing.T) {
	for i, spoil := range []func(db *pebble.DB) error{
		func(db *pebble.DB) error { return db.Delete(partKey(1, 1), nil) },
		func(db *pebble.DB) error { return db.Set(partKey(1, 1), nil, nil) },
		func(db *pebble.DB) error { return db.Set(partKey(1, 0), make([]byte, 5), nil) },
		func(db *pebble.DB) error { return db.Set(sizeKey, make([]byte, 3), nil) },
	} {
		fs := crashfs.New()
		l := mustOpen(t, fs)
		mustDo(t, l.found(&raftpb.ConfState{Voters: []uint64{1}}, make([]byte, partBytes+10)), spoil(l.pebble()))
		if _, err := l.Snapshot(); !errors.Is(err, errDamaged) || l.Err() == nil {
			t.Errorf("case %d: %v", i, err)
		}
		l.Close()
	}
}

// TestSnapshotWithEntries takes in a leader's snapshot and, in the same round, what
// follows it.
func TestSnapshotWithEntries(t *testing.T) {
	fs := crashfs.New()
	l := mustOpen(t, fs)
	mustDo(t, appendTo(l, 1, 1, 1, 1))
	snap := &raftpb.Snapshot{Data: []byte("state"), Metadata: &raftpb.SnapshotMetadata{Index: new(uint64(7)), Term: new(uint64(2)), ConfState: &raftpb.ConfState{Voters: []uint64{1}}}}
	mustDo(t, l.save(&raft.Ready{
		Snapshot: snap, MustSync: true, HardState: &raftpb.HardState{Term: new(uint64(3)), Vote: new(uint64(1)), Commit: new(uint64(7))},
		Entries: []*raftpb.Entry{{Index: new(uint64(8)), Term: new(uint64(3)), Data: []byte("a")}, {Index: new(uint64(9)), Term: new(uint64(3)), Data: []byte("b")}},
	}))
	for range 2 {
		list, err := l.Entries(8, 10, 1<<20)
		first, _ := l.FirstIndex()
		if err != nil || len(list) != 2 || string(list[1].GetData()) != "b" || first != 8 || l.last != 9 {
			t.Errorf("entries from %d to %d: %v, %v", first, l.last, list, err)
		}
		if term, err := l.Term(7); err != nil || term != 2 {
			t.Errorf("the term of the snapshot is %d, %v", term, err)
		}
		l = reopen(t, l, fs)
	}
	mustDo(t, l.Close())
}

// TestCrashLeavesNoOrphans breaks off a snapshot of many parts.
func TestCrashLeavesNoOrphans(t *testing.T) {
	fs := crashfs.New()
	l := mustOpen(t, fs)
	mustDo(t, appendTo(l, 1, 1, 1))
	commitUpTo(l, 2)
	for n := range uint32(3) { // as if the power had gone before the last part
		mustDo(t, l.db.Set(partKey(2, n), make([]byte, 100), pebble.Sync))
	}
	l = reopen(t, l, fs)
	commitUpTo(l, 2)
	mustDo(t, l.compact(position{1, 1}, &raftpb.ConfState{Voters: []uint64{1}}, []byte("one"), 0))
	l = reopen(t, l, fs)
	for n := range uint32(3) {
		if err := l.get(partKey(2, n), func([]byte) error { return fmt.Errorf("part %d is left", n) }); err != nil {
			t.Error(err)
		}
	}
	mustDo(t, l.Close())
}

// pebble is the database that a log on disk is kept in.
func (l *Log) pebble() *pebble.DB { return l.db.(pebbleStore).DB }

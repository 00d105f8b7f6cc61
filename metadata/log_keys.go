package metadata

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// The keys of the database. Numbers in keys are big-endian, so that the order of
// the keys is theirs; numbers in values are little-endian.
//
//	"format"                    logFormat, 4 bytes
//	"identity"                  metapb.Identity
//	"hard"                      raftpb.HardState
//	"snapshot"                  raftpb.SnapshotMetadata of the current snapshot
//	"snapshot size"             bytes of its contents, 8 bytes
//	"base"                      index and term of the entry before the first, 8 bytes each
//	"E" index                   raftpb.Entry
//	"P" index number            part of the contents of the snapshot of that index
var (
	formatKey   = []byte("format")
	identityKey = []byte("identity")
	hardKey     = []byte("hard")
	snapshotKey = []byte("snapshot")
	sizeKey     = []byte("snapshot size")
	baseKey     = []byte("base")
)

// logFormat is the version of keys and values.
const logFormat = 1

var formatValue = binary.LittleEndian.AppendUint32(nil, logFormat)

func decodeFormat(b []byte) (uint32, error) {
	if len(b) != 4 {
		return 0, fmt.Errorf("%d bytes for a version", len(b))
	}
	return binary.LittleEndian.Uint32(b), nil
}

func entryKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte("E"), index)
}

// entriesEnd is behind the last possible entry.
var entriesEnd = []byte("F")

func partKey(index uint64, number uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64([]byte("P"), index), number)
}

// partsEnd is behind the last possible part.
var partsEnd = []byte("Q")

func (p *position) decode(b []byte) error {
	if len(b) != 16 {
		return fmt.Errorf("%w: %d bytes for a position in the log", errDamaged, len(b))
	}
	*p = position{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
	return nil
}

func (p position) encode() []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, p.index), p.term)
}

func setMessage(b *pebble.Batch, key []byte, m proto.Message) error {
	v, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %q: %w", key, err)
	}
	return b.Set(key, v, nil)
}

// get has use read a value, which is valid only until it returns; if there is
// none it is not called.
func (l *Log) get(key []byte, use func([]byte) error) error {
	v, closer, err := l.db.Get(key)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return nil
	case err != nil:
		return fmt.Errorf("read %q: %w", key, err)
	}
	defer closer.Close()
	if err := use(v); err != nil {
		return fmt.Errorf("record %q: %w", key, err)
	}
	return nil
}

// empty tells whether the store has no key at all.
func (l *Log) empty() (bool, error) {
	empty := true
	err := l.db.Scan(nil, nil, func([]byte, []byte) (bool, error) {
		empty = false
		return false, nil
	})
	return empty, err
}

// scan calls f with the stored entries from lo up to but not including hi, and
// the size of each in bytes, until f returns false or an error.
func (l *Log) scan(lo, hi uint64, f func(e *raftpb.Entry, size uint64) (bool, error)) error {
	upper := entriesEnd
	if hi != ^uint64(0) {
		upper = entryKey(hi)
	}
	err := l.db.Scan(entryKey(lo), upper, func(key, value []byte) (bool, error) {
		e := new(raftpb.Entry)
		if err := proto.Unmarshal(value, e); err != nil {
			return false, fmt.Errorf("%w: entry %x: %w", errDamaged, key, err)
		}
		return f(e, uint64(len(value)))
	})
	if err != nil {
		return fmt.Errorf("read entries from %d: %w", lo, err)
	}
	return nil
}

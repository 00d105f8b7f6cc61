package metadata

import (
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// What of the log is kept in memory, so that followers that keep up are served
// without reading the disk.
const (
	tailEntries = 1024
	tailBytes   = 2 << 20
)

// logTail holds the last entries of the log, without gaps.
type logTail struct {
	entries []*raftpb.Entry
	bytes   int // encoded
}

// append adds the entry that follows the last one.
func (t *logTail) append(e *raftpb.Entry) {
	t.entries = append(t.entries, e)
	t.bytes += proto.Size(e)
	if len(t.entries) > 2*tailEntries || t.bytes > 2*tailBytes {
		t.shrink()
	}
}

// shrink lets the older half go. It moves the rest, so that the memory is free
// and a slice that was given out stays as it is.
func (t *logTail) shrink() {
	drop := 0
	for len(t.entries)-drop > tailEntries || (t.bytes > tailBytes && len(t.entries)-drop > 1) {
		t.bytes -= proto.Size(t.entries[drop])
		drop++
	}
	t.entries = append([]*raftpb.Entry(nil), t.entries[drop:]...)
}

// cut drops the entries from index on.
func (t *logTail) cut(index uint64) {
	keep := len(t.entries)
	for keep > 0 && t.entries[keep-1].GetIndex() >= index {
		keep--
		t.bytes -= proto.Size(t.entries[keep])
	}
	t.entries = t.entries[:keep:keep] // what was given out keeps the dropped ones
}

// compact drops the entries up to index.
func (t *logTail) compact(index uint64) {
	drop := 0
	for drop < len(t.entries) && t.entries[drop].GetIndex() <= index {
		t.bytes -= proto.Size(t.entries[drop])
		drop++
	}
	t.entries = append([]*raftpb.Entry(nil), t.entries[drop:]...)
}

// from returns the entries from index on, nil if that one is not here.
func (t *logTail) from(index uint64) []*raftpb.Entry {
	if len(t.entries) == 0 || index < t.entries[0].GetIndex() {
		return nil
	}
	at := index - t.entries[0].GetIndex()
	if at >= uint64(len(t.entries)) {
		return nil
	}
	return t.entries[at:]
}

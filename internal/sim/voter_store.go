package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// store is the disk on which a node keeps the quorum's log. It is a metadata.LogStore
// that a crash leaves as it leaves a Pebble database: batches are whole or not there,
// and what is not there of them is at the end.
type store struct {
	keys  map[string][]byte
	undo  [][]undone // of each batch since the last sync
	syncs int

	last  *lastWrite            // the next write is the last one
	wrote func(e *raftpb.Entry) // is told of each entry
}

// lastWrite is how a node ends, or its disk fails, in the middle of a write.
type lastWrite struct {
	power bool // is lost
	whole bool // the batch has reached the disk
	fails bool // it is no crash: the write fails
}

// undone is what was under a key before.
type undone struct {
	key   string
	value []byte // nil: nothing
}

var (
	errStruck = errors.New("the node ends in the middle of a write")
	errBroken = errors.New("input/output error")
)

func newStore() *store { return &store{keys: map[string][]byte{}} }

// copied is the disk as an image of it has it.
func (d *store) copied() *store { return &store{keys: maps.Clone(d.keys)} }

// losePower takes the end of what was not synced.
func (d *store) losePower(survive func(most int) int) {
	keep := survive(len(d.undo))
	for i := len(d.undo) - 1; i >= keep; i-- {
		for _, u := range slices.Backward(d.undo[i]) {
			d.put(u.key, u.value)
		}
	}
	d.undo = nil
}

func (d *store) put(key string, value []byte) {
	if value == nil {
		delete(d.keys, key)
	} else {
		d.keys[key] = value
	}
}

// NewBatch implements metadata.LogStore, like the methods below.
func (d *store) NewBatch(...pebble.BatchOption) *pebble.Batch { return new(pebble.Batch) }

// Set writes one key.
func (d *store) Set(key, value []byte, o *pebble.WriteOptions) error {
	b := d.NewBatch()
	if err := b.Set(key, value, nil); err != nil {
		return err
	}
	return d.Apply(b, o)
}

// Apply writes a batch.
func (d *store) Apply(b *pebble.Batch, o *pebble.WriteOptions) error {
	x := d.last
	switch {
	case x != nil && x.fails:
		return errBroken
	case x != nil && !x.whole:
		return errStruck
	}
	if err := d.write(b); err != nil {
		return err
	}
	if x != nil {
		return errStruck
	}
	if o == pebble.Sync {
		d.undo = nil
		d.syncs++
	}
	return nil
}

func (d *store) write(b *pebble.Batch) error {
	var before []undone
	set := func(key string, value []byte) {
		before = append(before, undone{key, d.keys[key]})
		d.put(key, value)
	}
	for r := b.Reader(); ; {
		kind, key, value, ok, err := r.Next()
		switch {
		case err != nil || !ok:
			d.undo = append(d.undo, before)
			return err
		case kind == pebble.InternalKeyKindSet:
			set(string(key), append([]byte{}, value...))
			if err := d.tell(key, value); err != nil {
				return err
			}
		case kind == pebble.InternalKeyKindRangeDelete:
			for _, k := range d.between(key, value) {
				set(k, nil)
			}
		default:
			return errors.New("a batch of a kind that the log does not write")
		}
	}
}

// tell lets a checker see an entry that is written.
func (d *store) tell(key, value []byte) error {
	if d.wrote == nil || key[0] != 'E' {
		return nil
	}
	e := new(raftpb.Entry)
	if err := proto.Unmarshal(value, e); err != nil {
		return err
	}
	d.wrote(e)
	return nil
}

// between lists the keys from lower up to but not including upper, in their order; nil
// is no bound.
func (d *store) between(lower, upper []byte) []string {
	var keys []string
	for k := range d.keys {
		if k >= string(lower) && (upper == nil || k < string(upper)) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// Get reads a key.
func (d *store) Get(key []byte) ([]byte, io.Closer, error) {
	v, ok := d.keys[string(key)]
	if !ok {
		return nil, nil, pebble.ErrNotFound
	}
	return v, io.NopCloser(bytes.NewReader(nil)), nil
}

// Scan reads a range of keys.
func (d *store) Scan(lower, upper []byte, f func(key, value []byte) (bool, error)) error {
	for _, k := range d.between(lower, upper) {
		if more, err := f([]byte(k), d.keys[k]); err != nil || !more {
			return err
		}
	}
	return nil
}

// Close leaves everything as it is.
func (d *store) Close() error { return nil }

func entryKey(index uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte{'E'}, index))
}

// has tells whether there is an entry at an index.
func (d *store) has(index uint64) bool {
	_, ok := d.keys[entryKey(index)]
	return ok
}

// entry is the one at an index; nil: there is none.
func (d *store) entry(index uint64) *raftpb.Entry {
	e := new(raftpb.Entry)
	if v, ok := d.keys[entryKey(index)]; !ok || proto.Unmarshal(v, e) != nil {
		return nil
	}
	return e
}

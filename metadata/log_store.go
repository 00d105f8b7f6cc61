package metadata

import (
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// LogStore is the ordered map of keys that a Log is kept in: a Pebble database, but in
// a simulation. Batches and options are Pebble's.
type LogStore interface {
	NewBatch(...pebble.BatchOption) *pebble.Batch
	// Set writes one key; see Apply.
	Set(key, value []byte, o *pebble.WriteOptions) error
	// Apply writes a batch, which a crash leaves whole or not at all. When it returns
	// nil with pebble.Sync, the batch and all before it are durable.
	Apply(b *pebble.Batch, o *pebble.WriteOptions) error
	// Get returns a value, which is valid until it is closed. pebble.ErrNotFound: there
	// is none.
	Get(key []byte) (value []byte, closer io.Closer, err error)
	// Scan calls f with the keys from lower up to but not including upper, in their
	// order, until f returns false or an error, which is returned. Nil is no bound. Key
	// and value are valid until f returns.
	Scan(lower, upper []byte, f func(key, value []byte) (more bool, err error)) error
	Close() error
}

// OpenLogOn opens the log that a store holds, or makes an empty one there. Errors name
// dir. The Log closes the store.
func OpenLogOn(store LogStore, dir string) (*Log, error) {
	return newLog(dir, logOptions{partBytes: partBytes, partSync: pebble.NoSync}).openOn(store)
}

// pebbleStore is a LogStore that is a Pebble database.
type pebbleStore struct{ *pebble.DB }

// Scan implements LogStore.
func (p pebbleStore) Scan(lower, upper []byte, f func(key, value []byte) (bool, error)) (err error) {
	it, err := p.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	defer func() {
		if e := it.Close(); err == nil {
			err = e
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if more, err := f(it.Key(), v); err != nil || !more {
			return err
		}
	}
	return it.Error()
}

package node

import (
	"errors"
	"fmt"
	"sync"

	"blkd/blockdev"
	"blkd/internal/api"
)

// volume is one volume of this node, served or not.
//
//	open ──► served ──► failed     (the store stopped itself; a restart opens it again)
//	  └────► failed                (the store could not be opened)
type volume struct {
	name string
	dir  string
	want int64 // size that the configuration names, bytes; 0 if it names none

	created bool // at this start, because the configuration names it

	// mu guards the fields below and is never held while the store is called:
	// the store's events need it.
	mu     sync.Mutex
	busy   string          // what a long operation does with it: "being resized"
	store  *blockdev.Store // nil if it could not be opened
	failed error           // why it is not served
	full   bool            // the disk under it is full
	bad    map[int64]*blockdev.ChecksumError
}

// acquire marks the volume as busy with one operation. It fails while another
// one runs.
func (v *volume) acquire(what string) (release func(), err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.busy != "" {
		return nil, fmt.Errorf("volume %s is %s", v.name, v.busy)
	}
	v.busy = what
	return v.idle, nil
}

// idle ends what acquire began.
func (v *volume) idle() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.busy = ""
}

// setStore records the outcome of opening the store, which may have failed again
// meanwhile.
func (v *volume) setStore(s *blockdev.Store, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.store = s
	if v.failed == nil {
		v.failed = err
	}
}

// running is the store if it serves; else the reason why not.
func (v *volume) running() (*blockdev.Store, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failed != nil {
		return nil, v.failed
	}
	return v.store, nil
}

// opened is the store, also one that failed meanwhile; nil if it is not open.
func (v *volume) opened() *blockdev.Store {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.store
}

// close closes the store, also one that failed.
func (v *volume) close() error {
	v.mu.Lock()
	s := v.store
	v.store = nil
	if v.failed == nil {
		v.failed = errors.New("it was closed")
	}
	v.mu.Unlock()
	if s == nil {
		return nil
	}
	return s.Close()
}

// fail records the first error that stopped the store. It reports whether this
// was news.
func (v *volume) fail(err error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failed != nil {
		return false
	}
	v.failed = err
	return true
}

func (v *volume) setFull(full bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.full = full
}

// maxBadBlocks bounds how many bad blocks are remembered; more change nothing
// about what to do.
const maxBadBlocks = 1000

// addBad remembers a bad block. It reports whether it is a new one.
func (v *volume) addBad(b *blockdev.ChecksumError) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bad[b.Off] != nil || len(v.bad) >= maxBadBlocks {
		return false
	}
	if v.bad == nil {
		v.bad = map[int64]*blockdev.ChecksumError{}
	}
	v.bad[b.Off] = b
	return true
}

// setBad replaces what is known of bad blocks by the findings of a verification.
func (v *volume) setBad(found []*blockdev.ChecksumError) {
	v.mu.Lock()
	v.bad = nil
	v.mu.Unlock()
	for _, b := range found {
		v.addBad(b)
	}
}

// describe fills in everything about the volume that does not come from the NBD
// server.
func (v *volume) describe(dataDir string, onFull string) *api.Volume {
	v.mu.Lock()
	store, failed, full, bad := v.store, v.failed, v.full, len(v.bad)
	v.mu.Unlock()

	out := &api.Volume{Name: v.name, State: api.VolumeState_VOLUME_STATE_OK}
	if store != nil {
		st := store.Stats()
		out.SizeBytes, out.AllocatedBytes, out.Io = st.SizeBytes, st.AllocatedBytes, describeIO(st)
	}
	switch {
	case failed != nil && store == nil:
		out.Problems = append(out.Problems, openProblem(v.name, failed))
	case failed != nil:
		out.Problems = append(out.Problems, failedProblem(failed))
	}
	if full {
		out.Problems = append(out.Problems, fullProblem(dataDir, onFull))
	}
	if bad > 0 {
		out.Problems = append(out.Problems, badProblem(v.name, bad))
	}
	if store != nil && v.want != 0 && v.want != out.SizeBytes {
		out.Problems = append(out.Problems, sizeProblem(v.name, out.SizeBytes, v.want))
	}
	switch {
	case failed != nil:
		out.State = api.VolumeState_VOLUME_STATE_FAILED
	case len(out.Problems) > 0:
		out.State = api.VolumeState_VOLUME_STATE_DEGRADED
	}
	return out
}

// describeIO picks what operators look at from a store's numbers.
func describeIO(st blockdev.StoreStats) *api.VolumeIO {
	return &api.VolumeIO{
		LogUsedBytes: st.LogUsedBytes, LogSizeBytes: st.LogSizeBytes,
		ClientWrittenBytes: st.WriteBytes, DiskWrittenBytes: st.LogBytes + st.ImageBytes + st.MetaBytes,
		WriteAmplification: st.WriteAmplification(), MemoryBytes: st.MemoryBytes,
	}
}

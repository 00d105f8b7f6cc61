package history

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Recorder takes down what clients ask and are told. An operation that is never
// answered needs no end. The methods are safe for concurrent use, but those with the
// same operation.
type Recorder struct {
	mu      sync.Mutex
	initial map[int64]uint64
	now     int64 // counts events: no two are at the same time
	blocks  map[int64][]*Operation
	count   int
}

// NewRecorder makes a recorder of blocks that hold these values; those that are not
// mentioned hold 0.
func NewRecorder(initial map[int64]uint64) *Recorder {
	return &Recorder{initial: initial, blocks: map[int64][]*Operation{}}
}

// Write records that a client asks for a write, before it does so. No two writes of a
// block may write the same value, or the one that it held at first.
func (r *Recorder) Write(client int, block int64, value uint64) *Operation {
	return r.call(&Operation{Client: client, Block: block, Write: true, Value: value})
}

// Read records that a client asks for a read, before it does so.
func (r *Recorder) Read(client int, block int64) *Operation {
	return r.call(&Operation{Client: client, Block: block})
}

func (r *Recorder) call(o *Operation) *Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now++
	r.count++
	o.Call, o.Return, o.Limit = r.now, Never, Never
	r.blocks[o.Block] = append(r.blocks[o.Block], o)
	return o
}

// Written records that a write was acknowledged.
func (r *Recorder) Written(o *Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now++
	o.Return = r.now
}

// Returned records what a read returned.
func (r *Recorder) Returned(o *Operation, value uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now++
	o.Return, o.Value = r.now, value
}

// Expire records that a write that has not taken effect by now never will. A second
// time changes nothing.
func (r *Recorder) Expire(o *Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now++
	o.Limit = min(o.Limit, r.now)
}

// Len is the number of operations.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// Block returns copies of the operations on a block, in the order of their calls.
func (r *Recorder) Block(block int64) []*Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*Operation
	for _, o := range r.blocks[block] {
		c := *o
		list = append(list, &c)
	}
	return list
}

// Blocks are the numbers of the blocks with operations, in ascending order.
func (r *Recorder) Blocks() []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []int64
	for b := range r.blocks {
		list = append(list, b)
	}
	slices.Sort(list)
	return list
}

// violations is how many Check tells of.
const violations = 3

// Check tells whether the history of every block up to now is strictly linearizable.
// The error joins the *Violation of the first few that are not.
func (r *Recorder) Check() error {
	var errs []error
	for _, b := range r.Blocks() {
		if err := Check(r.initial[b], r.Block(b)); err != nil {
			errs = append(errs, err)
		}
	}
	if extra := len(errs) - violations; extra > 0 {
		errs = append(errs[:violations], fmt.Errorf("and %d other blocks", extra))
	}
	return errors.Join(errs...)
}

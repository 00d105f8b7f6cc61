package blockdev

import (
	"fmt"
	"sync"
)

// BlockSize is the unit, in bytes, in which volumes are checksummed, stored and
// reported. Requests may have any byte offset and length; those aligned to
// BlockSize are the fast ones.
const BlockSize = 4096

// MaxTransfer is the largest Len, in bytes, of a read or write request. Trim,
// WriteZeroes and Cache are not bounded by it.
const MaxTransfer = 32 << 20

// Device is a block device: the one interface of the data path. A store, a
// replicated volume, a fault injector and a remote device are all a Device.
//
// A Device is safe for concurrent use.
type Device interface {
	// Size is the device's length in bytes, a multiple of 512. It may change
	// while the device is open (resize).
	Size() int64

	// ReadOnly tells whether every mutating request fails with ErrReadOnly.
	ReadOnly() bool

	// Submit starts every request of the batch. It may block for back-pressure,
	// and it must not keep the slice.
	//
	// Each request's Done is called exactly once: before Submit returns, or
	// later from any goroutine. Until then the request and its Data belong to
	// the device.
	//
	// Ordering: the mutations of one batch take effect in the order of the
	// batch; a request submitted after another one's Done sees its effect.
	// Between requests in flight there is no other order.
	//
	// Durability: a mutation with FUA, and everything that was done before a
	// Flush was submitted, survives power loss when Done reports success,
	// whoever submitted it. Other mutations survive a crash of the process.
	//
	// Atomicity: after a crash each 512-byte sector holds either what was there
	// before a mutation or what it wrote, never a mixture.
	Submit(batch []*Request)

	// Extents calls emit for consecutive extents that cover exactly
	// [off, off+n), in order, until emit returns false. Neighbours may be of
	// the same kind.
	Extents(off, n int64, emit func(Extent) bool) error

	// Close flushes and releases the device. Requests submitted later fail
	// with ErrClosed.
	Close() error
}

// Op is the kind of a Request.
type Op uint8

const (
	OpRead        Op = iota // fill Data
	OpWrite                 // store Data
	OpFlush                 // make everything done before durable
	OpTrim                  // the range reads as zero; give its space back
	OpWriteZeroes           // the range reads as zero; see NoHole and FastZero
	OpCache                 // hint: the range will be read soon
	numOps
)

var opNames = [numOps]string{"read", "write", "flush", "trim", "write-zeroes", "cache"}

// String is the op's name in logs and metrics.
func (o Op) String() string {
	if o < numOps {
		return opNames[o]
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// Mutates tells whether the op changes what later reads return.
func (o Op) Mutates() bool { return o == OpWrite || o == OpTrim || o == OpWriteZeroes }

// Flags modify a Request.
type Flags uint8

const (
	// FUA (forced unit access): a mutation is durable before Done.
	FUA Flags = 1 << iota
	// NoHole: WriteZeroes keeps the space of the range allocated.
	NoHole
	// FastZero: WriteZeroes fails with ErrNotSupported at once if it would be
	// no faster than writing zeros.
	FastZero
)

// Request is one operation in flight. The submitter owns and may reuse it once
// Done was called.
type Request struct {
	Op    Op
	Flags Flags
	Off   int64  // first byte
	Len   int64  // bytes; for reads and writes equal to len(Data)
	Data  []byte // reads and writes only

	// Number of a mutation that may be sent again: it is its submitter's, which counts
	// them from 1 and is never more than OpWindow ahead of the answers. 0: it will not.
	Number uint64

	// Err is the result, valid once Done is called: nil or one of this
	// package's errors.
	Err error
	// Done is called once when the request is finished. It must not block and
	// must not submit to the same device.
	Done func(*Request)
	// Owner is for the submitter; devices leave it alone.
	Owner any
}

// Finish records the result and calls Done. Only devices call it.
func (r *Request) Finish(err error) {
	r.Err = err
	r.Done(r)
}

// Check reports why a request cannot be served by a device of the given size:
// ErrRange, ErrInvalid, ErrReadOnly or nil. Every device calls it first.
func (r *Request) Check(size int64, readOnly bool) error {
	switch {
	case r.Op >= numOps:
		return fmt.Errorf("%w: unknown operation %d", ErrInvalid, r.Op)
	case r.Op == OpFlush:
		return nil
	case r.Op.Mutates() && readOnly:
		return ErrReadOnly
	case r.Off < 0 || r.Len < 0 || r.Off > size || r.Len > size-r.Off:
		return &RangeError{Op: r.Op, Off: r.Off, Len: r.Len, Size: size}
	case (r.Op == OpRead || r.Op == OpWrite) && (int64(len(r.Data)) != r.Len || r.Len > MaxTransfer):
		return fmt.Errorf("%w: %s of %d bytes with a buffer of %d (limit %d)", ErrInvalid, r.Op, r.Len, len(r.Data), MaxTransfer)
	}
	return nil
}

// Extent is a run of bytes of one kind. Hole: no space is allocated. Zero: it
// reads as zeros. Data has neither.
type Extent struct {
	Off, Len   int64
	Hole, Zero bool
}

// CheckExtents validates the arguments of Extents.
func CheckExtents(off, n, size int64) error {
	if off < 0 || n <= 0 || off > size || n > size-off {
		return &RangeError{Op: OpRead, Off: off, Len: n, Size: size}
	}
	return nil
}

// ReadAt fills p from off and waits.
func ReadAt(d Device, p []byte, off int64) error {
	return do(d, OpRead, 0, p, off, int64(len(p)))
}

// WriteAt stores p at off and waits. Flags may hold FUA.
func WriteAt(d Device, p []byte, off int64, flags Flags) error {
	return do(d, OpWrite, flags, p, off, int64(len(p)))
}

// Trim discards [off, off+n) and waits.
func Trim(d Device, off, n int64, flags Flags) error { return do(d, OpTrim, flags, nil, off, n) }

// WriteZeroes makes [off, off+n) read as zeros and waits.
func WriteZeroes(d Device, off, n int64, flags Flags) error {
	return do(d, OpWriteZeroes, flags, nil, off, n)
}

// Flush makes everything that was done before durable and waits.
func Flush(d Device) error { return do(d, OpFlush, 0, nil, 0, 0) }

// waiter is a pooled request with the channel its submitter waits on.
type waiter struct {
	req   Request
	batch [1]*Request
	done  chan struct{}
}

var waiters = sync.Pool{New: func() any {
	w := &waiter{done: make(chan struct{}, 1)}
	w.batch[0] = &w.req
	w.req.Done = func(*Request) { w.done <- struct{}{} }
	return w
}}

func do(d Device, op Op, flags Flags, p []byte, off, n int64) error {
	w := waiters.Get().(*waiter)
	w.req.Op, w.req.Flags, w.req.Data, w.req.Off, w.req.Len = op, flags, p, off, n
	d.Submit(w.batch[:])
	<-w.done
	err := w.req.Err
	w.req.Data, w.req.Err = nil, nil
	waiters.Put(w)
	return err
}

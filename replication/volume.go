package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"blkd/blockdev"
	"blkd/internal/env"
)

// Disk is the local copy that a Volume keeps: a *blockdev.Store in replica mode.
type Disk interface {
	Replica
	// Sync makes everything that was appended before durable. An error is final.
	Sync() error
	// ReadCommitted fills p from off with committed content, verified.
	ReadCommitted(p []byte, off int64) error
	// Extents is that of a blockdev.Device, of committed content.
	Extents(off, n int64, emit func(blockdev.Extent) bool) error
}

// Authority is the metadata quorum as a volume needs it.
type Authority interface {
	// Propose asks for a change of the record until the quorum has decided it.
	// Nil: it was applied, and the record that it made is delivered to
	// [Volume.Record] now or soon. A *RefusedError: it was not and never will
	// be. Any other error comes only when ctx has ended: the outcome is unknown.
	Propose(ctx context.Context, p Proposal) error
}

// RefusedError says why the quorum decided against a change.
type RefusedError struct{ Text string }

func (e *RefusedError) Error() string { return e.Text }

// VolumeConfig is what a Volume is made of.
type VolumeConfig struct {
	// Core describes the replica; Replica and Now are filled in. Of an erasure-coded
	// volume, Disk is its Coded.
	Core      Config
	Disk      Disk
	Clock     env.Clock
	Authority Authority
	// InflightBytes bounds the mutations that are not answered: requests beyond
	// it wait. It must be well below the size of the log, which can be poured
	// only as far as it is committed. 0: 16 MiB.
	InflightBytes int64
	// Hangup ends the connections of all clients, without an answer to what is
	// under way. It must not wait and must not call the volume.
	Hangup func()
	// Failed is told, once, why the replica cannot go on.
	Failed func(error)
}

const (
	tickEvery            = 25 * time.Millisecond
	defaultInflightBytes = 16 << 20
)

// Volume is one node's replica of a volume, and the device that clients use
// where the quorum says so: a [Core] with goroutines, connections and a disk.
//
// The core is stepped under one lock by whichever goroutine has something for
// it: a client's, a peer's reader, the timer. What the step asks for is carried
// out by the same goroutine after it has let the lock go, so that a request is
// handed from one goroutine to another only where it crosses a process. Messages
// are encoded under the lock, which keeps their order.
type Volume struct {
	cfg  VolumeConfig
	disk Disk

	mu     sync.Mutex
	core   *Core
	conns  map[NodeID]*conn
	closed bool

	inflight atomic.Int64 // bytes of mutations that are not answered
	room     struct {
		sync.Mutex
		sync.Cond
		waiting atomic.Int32
	}

	syncNow  chan struct{} // the core wants a sync
	coded    *codedVolume  // nil: a mirror
	ctx      context.Context
	cancel   context.CancelFunc
	workers  sync.WaitGroup
	failOnce sync.Once
}

// NewVolume starts a replica. It serves nobody until a record says so.
func NewVolume(cfg VolumeConfig) *Volume {
	v := &Volume{cfg: cfg, disk: cfg.Disk, conns: map[NodeID]*conn{}, syncNow: make(chan struct{}, 1)}
	if v.cfg.InflightBytes == 0 {
		v.cfg.InflightBytes = defaultInflightBytes
	}
	v.room.Cond.L = &v.room.Mutex
	cfg.Core.Replica, cfg.Core.Now = cfg.Disk, v.now()
	if cfg.Core.Coded != nil {
		v.coded = newCodedVolume(cfg.Core.Coded)
	}
	v.core = NewCore(cfg.Core)
	v.ctx, v.cancel = context.WithCancel(context.Background())
	v.workers.Go(v.tick)
	v.workers.Go(v.sync)
	if v.coded != nil {
		v.workers.Go(v.runTasks)
	}
	return v
}

func (v *Volume) now() Instant { return Instant(v.cfg.Clock.Now()) }

// Record delivers what the quorum has decided. Older records are ignored.
func (v *Volume) Record(r *Record) {
	v.step(func(now Instant) { v.core.Record(now, r) })
}

// Handover begins a planned hand-over to another member; see [Core.Handover].
func (v *Volume) Handover(to NodeID) (err error) {
	v.step(func(now Instant) { err = v.core.Handover(now, to) })
	return err
}

// Role tells what the replica does, and in which generation.
func (v *Volume) Role() (Role, Generation) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.core.Role()
}

// Inspect calls f with the core, for a look at it: f must be short and must not
// change it.
func (v *Volume) Inspect(f func(now Instant, c *Core)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f(v.now(), v.core)
}

// TryInspect is Inspect, if the core can be had soon: it may be waiting for its
// disk. It tells whether f was called.
func (v *Volume) TryInspect(f func(now Instant, c *Core)) bool {
	for range inspectTries {
		if v.mu.TryLock() {
			defer v.mu.Unlock()
			f(v.now(), v.core)
			return true
		}
		done := make(chan struct{})
		v.cfg.Clock.AfterFunc(time.Millisecond, func() { close(done) })
		<-done
	}
	return false
}

// inspectTries is how many milliseconds TryInspect waits.
const inspectTries = 100

// Close ends this run of the replica: its peers are hung up on, and requests
// under way are answered with ErrMoved. The disk stays open; nobody uses it any
// more when Close returns.
func (v *Volume) Close() {
	v.cancel()
	v.mu.Lock()
	v.closed = true
	w := takeWork()
	v.core.Stop(v.now())
	v.take(w)
	conns := make([]*conn, 0, len(v.conns))
	for _, c := range v.conns {
		conns = append(conns, c)
	}
	v.mu.Unlock()
	v.carryOut(w)
	v.room.Lock()
	v.room.Broadcast()
	v.room.Unlock()
	for _, c := range conns {
		c.sock.Shutdown()
	}
	v.workers.Wait()
}

// step runs f on the core and carries out what it asks for.
func (v *Volume) step(f func(now Instant)) {
	w := takeWork()
	v.mu.Lock()
	if !v.closed {
		f(v.now())
		v.take(w)
	}
	v.mu.Unlock()
	v.carryOut(w)
}

// work is what one step leaves to do.
type work struct {
	effects Effects
	tasks   []*Task
	conns   []*conn // that have something to send
	reads   []*Request
	errs    []error // of reads
}

var works = sync.Pool{New: func() any { return new(work) }}

func takeWork() *work { return works.Get().(*work) }

// take collects what the core asks for. It holds mu, encodes the messages and hands serial
// tasks over, so that they leave, and are run, in the order of the steps.
func (v *Volume) take(w *work) {
	v.core.TakeInto(&w.effects)
	w.tasks = v.enqueue(w.tasks[:0], w.effects.Tasks)
	for i := range w.effects.Sends {
		s := &w.effects.Sends[i]
		if c := v.conns[s.To]; c != nil && c.queue(s.Msg) {
			w.conns = append(w.conns, c)
		}
	}
	if w.effects.Hangup && v.cfg.Hangup != nil {
		v.cfg.Hangup() // before anything of a later generation can be admitted
	}
}

// carryOut does what is left to do, and what comes of it.
func (v *Volume) carryOut(w *work) {
	for {
		for i, c := range w.conns {
			c.flush()
			w.conns[i] = nil
		}
		w.conns = w.conns[:0]
		e := &w.effects
		for i, r := range e.Done {
			v.finish(r)
			e.Done[i] = nil
		}
		if e.Sync {
			select {
			case v.syncNow <- struct{}{}:
			default: // one is waiting; it has not begun
			}
		}
		for _, p := range e.Proposals {
			v.propose(p)
		}
		if e.Failed != nil {
			v.fail(e.Failed)
		}
		w.reads = append(w.reads[:0], e.Reads...)
		if len(w.reads)+len(w.tasks) == 0 {
			break
		}
		w.errs = w.errs[:0]
		for _, r := range w.reads {
			w.errs = append(w.errs, v.read(r))
		}
		for _, t := range w.tasks {
			w.errs = append(w.errs, t.Run())
		}
		v.mu.Lock()
		now := v.now()
		for i, r := range w.reads {
			if w.errs[i] != nil || len(r.missing) == 0 {
				v.core.Read(now, r, w.errs[i])
			} else {
				v.core.ReadRest(now, r)
			}
		}
		for i, t := range w.tasks {
			v.core.Finished(now, t, w.errs[len(w.reads)+i])
		}
		clear(w.reads)
		clear(w.tasks)
		clear(w.errs)
		v.take(w)
		v.mu.Unlock()
	}
	w.effects.reset()
	works.Put(w)
}

func (v *Volume) fail(err error) {
	v.failOnce.Do(func() {
		if v.cfg.Failed != nil {
			v.cfg.Failed(err)
		}
	})
}

// tick lets the core know that time passes.
func (v *Volume) tick() {
	t := v.cfg.Clock.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-t.C():
			v.step(v.core.Tick)
		}
	}
}

// sync carries out the core's syncs, one after the other.
func (v *Volume) sync() {
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-v.syncNow:
			err := v.disk.Sync()
			v.step(func(now Instant) { v.core.Synced(now, err) })
		}
	}
}

// propose asks the quorum in the background.
func (v *Volume) propose(p Proposal) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return
	}
	v.workers.Go(func() {
		err := v.cfg.Authority.Propose(v.ctx, p)
		var refused *RefusedError
		if errors.As(err, &refused) {
			v.step(func(now Instant) { v.core.Refused(now, p.ID, refused.Text) })
		}
	})
}

// weight is what a request takes of the log, in bytes: of one that carries no data,
// not more than the blocks at its edges.
func weight(r *blockdev.Request) int64 {
	switch {
	case r.Op == blockdev.OpWrite:
		return r.Len
	case r.Op.Mutates():
		return 2 * blockSize
	}
	return 0
}

// tryReserve counts a mutation, if not too much is under way.
func (v *Volume) tryReserve(n int64) bool {
	if v.inflight.Add(n) <= v.cfg.InflightBytes && !v.crowded() {
		return true
	}
	v.unreserve(n)
	return false
}

// reserve counts a mutation, and waits while too much is under way.
func (v *Volume) reserve(n int64) {
	v.room.Lock()
	defer v.room.Unlock()
	v.room.waiting.Add(1)
	defer v.room.waiting.Add(-1)
	for (v.inflight.Add(n) > max(v.cfg.InflightBytes, n) || v.crowded()) && v.ctx.Err() == nil {
		v.inflight.Add(-n) // who waits must not keep others waiting
		v.room.Wait()
	}
}

func (v *Volume) unreserve(n int64) {
	v.inflight.Add(-n)
	if v.room.waiting.Load() > 0 {
		v.room.Lock()
		v.room.Broadcast()
		v.room.Unlock()
	}
}

// request is a client's request in the core's form.
type request struct {
	Request
	client *blockdev.Request
}

var requests = sync.Pool{New: func() any { return new(request) }}

// finish answers a client's request.
func (v *Volume) finish(r *Request) {
	q := r.Owner.(*request)
	client, err := q.client, r.Err
	*q = request{}
	requests.Put(q)
	if n := weight(client); n > 0 {
		v.unreserve(n)
	}
	client.Finish(err)
}

// Session is the device of one generation: what clients use of a volume while
// this node is its primary. Requests that come later, from a connection that was
// not closed in time, are refused: they must not act in a later generation (I15).
type Session struct {
	v          *Volume
	gen        Generation
	attachment uint64
	from       blockdev.Origin
	closed     atomic.Bool
}

// Session makes the device of a generation, for the client of an attachment. With
// attachment 0 it only reads (S10). Requests end with ErrMoved when a later session
// of the same client has begun, and with ErrFenced when another client has taken the
// volume over. Mutations that have a number are operations of the client and session
// in from: what was done of them already is not done again.
func (v *Volume) Session(g Generation, attachment uint64, from blockdev.Origin) *Session {
	return &Session{v: v, gen: g, attachment: attachment, from: from}
}

// Size implements blockdev.Device.
func (s *Session) Size() int64 { return s.v.disk.Size() }

// ReadOnly implements blockdev.Device.
func (s *Session) ReadOnly() bool { return s.attachment == 0 }

// Submit implements blockdev.Device. Requests wait while there is no quorum of
// members; they end with ErrMoved when this node stops being primary.
func (s *Session) Submit(batch []*blockdev.Request) {
	v := s.v
	b := batches.Get().(*[]*Request)
	list := (*b)[:0]
	size := v.disk.Size()
	for _, r := range batch {
		if err := r.Check(size, s.ReadOnly()); err != nil {
			r.Finish(err)
			continue
		}
		q := requests.Get().(*request)
		q.client = r
		q.Op, q.FUA, q.Off, q.Len, q.Data = r.Op, r.Flags&blockdev.FUA != 0, r.Off, r.Len, r.Data
		q.Attachment, q.Owner = s.attachment, q
		if r.Number != 0 && s.from.Client != 0 && r.Op.Mutates() {
			q.Origin = s.from
			q.Origin.Op = r.Number
		}
		if n := weight(r); n > 0 && !v.tryReserve(n) {
			s.submit(list) // room may come only when these are answered
			clear(list)
			list = list[:0]
			v.reserve(n)
		}
		list = append(list, &q.Request)
	}
	s.submit(list)
	clear(list)
	*b = list[:0]
	batches.Put(b)
}

// submit gives checked requests, for which there is room, to the core.
func (s *Session) submit(list []*Request) {
	if len(list) == 0 {
		return
	}
	v := s.v
	w := takeWork()
	v.mu.Lock()
	if role, gen := v.core.Role(); v.closed || role == Secondary || gen != s.gen || s.closed.Load() {
		v.mu.Unlock()
		for _, r := range list {
			r.Err = ErrMoved
			v.finish(r)
		}
		works.Put(w)
	} else {
		v.core.Submit(v.now(), list)
		v.take(w)
		v.mu.Unlock()
		v.carryOut(w)
	}
}

var batches = sync.Pool{New: func() any { return new([]*Request) }}

// Extents implements blockdev.Device. It tells of answered mutations.
func (s *Session) Extents(off, n int64, emit func(blockdev.Extent) bool) error {
	if s.v.coded != nil {
		return s.mappedExtents(off, n, emit)
	}
	if err := s.serving(); err != nil {
		return err
	}
	if err := s.v.disk.Extents(off, n, emit); err != nil {
		return err
	}
	return s.serving()
}

// serving is nil while no other node can have served.
func (s *Session) serving() error {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	if role, gen := s.v.core.Role(); s.v.closed || role != Primary || gen != s.gen || s.closed.Load() {
		return ErrMoved
	}
	return nil
}

// Close implements blockdev.Device: it flushes and ends the session; the volume
// goes on.
func (s *Session) Close() error {
	if s.closed.Load() {
		return nil
	}
	err := blockdev.Flush(s)
	s.closed.Store(true)
	if err != nil {
		return fmt.Errorf("flush at the end of a session: %w", err)
	}
	return nil
}

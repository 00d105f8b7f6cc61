// Package forward lets any node serve any volume: its [Device] passes requests on
// to wherever the volume is served, here or on another node, and when that changes
// it sends again, in their order, those that have no answer. Clients see a stall
// and no error.
//
// A request that is sent again takes effect once. Either it can take effect at the old
// place no more: a volume's generation ends before the next one serves, and a connection
// to the same generation replaces the one that broke only after that has come to its end
// (see Connect in [Config]). Or it has done so before: mutations have numbers, and places
// know which of them were done.
package forward

import (
	"context"
	"sync"
	"time"

	"blkd/blockdev"
)

// Config is what a Device needs.
type Config struct {
	// Connect finds where the volume is served and returns that as a device. It
	// waits for that as long as it takes, and returns an error only when it is
	// worth to be asked again. Requests of the devices it returned before must
	// not take effect any more when it returns another one. It keeps the devices
	// and closes them.
	Connect func(ctx context.Context) (blockdev.Device, error)
	// Moved tells whether an error of such a device means that the volume may be
	// served elsewhere, and the request has to be sent again.
	Moved func(error) bool
	// Size is the volume's length in bytes.
	Size func() int64
}

const (
	retryLeast = 5 * time.Millisecond
	retryMost  = 50 * time.Millisecond
)

// Device is a volume, wherever it is served. It is a [blockdev.Device].
type Device struct {
	cfg    Config
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.Mutex
	target   *target // nil: there is none
	under    int     // requests that were sent and have not come back
	seeking  bool    // a goroutine looks for a target
	pending  queue   // mutations without an answer, in the order in which they came
	others   queue   // other requests without an answer, likewise
	number   uint64  // of the newest mutation
	full     int     // callers that wait because it is too far ahead of the answers
	room     sync.Cond
	watching int // callers that wait for a target
	closed   bool
	changed  chan struct{} // closed when target or closed is set
}

// target is a place where the volume is served.
type target struct{ dev blockdev.Device }

// New makes a device. It connects when the first request comes.
func New(cfg Config) *Device {
	d := &Device{cfg: cfg, changed: make(chan struct{})}
	d.room.L = &d.mu
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Size implements blockdev.Device.
func (d *Device) Size() int64 { return d.cfg.Size() }

// ReadOnly implements blockdev.Device.
func (d *Device) ReadOnly() bool { return false }

// request is one that has no answer yet.
type request struct {
	blockdev.Request
	d          *Device
	client     *blockdev.Request
	sent       *target // nil: waits for one
	prev, next *request
}

// queue is a list of requests.
type queue struct{ first, last *request }

func (q *queue) push(r *request) {
	r.prev, r.next = q.last, nil
	if q.last != nil {
		q.last.next = r
	} else {
		q.first = r
	}
	q.last = r
}

func (q *queue) remove(r *request) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		q.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		q.last = r.prev
	}
	r.prev, r.next = nil, nil
}

var (
	requests sync.Pool
	batches  = sync.Pool{New: func() any { return new([]*blockdev.Request) }}
)

func newRequest(d *Device, c *blockdev.Request) *request {
	r, _ := requests.Get().(*request)
	if r == nil {
		r = new(request)
		r.Owner, r.Done = r, done
	}
	r.d, r.client = d, c
	r.Op, r.Flags, r.Off, r.Len, r.Data, r.Number = c.Op, c.Flags, c.Off, c.Len, c.Data, 0
	return r
}

// queue is where a request waits for its answer.
func (d *Device) queue(r *request) *queue {
	if r.Op.Mutates() {
		return &d.pending
	}
	return &d.others
}

// awaitAnswers waits until n more mutations are not too far ahead of the oldest one
// that has no answer. It holds mu, but for waiting.
func (d *Device) awaitAnswers(n uint64) {
	for d.pending.first != nil && d.number+n >= d.pending.first.Number+blockdev.OpWindow && !d.closed {
		d.full++
		d.room.Wait()
		d.full--
	}
}

// Submit implements blockdev.Device. It waits while mutations are too far ahead of
// their answers.
func (d *Device) Submit(batch []*blockdev.Request) {
	for len(batch) > maxBatch {
		d.submit(batch[:maxBatch])
		batch = batch[maxBatch:]
	}
	d.submit(batch)
}

// maxBatch bounds the mutations that get their numbers at once.
const maxBatch = blockdev.OpWindow / 4

func (d *Device) submit(batch []*blockdev.Request) {
	b := batches.Get().(*[]*blockdev.Request)
	list := (*b)[:0]
	size := d.Size()
	for _, c := range batch {
		if err := c.Check(size, false); err != nil {
			c.Finish(err)
			continue
		}
		list = append(list, &newRequest(d, c).Request)
	}
	d.mu.Lock()
	d.awaitAnswers(uint64(len(list)))
	if d.closed {
		d.mu.Unlock()
		for _, q := range list {
			answer(q.Owner.(*request), blockdev.ErrClosed)
		}
	} else {
		t := d.target
		for _, q := range list {
			r := q.Owner.(*request)
			r.sent = t
			d.queue(r).push(r)
			if r.Op.Mutates() {
				d.number++
				r.Number = d.number
			}
		}
		if t != nil {
			d.under += len(list)
		}
		d.seek()
		d.mu.Unlock()
		if t != nil && len(list) > 0 {
			t.dev.Submit(list)
		}
	}
	clear(list)
	*b = list[:0]
	batches.Put(b)
}

// done takes an answer in.
func done(q *blockdev.Request) {
	r := q.Owner.(*request)
	d, err := r.d, q.Err
	moved := err != nil && d.cfg.Moved(err)
	d.mu.Lock()
	d.under--
	if moved && d.target == r.sent {
		d.target = nil
	}
	again := moved && !d.closed
	if again {
		r.sent, r.Err = nil, nil
	} else {
		d.queue(r).remove(r)
	}
	if d.full > 0 {
		d.room.Broadcast()
	}
	closed := d.closed
	d.seek()
	d.mu.Unlock()
	switch {
	case again:
	case closed && moved:
		answer(r, blockdev.ErrClosed)
	default:
		answer(r, err)
	}
}

func answer(r *request, err error) {
	c := r.client
	r.d, r.client, r.sent, r.Data, r.Err = nil, nil, nil, nil, nil
	requests.Put(r)
	c.Finish(err)
}

// seek looks for a target in the background if there is none and somebody waits
// for it. Nothing is sent again before everything that was sent has come back. It
// holds mu.
func (d *Device) seek() {
	if d.target != nil || d.under > 0 || d.seeking || d.closed || d.pending.first == nil && d.others.first == nil && d.watching == 0 {
		return
	}
	d.seeking = true
	d.work.Go(d.find)
}

// find connects and sends what waits.
func (d *Device) find() {
	pause := retryLeast
	for {
		dev, err := d.cfg.Connect(d.ctx)
		if err == nil {
			d.use(&target{dev})
			return
		}
		select {
		case <-d.ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, retryMost)
	}
}

// use makes t the target and sends what waits.
func (d *Device) use(t *target) {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return
	}
	var batch []*blockdev.Request
	for _, q := range []*queue{&d.pending, &d.others} {
		for r := q.first; r != nil; r = r.next {
			r.sent = t
			batch = append(batch, &r.Request)
		}
	}
	d.under = len(batch)
	d.target, d.seeking = t, false
	d.wake()
	d.mu.Unlock()
	// What clients submit meanwhile may come first: it was not ordered behind
	// anything that has no answer.
	if len(batch) > 0 {
		t.dev.Submit(batch)
	}
}

// wake lets those go on who wait for a target. It holds mu.
func (d *Device) wake() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// Extents implements blockdev.Device.
func (d *Device) Extents(off, n int64, emit func(blockdev.Extent) bool) error {
	if err := blockdev.CheckExtents(off, n, d.Size()); err != nil {
		return err
	}
	for {
		t, err := d.wait()
		if err != nil {
			return err
		}
		var found []blockdev.Extent
		err = t.dev.Extents(off, n, func(e blockdev.Extent) bool {
			found = append(found, e)
			return len(found) < maxExtents
		})
		if err != nil && d.cfg.Moved(err) {
			d.leave(t)
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range found {
			if !emit(e) {
				return nil
			}
			off, n = e.Off+e.Len, n-e.Len
		}
		if n <= 0 {
			return nil
		}
	}
}

// maxExtents is how many extents are fetched at once: emit must not hear of some
// twice when the volume moves in between.
const maxExtents = 4096

// wait returns the target, when there is one.
func (d *Device) wait() (*target, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watching++
	defer func() { d.watching-- }()
	for d.target == nil && !d.closed {
		d.seek()
		changed := d.changed
		d.mu.Unlock()
		<-changed
		d.mu.Lock()
	}
	if d.closed {
		return nil, blockdev.ErrClosed
	}
	return d.target, nil
}

// leave gives a target up.
func (d *Device) leave(t *target) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.target == t {
		d.target = nil
	}
	d.seek()
}

// Drop refuses all requests from now on, with ErrClosed, and sends none of those
// again that come back. Unlike Close it does not wait.
func (d *Device) Drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closed = true
		d.wake()
		d.room.Broadcast()
	}
}

// Close ends the device: what has no answer ends with ErrClosed. What was sent
// ends when it comes back.
func (d *Device) Close() error {
	d.Drop()
	d.cancel()
	d.mu.Lock()
	var waiting []*request
	for _, q := range []*queue{&d.pending, &d.others} {
		for r := q.first; r != nil; {
			next := r.next
			if r.sent == nil {
				q.remove(r)
				waiting = append(waiting, r)
			}
			r = next
		}
	}
	d.mu.Unlock()
	for _, r := range waiting {
		answer(r, blockdev.ErrClosed)
	}
	d.work.Wait()
	return nil
}

package nbd

import (
	"sync/atomic"
	"time"

	"blkd/blockdev"
)

// request is one command in flight. It belongs to the reader until it is submitted
// or queued, to the device until Done, then to the holder of the writer role.
type request struct {
	blockdev.Request
	c    *conn
	next *request // in a stack or list

	wire  wireRequest
	in    *buffer // holds the payload
	out   *buffer // holds the reply: n bytes of header and data from at on
	at, n int

	errno   uint32    // decided without the device
	text    string    // explains errno
	started time.Time // zero unless latency is measured
}

// requestStack is a lock-free stack. Its only way out takes everything, so it is
// free of the ABA problem.
type requestStack struct{ top atomic.Pointer[request] }

// push adds a chain from first to last.
func (s *requestStack) push(first, last *request) {
	for {
		top := s.top.Load()
		last.next = top
		if s.top.CompareAndSwap(top, first) {
			return
		}
	}
}

// takeAll empties the stack; the newest comes first.
func (s *requestStack) takeAll() *request {
	if s.top.Load() == nil {
		return nil
	}
	return s.top.Swap(nil)
}

// newRequest takes a free request. If all are in flight it sends off the batch and
// waits for one.
func (c *conn) newRequest() *request {
	if c.free == nil {
		c.free = c.returned.takeAll()
	}
	if c.free == nil && c.made < c.srv.opts.MaxRequests {
		c.made++
		r := &request{c: c}
		r.Owner, r.Done = r, requestDone
		return r
	}
	if c.free == nil {
		c.submit()
		c.waitFor(func() bool {
			c.free = c.returned.takeAll()
			return c.free != nil
		})
	}
	r := c.free
	c.free = r.next
	r.next = nil
	return r
}

// requestDone is the Done of every request.
func requestDone(br *blockdev.Request) {
	r := br.Owner.(*request)
	c := r.c
	left := c.notDone.Add(-1)
	c.reply.queue.push(r, r) // r may be sent and reused from here on
	if c.reply.enterAsync() {
		c.sendAsync(left == 0)
	}
}

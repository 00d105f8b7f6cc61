package nbd

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Roles: who may send on the connection.
//
//	  ┌──────── enterSubmit ────────► submit ──── leaveSubmit, steal ─┐
//	idle                                                             ▼
//	▲ │ ◄───────────────────── leave ─────────────────────────────  busy
//	│ └──────── enterAsync ──────────────────────────────────────────▲
//	└─► closed (retireWriter)
//
// In submit the reader is inside Device.Submit: Done only queues, and the reader
// sends everything when Submit returns. A holder looks at the queue once more after
// it has left, so that nothing stays behind.
const (
	roleIdle uint32 = iota
	roleSubmit
	roleBusy
	roleClosed
)

// directBytes is the most, in bytes, that a goroutine which only wanted to call Done
// sends by itself.
const directBytes = 64 << 10

// replyQueue holds finished requests until they are sent.
type replyQueue struct {
	queue requestStack
	role  atomic.Uint32
	seq   atomic.Uint32 // counts Submits, for the sweeper
	kick  chan struct{} // hands the busy role to the writer goroutine

	// The holder of the busy role owns the rest.
	sending *request // oldest first; their replies are in pieces
	pieces  [][]byte
	unsent  [][]byte // the tail of pieces
	bytes   int
	stuck   atomic.Bool // the peer does not read; only the sweeper looks

	logged   time.Time // of the last input/output error
	unlogged int       // errors since then
}

func (q *replyQueue) init() {
	q.kick = make(chan struct{}, 1)
	q.pieces = make([][]byte, 0, 64)
}

func (q *replyQueue) enterSubmit() bool {
	q.seq.Add(1)
	return q.role.CompareAndSwap(roleIdle, roleSubmit)
}

// leaveSubmit tries to become busy after Submit. It fails if someone else is.
func (q *replyQueue) leaveSubmit(mine bool) bool {
	return mine && q.role.CompareAndSwap(roleSubmit, roleBusy) || q.role.CompareAndSwap(roleIdle, roleBusy)
}

// enterAsync tries to become busy from within Done.
func (q *replyQueue) enterAsync() bool {
	return q.role.Load() == roleIdle && q.role.CompareAndSwap(roleIdle, roleBusy)
}

// leave gives the role up; it fails, and keeps it, if there is more to send.
func (q *replyQueue) leave() bool {
	q.role.Store(roleIdle)
	return q.queue.top.Load() == nil || !q.role.CompareAndSwap(roleIdle, roleBusy)
}

// sendAsync sends the queue from within Done, whose caller must not wait. The last
// request in flight is sent at once: nothing could be gathered with it, and a
// wake-up would cost more than the system call. Otherwise the writer goroutine,
// while it wakes up, lets more replies gather.
func (c *conn) sendAsync(last bool) {
	q := &c.reply
	if last && c.sock.Direct() && (!c.gather() || q.bytes <= directBytes) {
		c.drain(false)
		return
	}
	q.kick <- struct{}{} // has room: it is the role that is handed over
}

// writeLoop is the writer goroutine.
func (c *conn) writeLoop() {
	for range c.reply.kick {
		c.drain(true)
	}
}

// retireWriter ends the writer goroutine once no request is in flight.
func (c *conn) retireWriter() {
	for !c.reply.role.CompareAndSwap(roleIdle, roleClosed) {
		runtime.Gosched() // the last holder is on its way out
	}
	close(c.reply.kick)
}

// drain sends the queue and gives the role up. Without wait it hands the role to the
// writer goroutine as soon as the peer does not take more.
func (c *conn) drain(wait bool) {
	q := &c.reply
	for {
		if q.sending == nil && !c.gather() {
			if q.leave() {
				return
			}
			continue
		}
		if !c.broken.Load() {
			if !wait && !c.sock.Direct() && q.bytes > directBytes {
				q.kick <- struct{}{}
				return
			}
			q.stuck.Store(wait || !c.sock.Direct())
			rest, err := c.sock.Write(q.unsent, wait)
			q.unsent = rest
			if err != nil {
				c.hangUp() // the peer is gone; the reader notices
			} else if len(rest) != 0 {
				q.kick <- struct{}{}
				return
			}
			q.stuck.Store(false)
		}
		c.recycle()
	}
}

// gather encodes the replies of everything queued. It returns false if that is
// nothing.
func (c *conn) gather() bool {
	q := &c.reply
	for r := q.queue.takeAll(); r != nil; { // newest first: turn it around
		next := r.next
		r.next = q.sending
		q.sending, r = r, next
	}
	if q.sending == nil {
		return false
	}
	q.pieces, q.bytes = q.pieces[:0], 0
	var prev *request // its reply is the end of the last piece, in its buffer
	start := 0
	for r := q.sending; r != nil; r = r.next {
		switch own := c.encode(r); {
		case own != nil:
			q.pieces = append(q.pieces, own)
			q.bytes += len(own)
			prev = nil
			continue
		case c.sparse(r):
			prev = nil
			continue
		case prev != nil && prev.out == r.out && prev.at+prev.n == r.at:
			q.pieces[len(q.pieces)-1] = r.out.data[start : r.at+r.n]
		default:
			start = r.at
			q.pieces = append(q.pieces, r.out.data[r.at:r.at+r.n])
		}
		prev = r
		q.bytes += r.n
	}
	q.unsent = q.pieces
	return true
}

// encode completes the reply in the request's buffer, or returns an error reply,
// which lies in memory of its own.
func (c *conn) encode(r *request) (own []byte) {
	w := &r.wire
	if !r.started.IsZero() {
		c.export.lat[statIndex(w.cmd)].record(time.Since(r.started))
		r.started = time.Time{}
	}
	if r.errno == 0 && r.Err != nil {
		r.errno, r.text = errnoOf(w.cmd, r.Err), r.Err.Error()
		c.noteFailure(r)
	}
	if r.errno != 0 {
		c.count[statIndex(w.cmd)].errors.Add(1)
		return appendError(nil, c.mode, r.errno, w.cookie, w.offset, r.text)
	}
	p := r.out.data[r.at : r.at+r.n]
	switch {
	case w.cmd == cmdBlockStatus: // complete
	case w.cmd != cmdRead:
		putAck(p, c.mode, w.cookie, w.offset)
	case w.length == 0 && c.mode != modeSimple: // a data chunk must not be empty
		r.n = c.mode.chunkHeaderLen()
		putChunk(p, c.mode, chunkFlagDone, chunkNone, w.cookie, w.offset, 0)
	default:
		putReadHeader(p, c.mode, w.cookie, w.offset, int(w.length))
	}
	return nil
}

// noteFailure hangs up instead of telling of a closed device, if the export wants so,
// and logs input/output errors, at most one a second.
func (c *conn) noteFailure(r *request) {
	switch {
	case r.errno == errnoShutdown && c.export.HangUp:
		c.hangUp()
	case r.errno == errnoIO:
		q := &c.reply
		if now := time.Now(); now.Sub(q.logged) >= time.Second {
			c.srv.log.Error("nbd: input/output error", "peer", peerName(c.sock.Conn), "export", c.export.Name,
				"op", commandNames[statIndex(r.wire.cmd)], "offset", r.wire.offset, "bytes", r.wire.length, "err", r.Err, "unlogged", q.unlogged)
			q.logged, q.unlogged = now, 0
		} else {
			q.unlogged++
		}
	}
}

// recycle takes back the requests whose replies are sent.
func (c *conn) recycle() {
	q := &c.reply
	var in, out refRun
	var n int64
	first, last := q.sending, q.sending
	for r := first; r != nil; r = r.next {
		in.drop(r.in)
		out.drop(r.out)
		r.in, r.out, r.Data, r.text = nil, nil, nil, ""
		last = r
		n++
	}
	in.flush()
	out.flush()
	clear(q.pieces)
	q.sending, q.unsent = nil, nil
	c.returned.push(first, last)
	c.inflight.Add(-n)
	if c.waiting.Load() {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// refRun drops references one by one, but counts those to the same buffer together.
type refRun struct {
	b *buffer
	n int32
}

func (run *refRun) drop(b *buffer) {
	if b != run.b {
		run.flush()
		run.b = b
	}
	run.n++
}

func (run *refRun) flush() {
	if run.b != nil && run.n != 0 {
		run.b.release(run.n)
	}
	run.n = 0
}

package nbd

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"blkd/blockdev"
	"blkd/internal/socket"
)

// clientConn is one connection of a client. Submitters encode requests into the
// queue under mu; one of them at a time is the sender and writes what has gathered.
// One goroutine reads the replies (client_reply.go).
type clientConn struct {
	c    *Client
	mode replyMode
	sock socket.Socket // writes: the sender; reads: the reader

	slots []slot
	gone  chan struct{} // closed when the reader has ended

	mu      sync.Mutex
	wakeup  sync.Cond // a slot was freed, the sender stopped, or the connection broke
	waiters int
	free    []uint32
	queue   sendQueue // not sent yet
	spare   sendQueue // being sent, or empty
	sending bool
	closing bool
	err     error // set once, when the connection is no longer usable
	dead    atomic.Bool

	reader replyReader
}

// slot is a command in flight. Its index and generation, or the request's number, make
// the cookie.
type slot struct {
	cookie atomic.Uint64 // zero: no reply is expected
	gen    uint32

	req    *blockdev.Request // or
	status *statusCall
	bar    *barrier
	cmd    uint16
	flags  uint16
	off, n int64 // range of the command in flight
	rest   int64 // bytes after it, for further commands
	flush  bool  // FLUSH must follow: the server does not know FUA

	// The reader's, while a reply arrives in chunks.
	got int64
	err error
}

// sendQueue is encoded requests. Headers lie in an arena that has room for one of
// each slot, so that it never moves.
type sendQueue struct {
	arena  []byte
	pieces [][]byte
	tail   int // start in arena of the last piece, or -1 if that is a payload
}

func (q *sendQueue) init(slots int) { q.arena, q.tail = make([]byte, 0, (slots+1)*extRequestLen), -1 }

// add encodes a request. It fails if there is no room, which takes a server that
// frees slots by answering what was not sent.
func (q *sendQueue) add(mode replyMode, w wireRequest, payload []byte) bool {
	at := len(q.arena)
	if cap(q.arena)-at < extRequestLen {
		return false
	}
	n := putRequest(q.arena[at:at+extRequestLen], mode, w)
	q.arena = q.arena[:at+n]
	if q.tail >= 0 {
		q.pieces[len(q.pieces)-1] = q.arena[q.tail:]
	} else {
		q.pieces = append(q.pieces, q.arena[at:])
		q.tail = at
	}
	if len(payload) > 0 {
		q.pieces = append(q.pieces, payload)
		q.tail = -1
	}
	return true
}

func (q *sendQueue) reset() {
	clear(q.pieces)
	q.arena, q.pieces, q.tail = q.arena[:0], q.pieces[:0], -1
}

func startClientConn(c *Client, nc net.Conn, slots int) *clientConn {
	cc := &clientConn{c: c, mode: c.info.mode, slots: make([]slot, slots), gone: make(chan struct{})}
	cc.sock.Init(nc)
	cc.wakeup.L = &cc.mu
	for i := slots - 1; i >= 0; i-- {
		cc.free = append(cc.free, uint32(i))
	}
	cc.queue.init(slots)
	cc.spare.init(slots)
	cc.reader.buf = make([]byte, chunkSize)
	go cc.readReplies()
	return cc
}

// submit sends a batch. It waits for free slots, and while it is the sender, for the
// socket.
func (cc *clientConn) submit(batch []*blockdev.Request, bar *barrier) {
	cc.mu.Lock()
	for _, r := range batch {
		err := cc.c.check(r)
		nothing := err == nil && r.Len == 0 && r.Op != blockdev.OpFlush // must not be sent
		if err == nil && !nothing {
			err = cc.start(r, nil, bar)
		}
		if err != nil || nothing {
			cc.mu.Unlock()
			r.Finish(err)
			bar.finish()
			cc.mu.Lock()
		}
	}
	cc.send()
	cc.mu.Unlock()
}

// start queues the first command of a request or of a status call. It holds mu, but
// for waiting.
func (cc *clientConn) start(r *blockdev.Request, status *statusCall, bar *barrier) error {
	for len(cc.free) == 0 && cc.err == nil {
		cc.send()
		if len(cc.free) == 0 && cc.err == nil {
			cc.wait()
		}
	}
	if cc.err != nil {
		return cc.err
	}
	i := cc.free[len(cc.free)-1]
	cc.free = cc.free[:len(cc.free)-1]
	s := &cc.slots[i]
	s.req, s.status, s.bar, s.flush, s.rest = r, status, bar, false, 0
	var payload []byte
	if r != nil {
		s.cmd, s.flags = clientCommand(r)
		s.off, s.n = r.Off, r.Len
		if s.cmd == cmdFlush {
			s.off, s.n = 0, 0
		}
		if s.flags&cmdFlagFUA != 0 && cc.c.info.flags&flagSendFUA == 0 {
			s.flags &^= cmdFlagFUA
			s.flush = true
		}
		if s.cmd == cmdWrite {
			payload = r.Data
		}
	} else {
		s.cmd, s.flags, s.off, s.n = cmdBlockStatus, 0, status.off, status.n
	}
	if cc.mode != modeExtended && s.n > maxRange32 {
		s.n, s.rest = maxRange32, s.n-maxRange32
	}
	cc.issue(i, payload)
	return nil
}

// maxRange32 is the longest range, in bytes, that one command without extended
// headers is given. Longer ones take several commands.
const maxRange32 = 1 << 31

// issue queues the command that a slot describes.
func (cc *clientConn) issue(i uint32, payload []byte) {
	s := &cc.slots[i]
	if s.gen++; s.gen == 0 {
		s.gen = 1
	}
	s.got, s.err = 0, nil
	w := wireRequest{cmd: s.cmd, flags: s.flags, cookie: uint64(s.gen)<<cookieSlotBits | uint64(i), offset: uint64(s.off), length: uint64(s.n)}
	if cc.c.numbered && s.req != nil && s.req.Number != 0 {
		w.cookie = numberedCookie(s.req.Number, i)
	}
	if cc.mode == modeExtended && s.cmd == cmdWrite {
		w.flags |= cmdFlagPayloadLen
	}
	s.cookie.Store(w.cookie) // from here on the reader owns the slot
	if !cc.queue.add(cc.mode, w, payload) {
		cc.fail(fmt.Errorf("%w: the server answered requests before it got them", ErrConnectionLost))
	}
}

// resume issues the next command of a request that needs more than one.
func (cc *clientConn) resume(i uint32) {
	cc.mu.Lock()
	s := &cc.slots[i]
	if cc.err != nil {
		err := cc.err
		cc.mu.Unlock()
		cc.end(s, err)
		return
	}
	if s.rest > 0 {
		s.off += s.n
		s.n = min(s.rest, maxRange32)
		s.rest -= s.n
	} else {
		s.flush, s.cmd, s.flags, s.off, s.n = false, cmdFlush, 0, 0, 0
	}
	cc.issue(i, nil)
	cc.send()
	cc.mu.Unlock()
}

// send makes the caller the sender, unless there is one, until the queue is empty.
// It holds mu, but for writing.
func (cc *clientConn) send() {
	if cc.sending {
		return
	}
	cc.sending = true
	for len(cc.queue.pieces) > 0 && cc.err == nil {
		cc.queue, cc.spare = cc.spare, cc.queue
		cc.mu.Unlock()
		_, err := cc.sock.Write(cc.spare.pieces, true)
		cc.mu.Lock()
		cc.spare.reset()
		if err != nil {
			cc.fail(fmt.Errorf("%w: write: %w", ErrConnectionLost, err))
		}
	}
	cc.sending = false
	if cc.waiters > 0 {
		cc.wakeup.Broadcast()
	}
}

func (cc *clientConn) wait() {
	cc.waiters++
	cc.wakeup.Wait()
	cc.waiters--
}

// fail makes the connection unusable; it holds mu. The reader, which then sees the
// socket end, fails the requests in flight.
func (cc *clientConn) fail(err error) {
	if cc.err == nil {
		cc.err = err
		cc.dead.Store(true)
		cc.wakeup.Broadcast()
	}
	cc.sock.Shutdown()
}

// disconnect says goodbye and waits a moment for the server to close.
func (cc *clientConn) disconnect() {
	cc.mu.Lock()
	cc.closing = true
	if cc.err == nil {
		cc.queue.add(cc.mode, wireRequest{cmd: cmdDisc}, nil)
		cc.send()
	}
	cc.mu.Unlock()
	cc.sock.SetReadDeadline(time.Now().Add(time.Second))
	<-cc.gone
	cc.sock.Close()
}

// barrier waits for a number of requests.
type barrier struct {
	left atomic.Int64
	done chan struct{}
}

func (b *barrier) init(n int) {
	b.left.Store(int64(n))
	b.done = make(chan struct{})
}

func (b *barrier) finish() {
	if b != nil && b.left.Add(-1) == 0 {
		close(b.done)
	}
}

func (b *barrier) wait() { <-b.done }

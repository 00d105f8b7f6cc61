package nbd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"blkd/blockdev"
	"blkd/internal/socket"
)

// conn is one connection in the transmission phase. Its reader goroutine runs serve;
// what other goroutines touch is marked shared.
type conn struct {
	srv        *Server
	export     *exportState
	dev        blockdev.Device
	readOnly   bool
	mode       replyMode
	allocation bool

	sock socket.Socket // reads: the reader; writes: whoever holds the writer role

	// Reader: received bytes are in.data[start:end].
	in         *buffer
	start, end int
	readMax    int // the most to read at once
	// Reader: small replies are built in out.data from outAt on.
	out   *buffer
	outAt int
	// Reader: references to in and out that requests of the batch will hold.
	inRefs, outRefs int32

	batch     []*blockdev.Request // parsed, not submitted
	batchRead int                 // bytes of its long READs
	admitted  int64               // parsed by the reader and not counted in inflight
	free      *request            // free requests
	made      int                 // requests ever made for this connection
	tick      uint32              // samples latency
	local     [numCommands]struct{ requests, bytes uint64 }

	// Shared.
	reply     replyQueue
	returned  requestStack // requests whose replies are sent
	inflight  atomic.Int64 // parsed, reply not sent
	notDone   atomic.Int64 // submitted, not Done
	waiting   atomic.Bool  // the reader waits on wake
	wake      chan struct{}
	receiving atomic.Bool // a payload is being received
	memory    account
	count     opCounters

	quit     chan struct{} // closed by hangUp
	quitOnce sync.Once
	draining atomic.Bool // Shutdown: read no more
	broken   atomic.Bool // replies can no longer be sent
}

func newConn(s *Server, h *handshake) *conn {
	c := &conn{
		srv: s, export: h.export, dev: h.dev, mode: h.agreed.mode, allocation: h.agreed.allocation,
		readOnly: h.export.ReadOnly, readMax: chunkSize, wake: make(chan struct{}, 1), quit: make(chan struct{}),
		memory: account{conn: newBudget(s.opts.MaxConnectionBytes), server: s.memory},
	}
	c.sock.Init(h.nc)
	c.reply.init()
	c.in, c.out = getBuffer(chunkClass), getBuffer(chunkClass)
	c.end = copy(c.in.data, h.in) // never more than a read of the handshake holds
	h.line.carry(c)
	return c
}

// release closes the device, if it is this connection's own.
func (c *conn) release() { c.export.release(c.dev) }

// serve runs the transmission phase and closes the connection. The error says how
// the client broke the rules; nil means an orderly end, or one that we wanted.
func (c *conn) serve() error {
	defer c.release()
	defer c.sock.Close()
	if !c.export.add(c) {
		return nil
	}
	c.srv.sweeper.add(c)
	go c.writeLoop()
	err := c.readLoop()
	if err != nil {
		c.hangUp() // whatever comes is not for us
	}
	c.srv.sweeper.remove(c)
	c.waitFor(func() bool { return c.inflight.Load() == 0 })
	c.retireWriter()
	c.in.release(1)
	c.out.release(1)
	c.export.remove(c)
	return err
}

// readLoop serves until the client leaves.
func (c *conn) readLoop() error {
	for {
		more, err := true, error(nil)
		for more && err == nil {
			more, err = c.parse()
		}
		c.submit()
		if err == nil {
			err = c.fill()
		}
		switch {
		case err == nil:
		case errors.Is(err, errDisconnect), c.isHungUp(), c.draining.Load():
			return nil
		case errors.Is(err, io.EOF):
			if c.start == c.end {
				return nil
			}
			return fmt.Errorf("client left in the middle of a request")
		default:
			return err
		}
	}
}

// fill reads more bytes. The unparsed ones move to the front, or to another buffer
// if requests still point into this one.
func (c *conn) fill() error {
	if c.start == c.end && c.in.refs.Load() == 1 {
		c.start, c.end = 0, 0
	}
	if free := len(c.in.data) - c.end; free < c.missing() {
		if err := c.turn(); err != nil {
			return err
		}
	}
	n, err := c.sock.Read(c.in.data[c.end:min(len(c.in.data), c.end+c.readMax)])
	c.end += n
	if n > 0 {
		return nil
	}
	return c.readError(err)
}

// minFree is the least free space, in bytes, that is worth a read of which nobody
// knows what it will bring.
const minFree = 32 << 10

// missing is how much free space, in bytes, the next read needs. Only requests that
// fit the buffer are completed in it; see receive.
func (c *conn) missing() int {
	p := c.in.data[c.start:c.end]
	h := c.mode.requestHeaderLen()
	if len(p) >= h {
		if w, _ := getRequest(p, c.mode); w.payloadInRequest {
			return h + int(w.length) - len(p)
		}
	}
	return minFree
}

// turn makes room in the read buffer.
func (c *conn) turn() error {
	if c.in.refs.Load() == 1 {
		c.end = copy(c.in.data, c.in.data[c.start:c.end])
		c.start = 0
		return nil
	}
	if err := c.take(chunkSize); err != nil {
		return err
	}
	old := c.in
	c.in = getBuffer(chunkClass)
	c.end = copy(c.in.data, old.data[c.start:c.end])
	c.start = 0
	old.charge(&c.memory, chunkSize)
	old.release(1)
	return nil
}

// readError explains a failed read.
func (c *conn) readError(err error) error {
	switch {
	case err == nil:
		return io.ErrNoProgress
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF), isGone(err):
		return io.EOF
	}
	return fmt.Errorf("read: %w", err)
}

// submit gives the batch to the device and sends the replies that are ready.
func (c *conn) submit() {
	if c.admitted == 0 {
		return
	}
	c.settle()
	c.inflight.Add(c.admitted)
	c.admitted = 0
	for i := range c.local {
		if l := &c.local[i]; l.requests != 0 {
			c.count[i].requests.Add(l.requests)
			c.count[i].bytes.Add(l.bytes)
			l.requests, l.bytes = 0, 0
		}
	}
	mine := c.reply.enterSubmit()
	if len(c.batch) != 0 {
		c.srv.sweeper.noteWork()
		c.notDone.Add(int64(len(c.batch)))
		c.dev.Submit(c.batch)
		c.batch, c.batchRead = c.batch[:0], 0
	}
	if c.reply.leaveSubmit(mine) {
		c.drain(false)
	}
	if c.out.refs.Load() == 1 {
		c.outAt = 0
	}
}

// settle counts the references that the batch's requests hold.
func (c *conn) settle() {
	if c.inRefs != 0 {
		c.in.refs.Add(c.inRefs)
		c.inRefs = 0
	}
	if c.outRefs != 0 {
		c.out.refs.Add(c.outRefs)
		c.outRefs = 0
	}
}

// take charges n bytes of buffer. When the budget is spent it sends off the batch
// and waits: a client that does not read its replies is not read from.
func (c *conn) take(n int64) error {
	if c.memory.take(n) {
		return nil
	}
	c.submit()
	c.srv.sweeper.noteWork()
	if !c.memory.takeWait(n, c.quit) {
		return io.EOF
	}
	return nil
}

// waitFor waits until a condition that replies bring about holds.
func (c *conn) waitFor(ready func() bool) {
	for {
		c.waiting.Store(true)
		if ready() {
			c.waiting.Store(false)
			return
		}
		<-c.wake
	}
}

// hangUp closes the socket in both directions; the reader cleans up.
func (c *conn) hangUp() {
	c.quitOnce.Do(func() { close(c.quit) })
	c.broken.Store(true)
	c.sock.Shutdown()
}

func (c *conn) isHungUp() bool {
	select {
	case <-c.quit:
		return true
	default:
		return false
	}
}

// finish makes the reader stop; replies to what it has received are still sent.
func (c *conn) finish() {
	c.draining.Store(true)
	c.sock.SetReadDeadline(time.Unix(1, 0))
}

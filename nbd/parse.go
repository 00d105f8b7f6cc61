package nbd

import (
	"errors"
	"fmt"
	"io"
	"time"

	"blkd/blockdev"
)

// errDisconnect ends the read loop after DISC.
var errDisconnect = errors.New("client disconnects")

// smallRead is the longest READ, in bytes, whose reply is built in the common reply
// buffer; a longer one gets a buffer of its own.
const smallRead = 64 << 10

// maxBatchRead is how many bytes of longer READs a batch gathers. What was read is
// sent while it is in the processor's cache, and the next ones get the same buffers.
const maxBatchRead = 256 << 10

// parse takes one request off the read buffer. It returns false when there is no
// complete one, and an error when the connection must end.
func (c *conn) parse() (bool, error) {
	p := c.in.data[c.start:c.end]
	h := c.mode.requestHeaderLen()
	if len(p) < h {
		return false, nil
	}
	w, ok := getRequest(p, c.mode)
	if !ok {
		return false, fmt.Errorf("bad request magic %#x", be.Uint32(p))
	}
	if w.cmd == cmdDisc {
		return false, errDisconnect
	}
	if !w.payloadInRequest {
		c.start += h
		c.readMax = chunkSize
		return true, c.admit(w, nil, nil)
	}
	if w.length > maxPayload {
		return false, fmt.Errorf("command %d with %d bytes of payload, limit %d", w.cmd, w.length, maxPayload)
	}
	total := h + int(w.length)
	if len(p) >= total {
		c.start += total
		c.readMax = chunkSize
		return true, c.admit(w, p[h:total:total], c.in)
	}
	if c.start+total <= len(c.in.data) || total <= chunkSize/2 {
		return false, nil // fill completes it in place
	}
	return true, c.receive(w, p[h:])
}

// receive reads a payload that is too long for the read buffer into a buffer of its
// own; head is the part that has arrived.
func (c *conn) receive(w wireRequest, head []byte) error {
	c.submit() // what came before does not wait for the payload
	class := classOf(int(w.length))
	if err := c.take(1 << class); err != nil {
		return err
	}
	b := getBuffer(class)
	b.charge(&c.memory, 1<<class)
	payload := b.data[headroom : headroom+int(w.length)]
	n := copy(payload, head)
	c.start, c.end = 0, 0
	if c.in.refs.Load() != 1 {
		c.start, c.end = len(c.in.data), len(c.in.data) // fill turns to another one
	}
	c.receiving.Store(true)
	defer c.receiving.Store(false)
	for n < len(payload) {
		m, err := c.sock.Read(payload[n:])
		n += m
		if m == 0 {
			b.release(1)
			if err = c.readError(err); errors.Is(err, io.EOF) && !c.draining.Load() {
				err = fmt.Errorf("client left in the middle of a payload")
			}
			return err
		}
	}
	// The next request is likely of the same kind. Read little besides its
	// header, so that its payload is not copied either.
	c.readMax = 4096
	err := c.admit(w, payload, b) // takes a reference of its own
	b.release(1)
	return err
}

// admit makes a request of a header and its payload, which lies in buffer in.
func (c *conn) admit(w wireRequest, payload []byte, in *buffer) error {
	r := c.newRequest()
	stat := &c.local[statIndex(w.cmd)]
	stat.requests++
	if c.tick++; c.tick%latSample == 0 {
		r.started = time.Now()
	}
	r.Err = nil
	r.errno, r.text = c.check(&w, payload)
	r.wire = w
	if r.errno != 0 {
		c.answer(r)
		return nil
	}
	stat.bytes += w.length
	r.Off, r.Len, r.Flags = int64(w.offset), int64(w.length), deviceFlags(w.flags)
	if r.Number = 0; c.export.Numbered {
		r.Number = numberOf(w.cookie)
	}
	var err error
	switch w.cmd {
	case cmdBlockStatus:
		return c.blockStatus(r)
	case cmdRead:
		r.Op = blockdev.OpRead
		err = c.reserveRead(r)
	default:
		if w.cmd == cmdFlush {
			r.Off = 0
		}
		r.Op = commandOps[w.cmd]
		err = c.reserve(r, c.mode.ackLen())
	}
	if err != nil { // the connection ends; the request still has to be given back
		r.errno = errnoShutdown
		c.answer(r)
		return err
	}
	if w.cmd == cmdWrite {
		r.Data = payload
		if r.in = in; in == c.in {
			c.inRefs++
		} else {
			in.refs.Add(1)
		}
	}
	c.batch = append(c.batch, &r.Request)
	c.admitted++
	if c.batchRead >= maxBatchRead {
		c.submit()
	}
	return nil
}

// answer queues the reply to a request that the device does not see. Like those of
// the batch it is counted by the next submit.
func (c *conn) answer(r *request) {
	c.admitted++
	c.reply.queue.push(r, r)
}

// commandOps maps commands to the device's operations.
var commandOps = [numCommands]blockdev.Op{
	cmdRead: blockdev.OpRead, cmdWrite: blockdev.OpWrite, cmdFlush: blockdev.OpFlush, cmdTrim: blockdev.OpTrim,
	cmdCache: blockdev.OpCache, cmdWriteZeroes: blockdev.OpWriteZeroes,
}

// deviceFlags maps command flags that were checked.
func deviceFlags(wire uint16) (f blockdev.Flags) {
	if wire&cmdFlagFUA != 0 {
		f |= blockdev.FUA
	}
	if wire&cmdFlagNoHole != 0 {
		f |= blockdev.NoHole
	}
	if wire&cmdFlagFastZero != 0 {
		f |= blockdev.FastZero
	}
	return f
}

// reserve takes n bytes of the common reply buffer for a request.
func (c *conn) reserve(r *request, n int) error {
	if c.outAt+n > len(c.out.data) {
		if err := c.turnOut(n); err != nil {
			return err
		}
	}
	r.out, r.at, r.n = c.out, c.outAt, n
	c.outAt += n
	c.outRefs++
	return nil
}

// turnOut gets another reply buffer. The full one is charged until its replies are
// sent.
func (c *conn) turnOut(n int) error {
	c.settle()
	if c.out.refs.Load() == 1 {
		c.outAt = 0
		return nil
	}
	if err := c.take(chunkSize); err != nil {
		return err
	}
	if c.outAt+n <= len(c.out.data) { // take sent the batch off, the buffer is free again
		c.memory.give(chunkSize)
		return nil
	}
	c.out.charge(&c.memory, chunkSize)
	c.out.release(1)
	c.out, c.outAt = getBuffer(chunkClass), 0
	return nil
}

// reserveRead takes space for a READ's header and data, adjacent to each other.
func (c *conn) reserveRead(r *request) error {
	h, n := c.mode.readHeaderLen(), int(r.Len)
	if n <= smallRead {
		if err := c.reserve(r, h+n); err != nil {
			return err
		}
		r.Data = r.out.data[r.at+h : r.at+h+n : r.at+h+n]
		return nil
	}
	class := classOf(n)
	if err := c.take(1 << class); err != nil {
		return err
	}
	b := getBuffer(class)
	b.charge(&c.memory, 1<<class)
	c.batchRead += n
	r.out, r.at, r.n = b, headroom-h, h+n
	r.Data = b.data[headroom : headroom+n : headroom+n]
	return nil
}

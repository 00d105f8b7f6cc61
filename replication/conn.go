package replication

import (
	"fmt"
	"net"
	"sync"

	"blkd/internal/socket"
)

const (
	// connBuffer is how much, in bytes, a connection's reader takes at once; only a longer
	// frame makes the buffer grow.
	connBuffer = 512 << 10
	// connCalm is how many reads without a longer frame let it shrink again.
	connCalm = 64
)

// conn is a connection to the same volume's replica on another node.
//
// Whoever has queued messages sends them, without waiting. When the socket takes
// no more, or somebody else is sending, the messages stay behind and are sent by
// that one or by the writer goroutine.
type conn struct {
	v       *Volume
	peer    NodeID
	version uint8 // of the protocol
	sock    socket.Socket
	kick    chan struct{} // hands sending over to the writer
	done    chan struct{} // the connection has ended

	mu    sync.Mutex
	out   outbox // not being sent
	busy  bool   // somebody is sending
	ended bool

	// Whoever is sending owns these.
	sending outbox
	pieces  [][]byte // of sending
	unsent  [][]byte // the rest of pieces
}

// Serve exchanges messages with the replica on another node until the connection
// breaks, and closes it. An older connection to that node is given up. Both sides
// must have said who they are before, and agreed on a version of the protocol.
func (v *Volume) Serve(nc net.Conn, peer NodeID, version uint8) error {
	c := &conn{v: v, peer: peer, version: version, kick: make(chan struct{}, 1), done: make(chan struct{})}
	c.sock.Init(nc)
	defer nc.Close()
	if !v.connect(c) {
		return ErrMoved
	}
	var writer sync.WaitGroup
	writer.Go(c.write)
	err := c.read()
	v.disconnect(c)
	c.end()
	writer.Wait()
	return fmt.Errorf("connection to %s: %w", peer, err)
}

// connect makes c the connection to its peer; false: the volume is closed.
func (v *Volume) connect(c *conn) bool {
	w := takeWork()
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		works.Put(w)
		return false
	}
	now, old := v.now(), v.conns[c.peer]
	if old != nil {
		v.core.Disconnected(now, c.peer)
	}
	v.conns[c.peer] = c
	v.core.Connected(now, c.peer, c.version)
	v.take(w)
	v.mu.Unlock()
	if old != nil {
		old.sock.Shutdown()
	}
	v.carryOut(w)
	return true
}

// disconnect tells the core that what was sent may be lost.
func (v *Volume) disconnect(c *conn) {
	v.step(func(now Instant) {
		if v.conns[c.peer] == c {
			delete(v.conns, c.peer)
			v.core.Disconnected(now, c.peer)
		}
	})
}

// queue encodes a message. It is called under the volume's lock. It tells
// whether the connection has to be flushed.
func (c *conn) queue(m *Message) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	first := c.out.empty()
	c.out.add(m)
	return first
}

// flush sends what is queued, unless somebody else does. It does not wait.
func (c *conn) flush() {
	if !c.begin() {
		return
	}
	if !c.sock.Direct() {
		c.kick <- struct{}{} // has room: sending is handed over
		return
	}
	for {
		rest, err := c.sock.Write(c.unsent, false)
		if err != nil {
			c.fail()
			return
		}
		if len(rest) > 0 {
			c.unsent = rest
			c.kick <- struct{}{}
			return
		}
		if !c.next() {
			return
		}
	}
}

// begin takes the right to send, if there is something.
func (c *conn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy || c.ended || c.out.empty() {
		return false
	}
	c.busy = true
	c.load()
	return true
}

// load takes what is queued. It holds mu.
func (c *conn) load() {
	c.sending, c.out = c.out, c.sending
	c.pieces = c.sending.pieces(c.pieces[:0])
	c.unsent = c.pieces
}

// next goes on with what was queued meanwhile, or gives the right to send up.
func (c *conn) next() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.pieces)
	c.sending.reset()
	if c.ended || c.out.empty() {
		c.busy = false
		return false
	}
	c.load()
	return true
}

// write is the goroutine that may wait for the socket.
func (c *conn) write() {
	for {
		select {
		case <-c.done:
			return
		case <-c.kick:
		}
		for more := true; more; more = c.next() {
			if _, err := c.sock.Write(c.unsent, true); err != nil {
				c.fail()
				return
			}
		}
	}
}

// fail breaks the connection; the reader notices. The right to send is kept:
// nobody shall try again.
func (c *conn) fail() { c.sock.Shutdown() }

// end lets the writer go, and whoever sends.
func (c *conn) end() {
	c.sock.Shutdown()
	close(c.done)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.out = outbox{}
}

// read receives messages until the connection breaks.
func (c *conn) read() error {
	in := inbound{buf: make([]byte, connBuffer)}
	for {
		n, err := c.sock.Read(in.room())
		if n == 0 && err != nil {
			return err
		}
		in.end += n
		if err := in.decode(); err != nil {
			return err
		}
		if len(in.batch) > 0 && !c.v.receive(c, in.batch) {
			return ErrMoved
		}
		in.makeRoom()
	}
}

// inbound is what was received: messages that lie in a buffer, and the beginning
// of the next one.
type inbound struct {
	buf        []byte
	start, end int
	want       int // bytes of the frame at start
	calm       int // reads since the last long frame
	batch      []*Message
	decoders   []*Decoder // one for each message of a batch, whose storage it is
}

// room is where the next bytes go. Of a long frame it takes the rest and no more, so
// that the next one begins where the buffer does and never has to be moved.
func (in *inbound) room() []byte {
	end := min(len(in.buf), in.end+connBuffer)
	if in.want > connBuffer {
		end = in.start + in.want
	}
	return in.buf[in.end:end]
}

// decode makes a batch of the whole frames in the buffer.
func (in *inbound) decode() error {
	in.batch = in.batch[:0]
	for {
		if len(in.batch) == len(in.decoders) {
			in.decoders = append(in.decoders, NewDecoder(MaxFrame))
		}
		d := in.decoders[len(in.batch)]
		m, n, err := d.Next(in.buf[in.start:in.end])
		if err != nil {
			return err
		}
		if n == 0 {
			in.want = d.Want()
			return nil
		}
		in.batch = append(in.batch, m)
		in.start += n
	}
}

// makeRoom readies the buffer for the rest of a frame, once the batch is done
// with.
func (in *inbound) makeRoom() {
	if in.start == in.end {
		in.start, in.end = 0, 0
	}
	if in.calm++; in.want > connBuffer {
		in.calm = 0
	}
	if len(in.buf)-in.start < max(in.want, connBuffer/4) {
		in.end = copy(in.buf, in.buf[in.start:in.end])
		in.start = 0
	}
	switch {
	case len(in.buf) < in.want:
		in.resize(in.want)
	case len(in.buf) > connBuffer && in.calm >= connCalm && in.start == 0 && in.end <= connBuffer:
		in.resize(connBuffer) // no long frames any more
	}
}

// resize makes the buffer n bytes long; what is in it fits.
func (in *inbound) resize(n int) {
	buf := make([]byte, n)
	copy(buf, in.buf[:in.end])
	in.buf = buf
}

// receive lets the core handle messages that came in together; false: the connection
// counts no more.
func (v *Volume) receive(c *conn, batch []*Message) bool {
	w := takeWork()
	v.mu.Lock()
	if v.closed || v.conns[c.peer] != c {
		v.mu.Unlock()
		works.Put(w)
		return false
	}
	now := v.now()
	for _, m := range batch {
		v.core.Receive(now, c.peer, m)
	}
	v.take(w)
	v.mu.Unlock()
	v.carryOut(w)
	return true
}

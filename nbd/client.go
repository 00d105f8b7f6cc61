package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"sync/atomic"
	"time"

	"blkd/blockdev"
)

// ErrConnectionLost is the error of requests whose connection broke: whether they
// took effect is unknown.
var ErrConnectionLost = errors.New("nbd: connection lost")

// DialOptions configure a client. The zero value is ready to use.
type DialOptions struct {
	// TLS configures nbds:// URIs: RootCAs and Certificates. What it leaves out
	// comes from the URI and from the system.
	TLS *tls.Config
	// Connections is how many connections to use if the server allows more than
	// one. Default 1, at most 64.
	Connections int
	// MaxRequests is the number of requests in flight per connection; Submit
	// waits for a free one. Default 256, at most 4096.
	MaxRequests int
	// Simple keeps to simple replies, and so to servers of every age. There is
	// no block status then.
	Simple bool
	// NoExtended does not ask for extended headers.
	NoExtended bool
	// Numbered tells the server the numbers of mutations, in their cookies; it must be
	// one of an export that is Numbered, and speak extended headers.
	Numbered bool
	// Dial replaces the way to connect.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// HandshakeTimeout bounds connecting and negotiating. Default 10 s.
	HandshakeTimeout time.Duration
}

func (o DialOptions) withDefaults() DialOptions {
	orDefault(&o.Connections, 1)
	orDefault(&o.MaxRequests, 256)
	orDefault(&o.HandshakeTimeout, 10*time.Second)
	o.Connections = min(o.Connections, 64)
	o.MaxRequests = min(o.MaxRequests, 1<<cookieSlotBits)
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return o
}

// Client is an export of a server as a device. It is a [blockdev.Device].
//
// NBD's TRIM does not promise that the range reads as zeros afterwards, as a Device
// must; so OpTrim is sent as WRITE_ZEROES that may punch a hole.
type Client struct {
	uri  URI
	info exportInfo
	// numbered: see DialOptions.
	numbered bool
	conns    []*clientConn
	next     atomic.Uint32
	done     atomic.Bool
}

var _ blockdev.Device = (*Client)(nil)

// Dial connects to the export of an NBD URI.
func Dial(ctx context.Context, uri string, opts DialOptions) (*Client, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	c := &Client{uri: u}
	for i := 0; i < opts.Connections; i++ {
		nc, info, err := connect(ctx, u, &opts)
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("nbd: %s: %w", uri, err)
		}
		if i > 0 && info != c.info {
			nc.Close()
			c.Close()
			return nil, fmt.Errorf("nbd: %s: connections of one client see different exports (%+v and %+v); do all servers behind the address serve the same one?", uri, c.info, info)
		}
		if opts.Numbered && info.mode != modeExtended {
			nc.Close()
			c.Close()
			return nil, fmt.Errorf("nbd: %s: the server does not speak extended headers, which numbered requests need; is it of an older version?", uri)
		}
		c.info, c.numbered = info, opts.Numbered
		c.conns = append(c.conns, startClientConn(c, nc, opts.MaxRequests))
		if info.flags&flagCanMultiConn == 0 {
			break
		}
	}
	return c, nil
}

// Size is the export's length in bytes as of the handshake.
func (c *Client) Size() int64 { return c.info.size }

// ReadOnly tells whether the server refuses mutations.
func (c *Client) ReadOnly() bool { return c.info.flags&flagReadOnly != 0 }

// Lost returns a channel that is closed when the first connection has ended.
func (c *Client) Lost() <-chan struct{} { return c.conns[0].gone }

// Connections is the number of connections in use.
func (c *Client) Connections() int { return len(c.conns) }

// BlockSizes are the server's minimum and preferred block size and its longest read
// or write, in bytes.
func (c *Client) BlockSizes() (minimum, preferred, maximum int64) {
	return int64(c.info.minBlock), int64(c.info.preferred), int64(c.info.maxPayload)
}

// Submit sends the batch on one connection. It waits while too many requests are in
// flight there, and for the mutations before one that overlaps them in the batch.
func (c *Client) Submit(batch []*blockdev.Request) {
	cc := c.conns[0]
	if len(c.conns) > 1 {
		cc = c.pick()
	}
	for len(batch) > 0 {
		n := independent(batch)
		if n == len(batch) {
			cc.submit(batch, nil)
			return
		}
		var b barrier
		b.init(n)
		cc.submit(batch[:n], &b)
		b.wait()
		batch = batch[n:]
	}
}

// pick returns the next connection that works, or any if none does.
func (c *Client) pick() *clientConn {
	for range c.conns {
		if cc := c.conns[int(c.next.Add(1))%len(c.conns)]; !cc.dead.Load() {
			return cc
		}
	}
	return c.conns[0]
}

// independent is the length of the longest beginning of a batch in which no two
// mutations overlap. The protocol does not order them, so they must not be in flight
// together.
func independent(batch []*blockdev.Request) int {
	lo, hi := int64(math.MaxInt64), int64(math.MinInt64) // around all mutations so far
	for i, r := range batch {
		if !r.Op.Mutates() {
			continue
		}
		apart := r.Off >= hi || r.Off+r.Len <= lo
		lo, hi = min(lo, r.Off), max(hi, r.Off+r.Len)
		if apart { // as in any sequential batch
			continue
		}
		for _, q := range batch[:i] {
			if q.Op.Mutates() && q.Off < r.Off+r.Len && r.Off < q.Off+q.Len {
				return i
			}
		}
	}
	return len(batch)
}

// Close flushes, if the export can be written, and disconnects. Requests in flight
// fail.
func (c *Client) Close() error {
	if len(c.conns) == 0 {
		return nil
	}
	var err error
	if !c.done.Load() && !c.ReadOnly() && c.info.flags&flagSendFlush != 0 {
		err = blockdev.Flush(c)
	}
	if c.done.Swap(true) {
		return nil
	}
	for _, cc := range c.conns {
		cc.disconnect()
	}
	return err
}

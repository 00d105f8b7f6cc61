package replication

import "sync"

// outbox holds frames until they are sent: in buffers that all connections share, so that
// a connection at rest has none, and neither a burst nor a long frame makes one grow.
// The zero value is empty.
type outbox struct {
	bufs []*sendBuffer
}

// sendBuffer is a buffer of a pool; nil pool: it was made for one very long frame.
type sendBuffer struct {
	b    []byte
	pool *sync.Pool
}

// sendPools are the pools by the size of their buffers, in bytes, ascending: for frames
// of small requests, and for those with an entry of Limits.EntryBytes.
var sendPools = [...]struct {
	size int
	sync.Pool
}{{size: 64 << 10}, {size: 1<<20 + 64<<10}}

// takeSendBuffer returns an empty buffer for n bytes or more.
func takeSendBuffer(n int) *sendBuffer {
	for i := range sendPools {
		p := &sendPools[i]
		if n > p.size {
			continue
		}
		if s, ok := p.Get().(*sendBuffer); ok {
			return s
		}
		return &sendBuffer{make([]byte, 0, p.size), &p.Pool}
	}
	return &sendBuffer{b: make([]byte, 0, n)}
}

// add appends the frame of m.
func (o *outbox) add(m *Message) {
	n, last := MessageBytes(m), len(o.bufs)-1
	if last < 0 || cap(o.bufs[last].b)-len(o.bufs[last].b) < n {
		o.bufs = append(o.bufs, takeSendBuffer(n))
		last++
	}
	o.bufs[last].b = AppendMessage(o.bufs[last].b, m)
}

func (o *outbox) empty() bool { return len(o.bufs) == 0 }

// pieces appends what is to be sent to p, in order.
func (o *outbox) pieces(p [][]byte) [][]byte {
	for _, s := range o.bufs {
		p = append(p, s.b)
	}
	return p
}

// reset forgets the frames, once nobody reads them any more.
func (o *outbox) reset() {
	for i, s := range o.bufs {
		o.bufs[i] = nil
		if s.pool != nil {
			s.b = s.b[:0]
			s.pool.Put(s)
		}
	}
	o.bufs = o.bufs[:0]
}

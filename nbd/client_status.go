package nbd

import (
	"fmt"
	"io"

	"blkd/blockdev"
)

// statusCall is a BLOCK_STATUS in flight.
type statusCall struct {
	off, n  int64
	extents []blockdev.Extent
	covered int64 // bytes from off on that extents describe
	done    chan error
}

// maxStatusBytes is the longest reply to BLOCK_STATUS, in bytes, that a client
// takes.
const maxStatusBytes = 8 + 1<<20

// Extents asks the server for the block status. A server without base:allocation
// has data everywhere.
func (c *Client) Extents(off, n int64, emit func(blockdev.Extent) bool) error {
	if c.done.Load() {
		return blockdev.ErrClosed
	}
	if err := blockdev.CheckExtents(off, n, c.info.size); err != nil {
		return err
	}
	if !c.info.hasStatus {
		emit(blockdev.Extent{Off: off, Len: n})
		return nil
	}
	for end := off + n; off < end; {
		call := &statusCall{off: off, n: end - off, done: make(chan error, 1)}
		if c.info.mode != modeExtended {
			call.n = min(call.n, maxRange32)
		}
		if err := c.pick().blockStatus(call); err != nil {
			return fmt.Errorf("block status of %d bytes at offset %d: %w", call.n, off, err)
		}
		for _, x := range call.extents {
			if !emit(x) {
				return nil
			}
			off += x.Len
		}
	}
	return nil
}

// blockStatus sends one BLOCK_STATUS and waits for its reply.
func (cc *clientConn) blockStatus(call *statusCall) error {
	cc.mu.Lock()
	err := cc.start(nil, call, nil)
	if err == nil {
		cc.send()
	}
	cc.mu.Unlock()
	if err == nil {
		err = <-call.done
	}
	if err == nil && len(call.extents) == 0 {
		return fmt.Errorf("%w: the server answers without extents", blockdev.ErrIO)
	}
	return err
}

// statusChunk handles a chunk of block status.
func (cc *clientConn) statusChunk(s *slot, p []byte, length uint64) (bool, error) {
	h, head, entry := cc.mode.chunkHeaderLen(), 4, 8
	if cc.mode == modeExtended {
		head, entry = 8, 16
	}
	n := int(length) - head
	if length > maxStatusBytes || n <= 0 || n%entry != 0 {
		return false, fmt.Errorf("block status chunk of %d bytes", length)
	}
	body := make([]byte, length)
	if have := len(p) - h; have < len(body) {
		copy(body, p[h:])
		cc.consume(len(p))
		if _, err := io.ReadFull(cc.sock.Conn, body[have:]); err != nil {
			return false, noEOF(err)
		}
	} else {
		copy(body, p[h:])
		cc.consume(h + len(body))
	}
	c := cursor{p: body}
	if id := c.uint32(); id != cc.c.info.allocation || len(s.status.extents) != 0 {
		return false, fmt.Errorf("block status of context %d, expected one of context %d", id, cc.c.info.allocation)
	}
	if cc.mode == modeExtended {
		if count := c.uint32(); int(count) != n/entry {
			return false, fmt.Errorf("block status with %d extents in the place of %d", count, n/entry)
		}
	}
	return true, s.status.add(&c, cc.mode)
}

// add takes the extents of a reply, cut at the end of the request.
func (call *statusCall) add(c *cursor, mode replyMode) error {
	for len(c.p) > 0 && call.covered < call.n {
		var n, flags uint64
		if mode == modeExtended {
			n, flags = c.uint64(), c.uint64()
		} else {
			n, flags = uint64(c.uint32()), uint64(c.uint32())
		}
		if n == 0 {
			return fmt.Errorf("block status with an empty extent")
		}
		x := blockdev.Extent{
			Off: call.off + call.covered, Len: int64(min(n, uint64(call.n-call.covered))),
			Hole: flags&uint64(statusHole) != 0, Zero: flags&uint64(statusZero) != 0,
		}
		call.extents = append(call.extents, x)
		call.covered += x.Len
	}
	return nil
}

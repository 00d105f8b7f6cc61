package nbd

import "blkd/blockdev"

// maxExtents is the number of extents in one reply to BLOCK_STATUS: as many as the
// smallest buffer holds. Clients ask again for the rest.
const maxExtents = (1<<minClass - extReplyLen - 8) / 16

// blockStatus answers BLOCK_STATUS from the device's extents.
func (c *conn) blockStatus(r *request) error {
	if err := c.take(1 << minClass); err != nil {
		r.errno = errnoShutdown
		c.answer(r)
		return err
	}
	b := getBuffer(minClass)
	b.charge(&c.memory, 1<<minClass)
	r.out = b
	limit := maxExtents
	if r.wire.flags&cmdFlagReqOne != 0 {
		limit = 1
	}
	e := extentWriter{mode: c.mode, p: b.data[:0], limit: limit}
	e.begin(r.wire.cookie, r.wire.offset)
	r.Err = c.dev.Extents(r.Off, r.Len, e.add)
	if r.Err == nil {
		r.at, r.n = 0, len(e.finish())
	}
	c.answer(r)
	return nil
}

// extentWriter encodes the one chunk of a reply to BLOCK_STATUS. Neighbours of the
// same kind become one.
type extentWriter struct {
	mode  replyMode
	p     []byte
	limit int
	n     int             // extents encoded
	last  blockdev.Extent // not encoded yet
	have  bool

	cookie, offset uint64
}

// begin leaves space for the header, which needs the length.
func (e *extentWriter) begin(cookie, offset uint64) {
	e.cookie, e.offset = cookie, offset
	e.p = e.p[:e.mode.chunkHeaderLen()]
	e.p = be.AppendUint32(e.p, contextAllocationID)
	if e.mode == modeExtended {
		e.p = be.AppendUint32(e.p, 0) // the count, known at the end
	}
}

// add takes the next extent; it returns false when the reply is full.
func (e *extentWriter) add(x blockdev.Extent) bool {
	if e.have && e.last.Hole == x.Hole && e.last.Zero == x.Zero {
		e.last.Len += x.Len
		return true
	}
	if e.have {
		e.put()
	}
	if e.n == e.limit {
		e.have = false
		return false
	}
	e.last, e.have = x, true
	return true
}

func (e *extentWriter) put() {
	flags := uint32(0)
	if e.last.Hole {
		flags |= statusHole
	}
	if e.last.Zero {
		flags |= statusZero
	}
	if e.mode == modeExtended {
		e.p = be.AppendUint64(e.p, uint64(e.last.Len))
		e.p = be.AppendUint64(e.p, uint64(flags))
	} else {
		e.p = be.AppendUint32(e.p, uint32(e.last.Len))
		e.p = be.AppendUint32(e.p, flags)
	}
	e.n++
}

// finish encodes the header and returns the whole chunk.
func (e *extentWriter) finish() []byte {
	if e.have {
		e.put()
	}
	h, typ := e.mode.chunkHeaderLen(), chunkBlockStatus
	if e.mode == modeExtended {
		typ = chunkBlockStatusExt
		be.PutUint32(e.p[h+4:], uint32(e.n))
	}
	putChunk(e.p, e.mode, chunkFlagDone, typ, e.cookie, e.offset, len(e.p)-h)
	return e.p
}

package nbd

import "bytes"

const (
	// sparseRead is the shortest READ, in bytes, whose zeros are sent as holes,
	// and sparseUnit the piece of it that is zeros or not. Looking costs next to
	// nothing where there is data, and less than sending where there is none.
	sparseRead = 128 << 10
	sparseUnit = 32 << 10
)

// isZero tells whether p, of more than 8 bytes, is all zeros.
func isZero(p []byte) bool {
	return be.Uint64(p) == 0 && bytes.Equal(p[8:], p[:len(p)-8])
}

// sparse queues the reply to a long READ as chunks of data and holes. It returns
// false if the reply is to be one chunk of data. The holder of the busy role calls
// it.
func (c *conn) sparse(r *request) bool {
	if len(r.Data) < sparseRead || r.wire.cmd != cmdRead || c.mode == modeSimple || r.wire.flags&cmdFlagDF != 0 {
		return false
	}
	s := sparseReply{c: c, r: r, room: r.out.data[:headroom]}
	kind, start := s.zero(0), 0
	for at := sparseUnit; at < len(r.Data); at += sparseUnit {
		k := s.zero(at)
		if k == kind || !s.hasRoom() {
			continue
		}
		s.chunk(start, at, kind, false)
		kind, start = k, at
	}
	if start == 0 && !kind {
		return false
	}
	if !s.hasRoom() { // kinds are mixed from start on
		kind = false
	}
	s.chunk(start, len(r.Data), kind, true)
	return true
}

// sparseReply writes chunk headers into the headroom of a READ's buffer.
type sparseReply struct {
	c    *conn
	r    *request
	room []byte
}

func (s *sparseReply) zero(at int) bool {
	p := s.r.Data[at:min(at+sparseUnit, len(s.r.Data))]
	return len(p) > 8 && isZero(p)
}

// hasRoom tells whether there is room for two more headers: another one and the
// last.
func (s *sparseReply) hasRoom() bool { return len(s.room) >= 2*(extReplyLen+12) }

// chunk queues data[from:to] as a hole or as data.
func (s *sparseReply) chunk(from, to int, hole, last bool) {
	q, h, w := &s.c.reply, s.c.mode.chunkHeaderLen(), &s.r.wire
	flags, typ, n, payload := uint16(0), chunkOffsetData, h+8, 8+to-from
	if last {
		flags = chunkFlagDone
	}
	if hole {
		typ, n, payload = chunkOffsetHole, h+12, 12
		be.PutUint32(s.room[h+8:], uint32(to-from))
	}
	putChunk(s.room, s.c.mode, flags, typ, w.cookie, w.offset, payload)
	be.PutUint64(s.room[h:], w.offset+uint64(from))
	q.pieces = append(q.pieces, s.room[:n])
	q.bytes += n
	s.room = s.room[n:]
	if !hole {
		q.pieces = append(q.pieces, s.r.Data[from:to])
		q.bytes += to - from
	}
}

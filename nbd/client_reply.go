package nbd

import (
	"errors"
	"fmt"
	"io"

	"blkd/blockdev"
)

// replyReader is the state of the goroutine that reads replies.
type replyReader struct {
	buf        []byte
	start, end int
	readMax    int
	freed      []uint32
}

// smallReply is the longest reply, in bytes, that is completed in the read buffer.
// The data of a longer one is read to where it belongs.
const smallReply = 64 << 10

// readReplies runs until the connection ends, then fails what is in flight.
func (cc *clientConn) readReplies() {
	defer close(cc.gone)
	rd := &cc.reader
	rd.readMax = len(rd.buf)
	var err error
	for err == nil {
		more := true
		for more && err == nil {
			more, err = cc.parseReply()
		}
		cc.giveBack()
		if err != nil {
			break
		}
		if rd.start == rd.end {
			rd.start, rd.end = 0, 0
		} else if len(rd.buf)-rd.start < smallReply {
			rd.end = copy(rd.buf, rd.buf[rd.start:rd.end])
			rd.start = 0
		}
		var n int
		n, err = cc.sock.Read(rd.buf[rd.end:min(len(rd.buf), rd.end+rd.readMax)])
		if rd.end += n; n > 0 {
			err = nil // an error comes again
		} else if err == nil {
			err = io.ErrNoProgress
		}
	}
	cc.failAll(err)
}

// failAll ends every request in flight once nobody sends its data any more.
func (cc *clientConn) failAll(err error) {
	cc.mu.Lock()
	switch {
	case cc.closing:
		err = blockdev.ErrClosed
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("%w: the server closed it", ErrConnectionLost)
	default:
		err = fmt.Errorf("%w: %w", ErrConnectionLost, err)
	}
	cc.fail(err)
	err = cc.err
	for cc.sending {
		cc.wait()
	}
	cc.mu.Unlock()
	for i := range cc.slots {
		if s := &cc.slots[i]; s.cookie.Swap(0) != 0 {
			cc.end(s, err)
		}
	}
}

// giveBack returns the slots of finished requests.
func (cc *clientConn) giveBack() {
	rd := &cc.reader
	if len(rd.freed) == 0 {
		return
	}
	cc.mu.Lock()
	cc.free = append(cc.free, rd.freed...)
	rd.freed = rd.freed[:0]
	if cc.waiters > 0 {
		cc.wakeup.Broadcast()
	}
	cc.mu.Unlock()
}

// find returns the slot of a cookie, or an error if no such request is in flight.
func (cc *clientConn) find(cookie uint64) (*slot, uint32, error) {
	i := uint32(cookie & (1<<cookieSlotBits - 1))
	if cookie == 0 || uint64(i) >= uint64(len(cc.slots)) || cc.slots[i].cookie.Load() != cookie {
		return nil, 0, fmt.Errorf("reply to a request %#x that is not in flight", cookie)
	}
	return &cc.slots[i], i, nil
}

// finish ends the command of a slot.
func (cc *clientConn) finish(s *slot, i uint32, err error) {
	s.cookie.Store(0)
	if err == nil && (s.rest > 0 || s.flush) {
		go cc.resume(i) // the reader must not wait for the socket
		return
	}
	cc.reader.freed = append(cc.reader.freed, i)
	cc.end(s, err)
}

// end answers a request.
func (cc *clientConn) end(s *slot, err error) {
	req, status, bar := s.req, s.status, s.bar
	s.req, s.status, s.bar, s.err = nil, nil, nil, nil
	if status != nil {
		status.done <- err
		return
	}
	req.Finish(err)
	bar.finish()
}

// parseReply takes one reply or chunk off the buffer. It returns false when there is
// no complete one.
func (cc *clientConn) parseReply() (bool, error) {
	rd := &cc.reader
	p := rd.buf[rd.start:rd.end]
	if len(p) < simpleReplyLen {
		return false, nil
	}
	magic := be.Uint32(p)
	switch {
	case magic == magicReply && cc.mode != modeExtended:
		return cc.simpleReply(p)
	case magic == magicStructuredReply && cc.mode == modeStructured, magic == magicExtReply && cc.mode == modeExtended:
		if len(p) < cc.mode.chunkHeaderLen() {
			return false, nil
		}
		return cc.chunk(p)
	}
	return false, fmt.Errorf("bad reply magic %#x", magic)
}

// simpleReply handles a simple reply at the beginning of p.
func (cc *clientConn) simpleReply(p []byte) (bool, error) {
	errno := be.Uint32(p[4:])
	s, i, err := cc.find(be.Uint64(p[8:]))
	if err != nil {
		return false, err
	}
	if cc.mode != modeSimple && (s.cmd == cmdRead || s.cmd == cmdBlockStatus) {
		return false, fmt.Errorf("simple reply to %s", commandNames[s.cmd])
	}
	if s.got != 0 {
		return false, errors.New("chunks and a simple reply to one request")
	}
	if errno == 0 && s.cmd == cmdRead {
		ok, err := cc.data(p, simpleReplyLen, s.req.Data)
		if !ok || err != nil {
			return false, err
		}
	} else {
		cc.consume(simpleReplyLen)
	}
	cc.finish(s, i, errorOf(errno, ""))
	return true, nil
}

// consume drops n bytes that are in the buffer.
func (cc *clientConn) consume(n int) {
	cc.reader.start += n
	cc.reader.readMax = len(cc.reader.buf)
}

// data copies what follows head bytes of p into dst. Short data is completed in the
// buffer first (ok is false until then); the rest of long data is read into dst.
func (cc *clientConn) data(p []byte, head int, dst []byte) (ok bool, err error) {
	total := head + len(dst)
	if len(p) >= total {
		copy(dst, p[head:total])
		cc.consume(total)
		return true, nil
	}
	if total <= smallReply {
		return false, nil
	}
	n := copy(dst, p[head:])
	cc.consume(len(p))
	cc.giveBack()
	cc.reader.readMax = 4096 // likely another long one: do not copy its data either
	_, err = io.ReadFull(cc.sock.Conn, dst[n:])
	return err == nil, noEOF(err)
}

// chunk handles a structured or extended chunk at the beginning of p.
func (cc *clientConn) chunk(p []byte) (bool, error) {
	flags, typ := be.Uint16(p[4:]), be.Uint16(p[6:])
	s, i, err := cc.find(be.Uint64(p[8:]))
	if err != nil {
		return false, err
	}
	length := uint64(0)
	if cc.mode == modeExtended {
		length = be.Uint64(p[24:])
		if offset := be.Uint64(p[16:]); offset != uint64(s.off) {
			return false, fmt.Errorf("chunk says request offset %d, it was %d", offset, s.off)
		}
	} else {
		length = uint64(be.Uint32(p[16:]))
	}
	ok, err := cc.chunkBody(s, typ, p, length)
	if !ok || err != nil {
		return false, err
	}
	if flags&chunkFlagDone == 0 {
		return true, nil
	}
	if s.err == nil && s.cmd == cmdRead && s.got != s.n {
		return false, fmt.Errorf("reply to a read of %d bytes ends with %d", s.n, s.got)
	}
	cc.finish(s, i, s.err)
	return true, nil
}

// chunkBody handles what follows a chunk's header. It returns false when more bytes
// are needed.
func (cc *clientConn) chunkBody(s *slot, typ uint16, p []byte, length uint64) (bool, error) {
	h := cc.mode.chunkHeaderLen()
	switch {
	case typ == chunkNone && length == 0:
		cc.consume(h)
		return true, nil
	case typ == chunkOffsetData && s.cmd == cmdRead && length > 8:
		if len(p) < h+8 {
			return false, nil
		}
		dst, err := s.place(be.Uint64(p[h:]), length-8)
		if err != nil {
			return false, err
		}
		ok, err := cc.data(p, h+8, dst)
		if ok {
			s.got += int64(len(dst))
		}
		return ok, err
	case typ == chunkOffsetHole && s.cmd == cmdRead && length == 12:
		if len(p) < h+12 {
			return false, nil
		}
		dst, err := s.place(be.Uint64(p[h:]), uint64(be.Uint32(p[h+8:])))
		if err != nil {
			return false, err
		}
		clear(dst)
		s.got += int64(len(dst))
		cc.consume(h + 12)
		return true, nil
	case (typ == chunkBlockStatus && cc.mode == modeStructured || typ == chunkBlockStatusExt && cc.mode == modeExtended) && s.status != nil:
		return cc.statusChunk(s, p, length)
	case typ&chunkErrBit != 0:
		return cc.errorChunk(s, typ, p, length)
	}
	return false, fmt.Errorf("chunk of type %d and %d bytes in reply to %s", typ, length, commandNames[s.cmd])
}

// place is where n bytes of data for a device offset go.
func (s *slot) place(offset, n uint64) ([]byte, error) {
	at := offset - uint64(s.off)
	if offset < uint64(s.off) || n == 0 || at > uint64(s.n) || n > uint64(s.n)-at || s.got+int64(n) > s.n {
		return nil, fmt.Errorf("chunk of %d bytes at offset %d in reply to a read of %d at %d, of which %d have come", n, offset, s.n, s.off, s.got)
	}
	return s.req.Data[at : at+n], nil
}

// errorChunk handles a chunk that reports an error.
func (cc *clientConn) errorChunk(s *slot, typ uint16, p []byte, length uint64) (bool, error) {
	h := cc.mode.chunkHeaderLen()
	if length < 6 || length > 6+maxString+8 {
		return false, fmt.Errorf("error chunk of %d bytes", length)
	}
	if len(p) < h+int(length) {
		return false, nil
	}
	body := p[h : h+int(length)]
	errno, n := be.Uint32(body), int(be.Uint16(body[4:]))
	if n > len(body)-6 || errno == 0 && (typ == chunkError || typ == chunkErrorOffset) {
		return false, fmt.Errorf("malformed error chunk: error %d, message of %d bytes in %d", errno, n, len(body))
	}
	if errno == 0 {
		errno = errnoIO
	}
	if s.err == nil {
		s.err = errorOf(errno, printable(append([]byte(nil), body[6:6+n]...)))
	}
	cc.consume(h + int(length))
	return true, nil
}

package nbd

import (
	"encoding/binary"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// be is the byte order of everything in NBD.
var be = binary.BigEndian

// Negotiation: magic numbers and handshake flags.
const (
	magicServer      = protocol.NEGOTIATION_MAGIC_OLDSTYLE // "NBDMAGIC"
	magicOption      = protocol.NEGOTIATION_MAGIC_OPTION   // "IHAVEOPT"
	magicOptionReply = protocol.NEGOTIATION_MAGIC_REPLY

	flagFixedNewstyle = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	flagNoZeroes      = uint16(1 << 1)

	clientFixedNewstyle = uint32(1 << 0)
	clientNoZeroes      = uint32(1 << 1)
)

// Options a client sends during negotiation.
const (
	optExportName      = uint32(1)
	optAbort           = protocol.NEGOTIATION_ID_OPTION_ABORT
	optList            = protocol.NEGOTIATION_ID_OPTION_LIST
	optStartTLS        = uint32(5)
	optInfo            = protocol.NEGOTIATION_ID_OPTION_INFO
	optGo              = protocol.NEGOTIATION_ID_OPTION_GO
	optStructuredReply = uint32(8)
	optListMetaContext = uint32(9)
	optSetMetaContext  = uint32(10)
	optExtendedHeaders = uint32(11)
)

// Replies to options.
const (
	repAck         = protocol.NEGOTIATION_TYPE_REPLY_ACK
	repServer      = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	repInfo        = protocol.NEGOTIATION_TYPE_REPLY_INFO
	repMetaContext = uint32(4)

	repErrBit        = uint32(1 << 31)
	repErrUnsup      = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	repErrPolicy     = repErrBit | 2
	repErrInvalid    = repErrBit | 3
	repErrTLSReqd    = repErrBit | 5
	repErrUnknown    = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	repErrShutdown   = repErrBit | 7
	repErrTooBig     = repErrBit | 9
	repErrExtHdrReqd = repErrBit | 10
)

// Information items of INFO and GO.
const (
	infoExport      = protocol.NEGOTIATION_TYPE_INFO_EXPORT
	infoName        = protocol.NEGOTIATION_TYPE_INFO_NAME
	infoDescription = protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION
	infoBlockSize   = protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE
)

// Transmission flags: what an export can do.
const (
	flagHasFlags          = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	flagReadOnly          = uint16(1 << 1)
	flagSendFlush         = uint16(1 << 2)
	flagSendFUA           = uint16(1 << 3)
	flagSendTrim          = uint16(1 << 5)
	flagSendWriteZeroes   = uint16(1 << 6)
	flagSendDF            = uint16(1 << 7)
	flagCanMultiConn      = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	flagSendCache         = uint16(1 << 10)
	flagSendFastZero      = uint16(1 << 11)
	flagBlockStatusFilter = uint16(1 << 12) // BLOCK_STATUS may carry a payload
)

// Commands and command flags of the transmission phase.
const (
	cmdRead        = protocol.TRANSMISSION_TYPE_REQUEST_READ
	cmdWrite       = protocol.TRANSMISSION_TYPE_REQUEST_WRITE
	cmdDisc        = protocol.TRANSMISSION_TYPE_REQUEST_DISC
	cmdFlush       = uint16(3)
	cmdTrim        = uint16(4)
	cmdCache       = uint16(5)
	cmdWriteZeroes = uint16(6)
	cmdBlockStatus = uint16(7)

	cmdFlagFUA        = uint16(1 << 0)
	cmdFlagNoHole     = uint16(1 << 1)
	cmdFlagDF         = uint16(1 << 2) // do not fragment the reply to READ
	cmdFlagReqOne     = uint16(1 << 3) // one extent in the reply to BLOCK_STATUS
	cmdFlagFastZero   = uint16(1 << 4)
	cmdFlagPayloadLen = uint16(1 << 5) // extended headers: the length is a payload's
)

// Magic numbers and header lengths, in bytes, of the transmission phase.
const (
	magicRequest         = protocol.TRANSMISSION_MAGIC_REQUEST
	magicReply           = protocol.TRANSMISSION_MAGIC_REPLY
	magicStructuredReply = uint32(0x668e33ef)
	magicExtRequest      = uint32(0x21e41c71)
	magicExtReply        = uint32(0x6e8a278c)

	requestLen         = 28
	extRequestLen      = 32
	simpleReplyLen     = 16
	structuredReplyLen = 20
	extReplyLen        = 32
)

// Structured reply chunks.
const (
	chunkFlagDone = uint16(1 << 0)

	chunkNone           = uint16(0)
	chunkOffsetData     = uint16(1)
	chunkOffsetHole     = uint16(2)
	chunkBlockStatus    = uint16(5)
	chunkBlockStatusExt = uint16(6)
	chunkErrBit         = uint16(1 << 15)
	chunkError          = chunkErrBit | 1
	chunkErrorOffset    = chunkErrBit | 2
)

// Error values on the wire.
const (
	errnoPerm     = protocol.TRANSMISSION_ERROR_EPERM
	errnoIO       = uint32(5)
	errnoNoMem    = uint32(12)
	errnoInval    = protocol.TRANSMISSION_ERROR_EINVAL
	errnoNoSpace  = uint32(28)
	errnoOverflow = uint32(75)
	errnoNotSup   = uint32(95)
	errnoShutdown = uint32(108)
)

// The metadata context base:allocation: its id on our connections and the bits of
// its extents.
const (
	contextAllocation   = "base:allocation"
	contextAllocationID = uint32(1)

	statusHole = uint32(1 << 0)
	statusZero = uint32(1 << 1)
)

const (
	// maxString is the longest name or message, in bytes, that NBD allows.
	maxString = 4096
	// preferredBlock is the block size, in bytes, we tell clients to prefer.
	preferredBlock = 4096
	// maxPayload is the longest READ or WRITE, in bytes.
	maxPayload = 32 << 20
	// DefaultPort is NBD's port, registered with IANA.
	DefaultPort = 10809
)

// replyMode says which form replies have; it is negotiated.
type replyMode uint8

const (
	modeSimple     replyMode = iota
	modeStructured           // STRUCTURED_REPLY
	modeExtended             // EXTENDED_HEADERS
)

// requestHeaderLen is the length in bytes of a request header.
func (m replyMode) requestHeaderLen() int {
	if m == modeExtended {
		return extRequestLen
	}
	return requestLen
}

// chunkHeaderLen is the length in bytes of a chunk header, or of a simple reply.
func (m replyMode) chunkHeaderLen() int {
	switch m {
	case modeStructured:
		return structuredReplyLen
	case modeExtended:
		return extReplyLen
	}
	return simpleReplyLen
}

// readHeaderLen is the length in bytes of what precedes the data of a READ reply.
func (m replyMode) readHeaderLen() int {
	if m == modeSimple {
		return simpleReplyLen
	}
	return m.chunkHeaderLen() + 8
}

// ackLen is the length in bytes of a reply that carries nothing.
func (m replyMode) ackLen() int {
	if m == modeExtended {
		return extReplyLen
	}
	return simpleReplyLen
}

// The cookies of our client. The low bits are the place of the request in its table.
// Of a mutation that has a number, the highest bit is set and the number is between
// them: at a million a second they suffice for 70 years.
const (
	cookieSlotBits = 12
	cookieNumbered = 1 << 63
)

func numberedCookie(number uint64, slot uint32) uint64 {
	return cookieNumbered | number<<cookieSlotBits | uint64(slot)
}

// numberOf is the number in a cookie, 0 if there is none.
func numberOf(cookie uint64) uint64 {
	if cookie&cookieNumbered == 0 {
		return 0
	}
	return cookie &^ cookieNumbered >> cookieSlotBits
}

// wireRequest is a request header.
type wireRequest struct {
	flags, cmd       uint16
	cookie           uint64
	offset, length   uint64
	payloadInRequest bool // length bytes of payload follow
}

// getRequest decodes a header of p, which holds at least requestHeaderLen bytes. It
// fails on a wrong magic number only.
func getRequest(p []byte, mode replyMode) (w wireRequest, ok bool) {
	w = wireRequest{flags: be.Uint16(p[4:]), cmd: be.Uint16(p[6:]), cookie: be.Uint64(p[8:]), offset: be.Uint64(p[16:])}
	if mode == modeExtended {
		w.length = be.Uint64(p[24:])
		w.payloadInRequest = w.cmd == cmdWrite || w.flags&cmdFlagPayloadLen != 0
		return w, be.Uint32(p) == magicExtRequest
	}
	w.length = uint64(be.Uint32(p[24:]))
	w.payloadInRequest = w.cmd == cmdWrite
	return w, be.Uint32(p) == magicRequest
}

// putRequest encodes a header into p and returns its length.
func putRequest(p []byte, mode replyMode, w wireRequest) int {
	be.PutUint16(p[4:], w.flags)
	be.PutUint16(p[6:], w.cmd)
	be.PutUint64(p[8:], w.cookie)
	be.PutUint64(p[16:], w.offset)
	if mode == modeExtended {
		be.PutUint32(p, magicExtRequest)
		be.PutUint64(p[24:], w.length)
		return extRequestLen
	}
	be.PutUint32(p, magicRequest)
	be.PutUint32(p[24:], uint32(w.length))
	return requestLen
}

// putSimpleReply encodes a simple reply header.
func putSimpleReply(p []byte, errno uint32, cookie uint64) {
	be.PutUint32(p, magicReply)
	be.PutUint32(p[4:], errno)
	be.PutUint64(p[8:], cookie)
}

// putChunk encodes the header of a structured or extended chunk with length bytes of
// payload. The offset is the request's; only extended headers carry it.
func putChunk(p []byte, mode replyMode, flags, typ uint16, cookie, offset uint64, length int) {
	be.PutUint16(p[4:], flags)
	be.PutUint16(p[6:], typ)
	be.PutUint64(p[8:], cookie)
	if mode == modeExtended {
		be.PutUint32(p, magicExtReply)
		be.PutUint64(p[16:], offset)
		be.PutUint64(p[24:], uint64(length))
		return
	}
	be.PutUint32(p, magicStructuredReply)
	be.PutUint32(p[16:], uint32(length))
}

// putAck encodes a success without payload; p has ackLen bytes.
func putAck(p []byte, mode replyMode, cookie, offset uint64) {
	if mode == modeExtended {
		putChunk(p, mode, chunkFlagDone, chunkNone, cookie, offset, 0)
		return
	}
	putSimpleReply(p, 0, cookie)
}

// putReadHeader encodes what precedes n bytes of data; p has readHeaderLen bytes.
func putReadHeader(p []byte, mode replyMode, cookie, offset uint64, n int) {
	if mode == modeSimple {
		putSimpleReply(p, 0, cookie)
		return
	}
	putChunk(p, mode, chunkFlagDone, chunkOffsetData, cookie, offset, 8+n)
	be.PutUint64(p[mode.chunkHeaderLen():], offset)
}

// appendError appends a whole error reply. The message is cut at maxString bytes.
func appendError(p []byte, mode replyMode, errno uint32, cookie, offset uint64, msg string) []byte {
	if mode == modeSimple {
		p = append(p, make([]byte, simpleReplyLen)...)
		putSimpleReply(p[len(p)-simpleReplyLen:], errno, cookie)
		return p
	}
	msg = msg[:min(len(msg), maxString)]
	h := mode.chunkHeaderLen()
	at := len(p)
	p = append(p, make([]byte, h+6)...)
	putChunk(p[at:], mode, chunkFlagDone, chunkError, cookie, offset, 6+len(msg))
	be.PutUint32(p[at+h:], errno)
	be.PutUint16(p[at+h+4:], uint16(len(msg)))
	return append(p, msg...)
}

// appendOption appends an option of the client.
func appendOption(p []byte, option uint32, data []byte) []byte {
	p = be.AppendUint64(p, magicOption)
	p = be.AppendUint32(p, option)
	p = be.AppendUint32(p, uint32(len(data)))
	return append(p, data...)
}

// appendOptionReply appends a reply of the server to an option.
func appendOptionReply(p []byte, option, typ uint32, data []byte) []byte {
	p = be.AppendUint64(p, magicOptionReply)
	p = be.AppendUint32(p, option)
	p = be.AppendUint32(p, typ)
	p = be.AppendUint32(p, uint32(len(data)))
	return append(p, data...)
}

package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"blkd/blockdev"
	"blkd/internal/crc32c"
)

// The bytes between the members of a volume, all of them here and in
// wire_hello.go; docs/formats/peer.md tells why they look so. Integers are
// little-endian. A frame is a header, fields, and payload:
//
//	header   magic, lengths, kind, checksums of itself and of the fields
//	fields   what the message says, its entries, their origins, the checksum of each block of payload
//	payload  the data of the entries, then that of the message
//
// Every byte is under one of the three checksums.

// WireVersion is the newest version of the protocol that this program speaks,
// WireVersionMin the oldest. Frames of all versions since 1 are decoded; one who speaks
// version 1 only would lose the origins of entries, and with them the knowledge of
// what clients have done. Where a member of an erasure-coded volume speaks version 2 only,
// large writes go through the log like others.
const (
	WireVersion    = 3
	WireVersionMin = 2

	versionChains = 3 // batches form a chain, and decisions may supersede a range
	frameVersion  = 2 // that has changed frames last
)

// MaxFrame is a limit, in bytes, that every message of a Core with default
// [Limits] fits in: one client request of blockdev.MaxTransfer bytes makes one
// message.
const MaxFrame = blockdev.MaxTransfer + 1<<20

// ErrWire tells that what a peer sent is not a frame of this protocol, or was
// damaged on the way. The connection has to be closed: nobody knows where the
// next frame begins.
var ErrWire = errors.New("bad frame from a peer")

const (
	wireMagic = 0x504b4c42 // "BLKP"

	frameHeader  = 24
	messageBytes = 144 // fields of a message before its entries
	entryBytes   = 40  // fields of an entry
	originBytes  = 24  // of an origin; they follow the entries

	flagSync       = 1 << 0
	flagRefused    = 1 << 1
	flagIncomplete = 1 << 2
	flagPayload    = 1 << 3 // of a message or an entry: Len bytes follow as payload
	flagOrigin     = 1 << 4 // of an entry: its origin is told,
	flagMore       = 1 << 5 // and the operation goes on in the next one
	entryFlags     = flagPayload | flagOrigin | flagMore
	messageFlags   = flagSync | flagRefused | flagIncomplete | flagPayload
)

var le = binary.LittleEndian

// frame is the header of a frame.
type frame struct {
	bytes    int // all of it, this header included
	fields   int // bytes of the fields
	fieldsCS uint32
	kind     Kind
	version  uint8
}

func (f *frame) payload() int { return f.bytes - frameHeader - f.fields }

func (f *frame) encode(b []byte) {
	le.PutUint32(b, wireMagic)
	le.PutUint32(b[8:], uint32(f.bytes))
	le.PutUint32(b[12:], uint32(f.fields))
	le.PutUint32(b[16:], f.fieldsCS)
	b[20], b[21], b[22], b[23] = byte(f.kind), f.version, 0, 0
	le.PutUint32(b[4:], crc32c.Checksum(b[8:frameHeader]))
}

// decode believes nothing before the checksum, and no length beyond the limit.
func (f *frame) decode(b []byte, limit int) error {
	if got := le.Uint32(b); got != wireMagic {
		return fmt.Errorf("%w: header: magic is %#08x, not %#08x: the other side speaks another protocol", ErrWire, got, wireMagic)
	}
	if got, want := le.Uint32(b[4:]), crc32c.Checksum(b[8:frameHeader]); got != want {
		return fmt.Errorf("%w: header: CRC-32C is %08x, not %08x", ErrWire, want, got)
	}
	if n := le.Uint32(b[8:]); int64(n) > int64(limit) {
		return fmt.Errorf("%w: header: a frame of %d bytes, the limit is %d", ErrWire, n, limit)
	}
	*f = frame{bytes: int(le.Uint32(b[8:])), fieldsCS: le.Uint32(b[16:]), kind: Kind(b[20]), version: b[21]}
	if n := le.Uint32(b[12:]); int64(n)+frameHeader > int64(f.bytes) {
		return fmt.Errorf("%w: header: %d bytes of fields in a frame of %d bytes", ErrWire, n, f.bytes)
	}
	f.fields = int(le.Uint32(b[12:]))
	if b[22]|b[23] != 0 {
		return fmt.Errorf("%w: header: reserved bytes are %#02x %#02x, not 0", ErrWire, b[22], b[23])
	}
	return nil
}

// checkFields compares the fields with their checksum.
func (f *frame) checkFields(of string, fields []byte) error {
	if got := crc32c.Checksum(fields); got != f.fieldsCS {
		return fmt.Errorf("%w: %s: fields: CRC-32C is %08x, not %08x", ErrWire, of, got, f.fieldsCS)
	}
	return nil
}

// blocksOf is how many checksums n bytes of payload have; the last block may be
// short.
func blocksOf(n int) int { return (n + blockdev.BlockSize - 1) / blockdev.BlockSize }

// sizeMessage returns the length of the parts of a message's frame.
func sizeMessage(m *Message) frame {
	blocks, payload := blocksOf(len(m.Data)), len(m.Data)
	fields := messageBytes + entryBytes*len(m.Entries)
	for i := range m.Entries {
		n := len(m.Entries[i].Data)
		blocks += blocksOf(n)
		payload += n
		if m.Entries[i].Origin.Client != 0 {
			fields += originBytes
		}
	}
	fields += 4 * blocks
	return frame{bytes: frameHeader + fields + payload, fields: fields, kind: m.Kind, version: frameVersion}
}

// MessageBytes is how long the frame of m is.
func MessageBytes(m *Message) int {
	f := sizeMessage(m)
	return f.bytes
}

// AppendMessage appends the frame of m to dst, with a copy of its data, and
// returns the longer slice. It allocates only if dst is too small. Data must be
// nil or Len bytes long, Off and Len must not be negative, and the frame must fit
// in 4 GiB: anything else panics, for it is a mistake of the caller.
func AppendMessage(dst []byte, m *Message) []byte {
	f := sizeMessage(m)
	dst = slices.Grow(dst, f.bytes)
	at := len(dst)
	dst = dst[:at+frameHeader+f.fields]
	f.encodeMessage(dst[at:], m)
	for i := range m.Entries {
		dst = append(dst, m.Entries[i].Data...)
	}
	return append(dst, m.Data...)
}

// encodeMessage fills b, which is as long as header and fields.
func (f *frame) encodeMessage(b []byte, m *Message) {
	if int64(f.bytes) > math.MaxUint32 {
		panic(fmt.Sprintf("replication: a %s message of %d bytes does not fit in a frame", m.Kind, f.bytes))
	}
	fields := b[frameHeader:]
	putMessage(fields, m)
	rest := fields[messageBytes+entryBytes*len(m.Entries):]
	for i := range m.Entries {
		putEntry(fields[messageBytes+entryBytes*i:], &m.Entries[i])
		rest = putOrigin(rest, &m.Entries[i].Origin)
	}
	for i := range m.Entries {
		rest = putSums(rest, m.Entries[i].Data)
	}
	putSums(rest, m.Data)
	f.fieldsCS = crc32c.Checksum(fields)
	f.encode(b)
}

func putMessage(b []byte, m *Message) {
	flags := payloadFlag(m.Off, m.Len, m.Data)
	for bit, set := range [...]bool{m.Sync, m.Refused, m.Incomplete} {
		if set {
			flags |= 1 << bit
		}
	}
	for i, v := range [...]uint64{
		m.Lineage, uint64(m.Gen), uint64(m.From), uint64(m.To), uint64(m.PrevGen), uint64(m.PrevSeq),
		uint64(m.Commit), uint64(m.Keep), m.Lease, uint64(m.Held), uint64(m.Durable), uint64(m.LastGen),
		uint64(m.LastSeq), uint64(m.Promised), m.Copy, uint64(m.Off), uint64(m.Len),
	} {
		le.PutUint64(b[8*i:], v)
	}
	le.PutUint32(b[136:], flags)
	le.PutUint32(b[140:], uint32(len(m.Entries)))
}

func putEntry(b []byte, e *blockdev.Entry) {
	flags := payloadFlag(e.Off, e.Len, e.Data)
	if e.Origin.Client != 0 {
		flags |= flagOrigin
		if e.Origin.More {
			flags |= flagMore
		}
	}
	le.PutUint64(b, uint64(e.Gen))
	le.PutUint64(b[8:], uint64(e.Seq))
	le.PutUint64(b[16:], uint64(e.Off))
	le.PutUint64(b[24:], uint64(e.Len))
	le.PutUint32(b[32:], flags)
	le.PutUint32(b[36:], uint32(e.Kind))
}

// putOrigin puts an origin, if there is one, and returns what is behind it.
func putOrigin(b []byte, o *blockdev.Origin) []byte {
	if o.Client == 0 {
		return b
	}
	le.PutUint64(b, o.Client)
	le.PutUint64(b[8:], o.Session)
	le.PutUint64(b[16:], o.Op)
	return b[originBytes:]
}

// payloadFlag is flagPayload if there are data.
func payloadFlag(off, n int64, data []byte) uint32 {
	if off < 0 || n < 0 || len(data) > 0 && int64(len(data)) != n {
		panic(fmt.Sprintf("replication: %d bytes of data for %d bytes at %d", len(data), n, off))
	}
	if len(data) == 0 {
		return 0
	}
	return flagPayload
}

// putSums writes the checksums of the blocks of data, and returns what is left.
func putSums(b []byte, data []byte) []byte {
	for len(data) > 0 {
		n := min(len(data), blockdev.BlockSize)
		le.PutUint32(b, crc32c.Checksum(data[:n]))
		b, data = b[4:], data[n:]
	}
	return b
}

// Decoder reads the frames of messages from a buffer that the caller owns. It
// uses its storage again, so that it does not allocate once it has seen a message
// of each size.
type Decoder struct {
	limit   int
	msg     Message
	entries []blockdev.Entry
	sums    []uint32
	want    int
}

// NewDecoder makes a decoder that refuses frames of more than limit bytes; see
// [MaxFrame].
func NewDecoder(limit int) *Decoder { return &Decoder{limit: limit, want: frameHeader} }

// Next decodes the frame at the start of buf and returns its message and its
// length n. It returns n = 0 if buf does not hold the whole frame yet; Want tells
// how long it must become. An error matches ErrWire, says what is wrong with which
// field, and is final.
//
// The message and its entries are valid until the next call, and their Data, which
// is not copied, until the caller changes buf. Every checksum was verified.
func (d *Decoder) Next(buf []byte) (m *Message, n int, err error) {
	var f frame
	if d.want = frameHeader; len(buf) < frameHeader {
		return nil, 0, nil
	}
	if err := f.decode(buf, d.limit); err != nil {
		return nil, 0, err
	}
	if err := f.checkMessage(); err != nil {
		return nil, 0, err
	}
	if d.want = f.bytes; len(buf) < f.bytes {
		return nil, 0, nil
	}
	fields := buf[frameHeader : frameHeader+f.fields]
	if err := f.checkFields(f.kind.String(), fields); err != nil {
		return nil, 0, err
	}
	if err := d.decodeMessage(&f, fields, buf[frameHeader+f.fields:f.bytes]); err != nil {
		return nil, 0, fmt.Errorf("%w: %s: %w", ErrWire, f.kind, err)
	}
	return &d.msg, f.bytes, nil
}

// Want is how long the buffer must be at least for the last call of Next to have
// returned a message; it is within the limit.
func (d *Decoder) Want() int { return d.want }

// Sums are the CRC-32C of the blocks of the message that Next returned last: of
// the Data of its entries, in order, each in blocks of blockdev.BlockSize from its
// start, then of its own Data. They are verified, so that a store can keep them
// instead of computing them again. Valid until the next call of Next.
func (d *Decoder) Sums() []uint32 { return d.sums }

// checkMessage tells whether this is the header of a message.
func (f *frame) checkMessage() error {
	if f.kind == 0 || f.kind >= numKinds {
		return fmt.Errorf("%w: header: kind %d is not one of a message", ErrWire, uint8(f.kind))
	}
	if f.version < 1 || f.version > frameVersion {
		return fmt.Errorf("%w: header: %s of version %d, agreed was %d", ErrWire, f.kind, f.version, frameVersion)
	}
	if f.fields < messageBytes {
		return fmt.Errorf("%w: header: %s with %d bytes of fields, fewer than %d", ErrWire, f.kind, f.fields, messageBytes)
	}
	return nil
}

// decodeMessage fills d.msg. What it returns names the field.
func (d *Decoder) decodeMessage(f *frame, fields, payload []byte) error {
	count := int64(le.Uint32(fields[140:]))
	if room := int64(f.fields-messageBytes) / entryBytes; count > room {
		return fmt.Errorf("entries: %d of them, and room for %d", count, room)
	}
	d.entries = slices.Grow(d.entries[:0], int(count))[:count]
	sums, err := d.getOrigins(f, fields)
	if err != nil {
		return err
	}
	if len(sums)%4 != 0 {
		return fmt.Errorf("checksums: %d bytes of them, not a multiple of 4", len(sums))
	}
	d.sums = d.sums[:0]
	for i := range d.entries {
		data, err := getEntry(&d.entries[i], fields[messageBytes+entryBytes*i:], payload)
		if err == nil {
			sums, err = d.checkPayload(data, sums)
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
		payload = payload[len(data):]
	}
	data, err := d.getMessage(f.kind, fields, payload)
	if err != nil {
		return err
	}
	if sums, err = d.checkPayload(data, sums); err != nil {
		return err
	}
	if rest := len(payload) - len(data); rest != 0 || len(sums) != 0 {
		return fmt.Errorf("payload: %d bytes and %d checksums are left over", rest, len(sums)/4)
	}
	return nil
}

// getOrigins fills the origins of d.entries and returns what is behind them.
func (d *Decoder) getOrigins(f *frame, fields []byte) ([]byte, error) {
	rest := fields[messageBytes+entryBytes*len(d.entries):]
	for i := range d.entries {
		o := &d.entries[i].Origin
		*o = blockdev.Origin{}
		flags := le.Uint32(fields[messageBytes+entryBytes*i+32:])
		switch {
		case flags&(flagOrigin|flagMore) == 0:
			continue
		case flags&flagOrigin == 0 || f.version == 1:
			return nil, fmt.Errorf("entry %d: flags: %#x are not known", i, flags)
		case len(rest) < originBytes:
			return nil, fmt.Errorf("entry %d: origin: %d bytes are left", i, len(rest))
		}
		*o = blockdev.Origin{Client: le.Uint64(rest), Session: le.Uint64(rest[8:]), Op: le.Uint64(rest[16:]), More: flags&flagMore != 0}
		if o.Client == 0 || o.Op == 0 {
			return nil, fmt.Errorf("entry %d: origin: client %d, operation %d", i, o.Client, o.Op)
		}
		rest = rest[originBytes:]
	}
	return rest, nil
}

// getMessage fills d.msg and returns its data.
func (d *Decoder) getMessage(kind Kind, b, payload []byte) ([]byte, error) {
	u64 := func(i int) uint64 { return le.Uint64(b[8*i:]) }
	flags := le.Uint32(b[136:])
	d.msg = Message{
		Kind: kind, Lineage: u64(0), Gen: Generation(u64(1)), From: Incarnation(u64(2)), To: Incarnation(u64(3)),
		PrevGen: Generation(u64(4)), PrevSeq: Seq(u64(5)), Commit: Seq(u64(6)), Keep: Seq(u64(7)), Lease: u64(8),
		Held: Seq(u64(9)), Durable: Seq(u64(10)), LastGen: Generation(u64(11)), LastSeq: Seq(u64(12)),
		Promised: Generation(u64(13)), Copy: u64(14), Off: int64(u64(15)), Len: int64(u64(16)),
		Sync: flags&flagSync != 0, Refused: flags&flagRefused != 0, Incomplete: flags&flagIncomplete != 0,
	}
	if len(d.entries) > 0 {
		d.msg.Entries = d.entries
	}
	var err error
	d.msg.Data, err = getData(d.msg.Off, d.msg.Len, flags, messageFlags, payload)
	return d.msg.Data, err
}

// getEntry fills e, but for its origin, and returns its data.
func getEntry(e *blockdev.Entry, b, payload []byte) ([]byte, error) {
	kind, flags := le.Uint32(b[36:]), le.Uint32(b[32:])
	if kind > math.MaxUint8 {
		return nil, fmt.Errorf("kind: %d", kind)
	}
	*e = blockdev.Entry{
		Origin: e.Origin,
		Gen:    Generation(le.Uint64(b)), Seq: Seq(le.Uint64(b[8:])), Kind: blockdev.EntryKind(kind),
		Off: int64(le.Uint64(b[16:])), Len: int64(le.Uint64(b[24:])),
	}
	var err error
	e.Data, err = getData(e.Off, e.Len, flags, entryFlags, payload)
	return e.Data, err
}

// getData returns the payload of a range if the flags say that it has one.
func getData(off, n int64, flags, known uint32, payload []byte) ([]byte, error) {
	switch {
	case flags&^known != 0:
		return nil, fmt.Errorf("flags: %#x are not known", flags&^known)
	case off < 0:
		return nil, fmt.Errorf("off: %d", off)
	case n < 0:
		return nil, fmt.Errorf("len: %d", n)
	case flags&flagPayload == 0:
		return nil, nil
	case n == 0:
		return nil, errors.New("len: 0, of a payload")
	case n > int64(len(payload)):
		return nil, fmt.Errorf("len: %d, and %d bytes of payload are left", n, len(payload))
	}
	return payload[:n:n], nil
}

// checkPayload compares data with the first of sums, keeps those, and returns the
// others.
func (d *Decoder) checkPayload(data, sums []byte) ([]byte, error) {
	if want := 4 * blocksOf(len(data)); want > len(sums) {
		return nil, fmt.Errorf("checksums: %d of them for %d blocks", len(sums)/4, want/4)
	}
	for block := 0; len(data) > 0; block++ {
		n := min(len(data), blockdev.BlockSize)
		got, want := crc32c.Checksum(data[:n]), le.Uint32(sums)
		if got != want {
			return nil, fmt.Errorf("data: block %d: CRC-32C is %08x, not %08x", block, got, want)
		}
		d.sums = append(d.sums, want)
		data, sums = data[n:], sums[4:]
	}
	return sums, nil
}

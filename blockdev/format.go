package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"

	"blkd/internal/crc32c"
)

// The byte formats of a store, all of them here; docs/formats/store.md tells why
// they look so. Integers are little-endian; every structure has a magic and a
// CRC-32C and is checked before it is believed.

const (
	chunkBlocks = 16 // blocks in a chunk
	chunkBytes  = chunkBlocks * BlockSize

	// Version 2 added marks, the states of a replica that is copied, the kept part
	// of the log, and when chunks have changed. Version 3 added origins of entries, and
	// the table of sessions. A store of an older version becomes one of 3 when it is opened.
	formatVersion = 3

	superBytes = 4096 // one of the two slots of the superblock
	pageBytes  = 4096 // one of the two slots of a metadata page
	pageHeader = 64
	pageBody   = pageBytes - pageHeader

	recHeader    = 80  // log record header without the CRC table
	recMaxBlocks = 256 // blocks with a CRC in one record: 1 MiB
	// refMaxChunks bounds a zeroed reference, which has no CRC table.
	refMaxChunks = 4095

	originBytes = 24 // of a record that tells its origin, behind the CRC table
)

func checksum(p []byte) uint32 { return crc32c.Checksum(p) }

var le = binary.LittleEndian

// superblock is the root of a store: what is where, and from where the log is
// replayed. It is written in turn to two slots; the valid one with the higher
// serial counts.
type superblock struct {
	serial   uint64
	uuid     [16]byte
	size     int64 // volume, bytes
	logBytes int64 // log ring, bytes
	clean    bool  // closed in order: nothing to replay
	// incomplete: Reset has begun a copy that Complete has not ended.
	incomplete bool
	// wipe: image, map and alloc are void; emptying them comes before all else.
	wipe bool

	// Records of this incarnation lie at incStart and after, records of older
	// ones before it. That makes a cut tail stay cut (see log.go).
	incarnation uint32
	incStart    uint64

	ckpt       uint64 // number of the checkpoint that the metadata pages are read at
	replayFrom uint64 // log position; everything before is in the image
	lastGen    Generation
	lastSeq    Seq    // last entry before replayFrom
	commit     Seq    // highest entry known committed
	durable    uint64 // log position up to which log and payloads were synced
	copied     Seq    // a copy may have brought effects of entries up to here
	// base: incomplete, but what no entry behind this has changed is as it should
	// be; 0: nothing is.
	base    Seq
	baseGen Generation
	// floor: what changed before is not known.
	floor Seq

	// The number of the table of sessions that counts, 0 if it is empty, and its
	// checksum. It holds what the log had up to lastSeq, maybe more, and nothing that
	// is not committed.
	sessions, sessionsSum uint32

	// From keep[0] on members may lack entries. The others lie between there and
	// replayFrom, in case the log has been written over the first ones since.
	keep [4]logPoint
	// gens are the last generations that began before replayFrom, oldest first;
	// first 0: none.
	gens [keptGens]genStart
}

const keptGens = 16

// genStart tells that a generation begins with the entry first.
type genStart struct {
	gen   Generation
	first Seq
}

// unknownFloor is the floor of a store of version 1.
const unknownFloor = ^Seq(0)

// logPoint is a point between two entries of the log: where the next one lies,
// and which one came before.
type logPoint struct {
	pos uint64
	gen Generation
	seq Seq
}

var superMagic = [8]byte{'b', 'l', 'k', 'd', 's', 'u', 'p', 1}

var errFormat = errors.New("not a valid structure")

func (s *superblock) encode(b []byte) {
	clear(b[:superBytes])
	copy(b, superMagic[:])
	le.PutUint32(b[12:], formatVersion)
	le.PutUint64(b[16:], s.serial)
	copy(b[24:40], s.uuid[:])
	le.PutUint64(b[40:], uint64(s.size))
	le.PutUint64(b[48:], uint64(s.logBytes))
	le.PutUint32(b[56:], s.incarnation)
	b[60], b[61], b[62] = flagByte(s.clean), flagByte(s.incomplete), flagByte(s.wipe)
	le.PutUint64(b[64:], s.incStart)
	le.PutUint64(b[72:], s.ckpt)
	le.PutUint64(b[80:], s.replayFrom)
	le.PutUint64(b[88:], uint64(s.lastGen))
	le.PutUint64(b[96:], uint64(s.lastSeq))
	le.PutUint64(b[104:], uint64(s.commit))
	le.PutUint64(b[112:], s.durable)
	le.PutUint64(b[120:], uint64(s.copied))
	le.PutUint64(b[224:], uint64(s.base))
	le.PutUint64(b[232:], uint64(s.floor))
	for i, k := range s.keep {
		at := b[128+24*i:]
		le.PutUint64(at, k.pos)
		le.PutUint64(at[8:], uint64(k.gen))
		le.PutUint64(at[16:], uint64(k.seq))
	}
	le.PutUint64(b[496:], uint64(s.baseGen))
	le.PutUint32(b[504:], s.sessions)
	le.PutUint32(b[508:], s.sessionsSum)
	for i, g := range s.gens {
		at := b[240+16*i:]
		le.PutUint64(at, uint64(g.gen))
		le.PutUint64(at[8:], uint64(g.first))
	}
	le.PutUint32(b[8:], checksum(b[12:superBytes]))
}

func (s *superblock) decode(b []byte) error {
	if len(b) < superBytes || [8]byte(b[:8]) != superMagic {
		return fmt.Errorf("superblock: %w", errFormat)
	}
	if le.Uint32(b[8:]) != checksum(b[12:superBytes]) {
		return fmt.Errorf("superblock: checksum: %w", errFormat)
	}
	v := le.Uint32(b[12:])
	if v < 1 || v > formatVersion {
		return fmt.Errorf("superblock: format version %d, this program reads 1 to %d: %w", v, formatVersion, errFormat)
	}
	*s = superblock{
		serial: le.Uint64(b[16:]), uuid: [16]byte(b[24:40]),
		size: int64(le.Uint64(b[40:])), logBytes: int64(le.Uint64(b[48:])),
		incarnation: le.Uint32(b[56:]), incStart: le.Uint64(b[64:]),
		clean: b[60] == 1, incomplete: b[61] == 1, wipe: b[62] == 1,
		ckpt: le.Uint64(b[72:]), replayFrom: le.Uint64(b[80:]),
		lastGen: Generation(le.Uint64(b[88:])), lastSeq: Seq(le.Uint64(b[96:])), commit: Seq(le.Uint64(b[104:])),
		durable: le.Uint64(b[112:]), copied: Seq(le.Uint64(b[120:])),
		base: Seq(le.Uint64(b[224:])), baseGen: Generation(le.Uint64(b[496:])), floor: Seq(le.Uint64(b[232:])),
		sessions: le.Uint32(b[504:]), sessionsSum: le.Uint32(b[508:]),
	}
	for i := range s.gens {
		at := b[240+16*i:]
		s.gens[i] = genStart{Generation(le.Uint64(at)), Seq(le.Uint64(at[8:]))}
	}
	if v == 1 {
		s.floor = unknownFloor
	}
	for i := range s.keep {
		at := b[128+24*i:]
		s.keep[i] = logPoint{le.Uint64(at), Generation(le.Uint64(at[8:])), Seq(le.Uint64(at[16:]))}
	}
	if s.size <= 0 || s.size%512 != 0 || s.size > MaxVolume || s.logBytes < MinLog || s.logBytes > MaxLog || s.logBytes%BlockSize != 0 {
		return fmt.Errorf("superblock: size %d, log %d: %w", s.size, s.logBytes, errFormat)
	}
	return nil
}

func flagByte(set bool) byte {
	if set {
		return 1
	}
	return 0
}

// recKind is what a log record does.
type recKind uint8

const (
	recData recKind = 1 // payload follows
	recRef  recKind = 2 // payload was written to fresh chunks of the image before
	recZero recKind = 3 // the range reads as zeros
	recSkip recKind = 4 // the rest of the ring is unused, go on at its start
	recMark recKind = 5 // an entry that changes no data; off is the volume's size, or 0
)

const (
	flagZeroed = 1 // of a reference: the chunks are allocated and read as zeros
	flagOrigin = 2 // the record tells its origin,
	flagMore   = 4 // and the operation goes on in the next one
)

// record is the header of a log record. Then follow the CRC-32C of each block
// (data, and references that are not zeroed), the origin if there is one, and, for
// data, the blocks.
type record struct {
	kind        recKind
	flags       uint8
	blocks      int    // 4 KiB blocks of payload; chunkBlocks times the chunks of a reference
	pos         uint64 // where the record itself lies: tells it from an older lap of the ring
	gen         Generation
	seq         Seq
	off, len    int64 // range in the volume, bytes, multiples of BlockSize
	commit      Seq
	durable     uint64 // see superblock.durable, as known when this was appended
	incarnation uint32
	phys        uint32 // first chunk of a reference
	origin      Origin
}

const recMagic = 0x474f4c42 // "BLOG"

// crcs is how many block checksums follow the header.
func (r *record) crcs() int {
	if r.kind == recData || r.kind == recRef && r.flags&flagZeroed == 0 {
		return r.blocks
	}
	return 0
}

// headerBytes is the length of header, CRC table and origin.
func (r *record) headerBytes() int {
	n := recHeader + 4*r.crcs()
	if r.flags&flagOrigin != 0 {
		n += originBytes
	}
	return n
}

// setOrigin says whose operation the record is of.
func (r *record) setOrigin(o Origin) {
	if o.Client == 0 {
		return
	}
	r.origin = o
	r.flags |= flagOrigin
	if o.More {
		r.flags |= flagMore
	}
}

// bytes is the record's length in the log. The filler of a skip is not counted.
func (r *record) bytes() int64 {
	n := int64(r.headerBytes())
	if r.kind == recData {
		n += int64(r.blocks) * BlockSize
	}
	return n
}

// encode writes the header to b, behind which the caller has already put the
// CRC table, and seals both.
func (r *record) encode(b []byte) {
	le.PutUint32(b[0:], recMagic)
	le.PutUint64(b[8:], r.pos)
	le.PutUint64(b[16:], uint64(r.gen))
	le.PutUint64(b[24:], uint64(r.seq))
	le.PutUint64(b[32:], uint64(r.off))
	le.PutUint64(b[40:], uint64(r.len))
	le.PutUint64(b[48:], uint64(r.commit))
	le.PutUint64(b[56:], r.durable)
	le.PutUint32(b[64:], r.incarnation)
	le.PutUint32(b[68:], r.phys)
	b[72], b[73] = byte(r.kind), r.flags
	le.PutUint16(b[74:], uint16(r.blocks))
	le.PutUint32(b[76:], 0)
	if r.flags&flagOrigin != 0 {
		at := b[r.headerBytes()-originBytes:]
		le.PutUint64(at, r.origin.Client)
		le.PutUint64(at[8:], r.origin.Session)
		le.PutUint64(at[16:], r.origin.Op)
	}
	le.PutUint32(b[4:], checksum(b[8:r.headerBytes()]))
}

// decode reads and checks the fixed part. The caller then brings headerBytes and
// calls checkTable.
func (r *record) decode(b []byte) error {
	if len(b) < recHeader || le.Uint32(b) != recMagic {
		return fmt.Errorf("log record: %w", errFormat)
	}
	*r = record{
		pos: le.Uint64(b[8:]), gen: Generation(le.Uint64(b[16:])), seq: Seq(le.Uint64(b[24:])),
		off: int64(le.Uint64(b[32:])), len: int64(le.Uint64(b[40:])),
		commit: Seq(le.Uint64(b[48:])), durable: le.Uint64(b[56:]),
		incarnation: le.Uint32(b[64:]), phys: le.Uint32(b[68:]),
		kind: recKind(b[72]), flags: b[73], blocks: int(le.Uint16(b[74:])),
	}
	ok := r.off >= 0 && r.len >= 0 && r.off <= MaxVolume && r.len <= MaxVolume && r.off%512 == 0 && (r.kind == recMark || r.off%BlockSize == 0) && r.len%BlockSize == 0
	ok = ok && r.flags&^(flagZeroed|flagOrigin|flagMore) == 0 && r.flags&(flagOrigin|flagMore) != flagMore && le.Uint32(b[76:]) == 0
	switch r.kind {
	case recData:
		ok = ok && r.blocks >= 1 && r.blocks <= recMaxBlocks && r.len == int64(r.blocks)*BlockSize
	case recRef:
		ok = ok && r.blocks >= chunkBlocks && r.blocks%chunkBlocks == 0 && r.off%chunkBytes == 0 && r.len == int64(r.blocks)*BlockSize &&
			(r.flags&flagZeroed != 0 || r.blocks <= recMaxBlocks)
	case recZero:
		ok = ok && r.blocks == 0
	case recSkip, recMark:
		ok = ok && r.blocks == 0 && r.len == 0
	default:
		ok = false
	}
	if !ok {
		return fmt.Errorf("log record: fields: %w", errFormat)
	}
	return nil
}

// checkTable verifies all that headerBytes counts against the header's checksum, and
// decodes the origin.
func (r *record) checkTable(b []byte) error {
	if len(b) < r.headerBytes() || le.Uint32(b[4:]) != checksum(b[8:r.headerBytes()]) {
		return fmt.Errorf("log record: checksum: %w", errFormat)
	}
	if r.flags&flagOrigin != 0 {
		at := b[r.headerBytes()-originBytes:]
		r.origin = Origin{Client: le.Uint64(at), Session: le.Uint64(at[8:]), Op: le.Uint64(at[16:]), More: r.flags&flagMore != 0}
	}
	return nil
}

// page is a metadata page: header and body. A page on disk has two slots,
// written in turn, so that a torn write leaves the older one. The header has a
// checksum of its own and lies in one sector, which is never torn: a slot whose
// body fails still tells which checkpoint wrote it, and so whether it counts.
//
//	0  magic                  8  index
//	4  CRC-32C of 8 to end   16  checkpoint that wrote it
//	                         24  applied: log position of the last reference or zero in it
//	                         32  CRC-32C of 8 to 32
//	                         40  last: no entry behind this has changed what it describes
type page [pageBytes]byte

// pageKind is the magic of a page.
type pageKind uint32

const (
	mapPages   pageKind = 0x50414d42 // "BMAP": chunk entries
	allocPages pageKind = 0x4c4c4142 // "BALL": one bit per chunk of the image
)

func (p *page) index() uint64        { return le.Uint64(p[8:]) }
func (p *page) ckpt() uint64         { return le.Uint64(p[16:]) }
func (p *page) applied() uint64      { return le.Uint64(p[24:]) }
func (p *page) setApplied(at uint64) { le.PutUint64(p[24:], at) }
func (p *page) last() Seq            { return Seq(le.Uint64(p[40:])) }

// A chunk entry tells in 16 bits when the chunk was last changed: 0 is never, else
// one more than the seq in units of 4096, modulo stampUnits. The page's last, which
// is not lower, makes it whole. If more than 2^28 entries lie between, the chunk
// seems to have changed later than it has.
const (
	stampShift = 12
	stampUnits = 1<<16 - 1
)

// touch records that an entry not behind seq has changed a chunk.
func (p *page) touch(e entry, seq Seq) {
	le.PutUint16(e[6:], uint16(seq>>stampShift%stampUnits)+1)
	if seq > p.last() {
		le.PutUint64(p[40:], uint64(seq))
	}
}

// changed is a seq behind which no entry has changed the chunk.
func (p *page) changed(e entry) Seq {
	stamp := Seq(le.Uint16(e[6:]))
	if stamp == 0 {
		return 0
	}
	unit := p.last() >> stampShift
	ago := (unit%stampUnits + stampUnits - (stamp - 1)) % stampUnits
	if ago > unit {
		ago = unit // damage that a checksum has not seen
	}
	return min(p.last(), (unit-ago)<<stampShift|(1<<stampShift-1))
}

// seal fills in the header before the page is written.
func (p *page) seal(kind pageKind, index, ckpt uint64) {
	le.PutUint32(p[0:], uint32(kind))
	le.PutUint64(p[8:], index)
	le.PutUint64(p[16:], ckpt)
	le.PutUint32(p[32:], checksum(p[8:32]))
	le.PutUint32(p[4:], checksum(p[8:]))
}

// headValid tells whether the header is whole.
func (p *page) headValid(kind pageKind, index uint64) bool {
	return le.Uint32(p[0:]) == uint32(kind) && le.Uint32(p[32:]) == checksum(p[8:32]) && p.index() == index
}

// valid tells whether all of the page is whole.
func (p *page) valid(kind pageKind, index uint64) bool {
	return p.headValid(kind, index) && le.Uint32(p[4:]) == checksum(p[8:])
}

// unwritten tells whether the header's sector was never written: a torn first
// write may have left something behind it.
func (p *page) unwritten() bool { return [512]byte(p[:512]) == [512]byte{} }

// Chunk entries: where each 64 KiB of the volume lies in the image, which of its
// blocks hold data, and their checksums.
const (
	entryBytes   = 8 + 4*chunkBlocks
	pageChunks   = pageBody / entryBytes // 56: one map page describes 3.5 MiB
	pageBlocks   = pageChunks * chunkBlocks
	allocPerPage = pageBody * 8 // chunks in one allocation page
)

// entry is the view of one chunk's entry in a page.
type entry []byte

func (p *page) entry(i int) entry {
	at := pageHeader + i*entryBytes
	return p[at : at+entryBytes : at+entryBytes]
}

// phys is the chunk's place in the image plus one; 0: none.
func (e entry) phys() uint32        { return le.Uint32(e) }
func (e entry) setPhys(c uint32)    { le.PutUint32(e, c) }
func (e entry) present() uint16     { return le.Uint16(e[4:]) } // bit i: block i holds data
func (e entry) setPresent(m uint16) { le.PutUint16(e[4:], m) }
func (e entry) has(b int) bool      { return e.present()&(1<<b) != 0 }
func (e entry) crc(b int) uint32    { return le.Uint32(e[8+4*b:]) }
func (e entry) setCRC(b int, v uint32) {
	le.PutUint32(e[8+4*b:], v)
}

// A table of sessions: a header of 8 bytes, then for each client, in order, a header
// of 40, the ranges of operations that are done, and those that are begun, 16 each.

const (
	sessionsMagic  = 0x53455342 // "BSES"
	sessionsHeader = 8
	sessionHeader  = 40
)

// Append appends the table to b, encoded.
func (t *Sessions) Append(b []byte) []byte {
	b = le.AppendUint32(b, sessionsMagic)
	b = le.AppendUint32(b, uint32(len(t.list)))
	for i := range t.list {
		s := &t.list[i]
		for _, v := range [...]uint64{s.client, s.number, s.top, uint64(s.last)} {
			b = le.AppendUint64(b, v)
		}
		b = le.AppendUint32(b, uint32(len(s.done)))
		b = le.AppendUint32(b, uint32(len(s.begun)))
		for _, r := range s.done {
			b = le.AppendUint64(le.AppendUint64(b, r.first), r.last)
		}
		for _, x := range s.begun {
			b = le.AppendUint64(le.AppendUint64(b, x.op), uint64(x.end))
		}
	}
	return b
}

// DecodeSessions is the inverse of Append. Nothing at all is an empty table.
func DecodeSessions(b []byte) (*Sessions, error) {
	t := &Sessions{}
	if len(b) == 0 {
		return t, nil
	}
	if len(b) < sessionsHeader || le.Uint32(b) != sessionsMagic {
		return nil, fmt.Errorf("sessions: %w", errFormat)
	}
	n := le.Uint32(b[4:])
	b = b[sessionsHeader:]
	if n > maxClients || int(n) > len(b)/sessionHeader {
		return nil, fmt.Errorf("sessions: %d of them in %d bytes: %w", n, len(b), errFormat)
	}
	for range n {
		var s session
		var err error
		if b, err = s.decode(b); err != nil {
			return nil, err
		}
		if k := len(t.list); s.client == 0 || k > 0 && t.list[k-1].client >= s.client {
			return nil, fmt.Errorf("sessions: client %d: %w", s.client, errFormat)
		}
		t.list = append(t.list, s)
	}
	if len(b) > 0 {
		return nil, fmt.Errorf("sessions: %d bytes are left over: %w", len(b), errFormat)
	}
	return t, nil
}

// decode takes one off b.
func (s *session) decode(b []byte) ([]byte, error) {
	if len(b) < sessionHeader {
		return nil, fmt.Errorf("session: header: %w", errFormat)
	}
	*s = session{client: le.Uint64(b), number: le.Uint64(b[8:]), top: le.Uint64(b[16:]), last: Seq(le.Uint64(b[24:]))}
	done, begun := int64(le.Uint32(b[32:])), int64(le.Uint32(b[36:]))
	if b = b[sessionHeader:]; done+begun > int64(len(b)/16) || done+begun > 2*OpWindow {
		return nil, fmt.Errorf("session: %d ranges, %d begun: %w", done, begun, errFormat)
	}
	next := uint64(0) // a range begins behind this
	for range done {
		r := opRange{le.Uint64(b), le.Uint64(b[8:])}
		if r.first <= next || r.last < r.first || r.last > s.top {
			return nil, fmt.Errorf("session: operations %d to %d: %w", r.first, r.last, errFormat)
		}
		s.done, next, b = append(s.done, r), r.last+1, b[16:]
	}
	for range begun {
		x := opBegun{le.Uint64(b), int64(le.Uint64(b[8:]))}
		if n := s.before(x.op); x.op > s.top || x.end < 0 || n > 0 && x.op <= s.done[n-1].last {
			return nil, fmt.Errorf("session: operation %d: %w", x.op, errFormat)
		}
		s.begun, b = append(s.begun, x), b[16:]
	}
	return b, nil
}

package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"blkd/internal/env"
	"blkd/internal/mutant"
)

// ringLog is the store's write-ahead log: one preallocated, zero-filled file that
// is reused lap after lap, so that an append never changes file metadata and a
// sync costs one write to the disk.
//
// A position (pos) counts bytes ever appended; pos mod size is the place in the
// file. A record never wraps: if the rest of a lap is too short, a skip record
// (or nothing, when not even that fits) ends the lap.
//
// A record is part of the log if its checksum holds and its pos, seq and
// incarnation continue the one before. The incarnation is raised, durably,
// whenever the log is opened or cut, after everything before was synced: without it a record that was left behind a
// lost one would come back to life once new records fill the gap before it.
type ringLog struct {
	f           env.File
	name        string
	size        int64
	incarnation uint32

	// Owned by the appender (Store.appendMu).
	head   uint64 // next record
	padded uint64 // the page at head is initialised up to here
	tail   atomic.Uint64
	// written is head as seen by others: all before it is in the file.
	written atomic.Uint64
}

// logSlack stays free between head and tail: the padding of the last page may
// reach past head.
const logSlack = 2 * BlockSize

func (l *ringLog) offset(pos uint64) int64 { return int64(pos % uint64(l.size)) }

// lapLeft is how many bytes a record at pos may take.
func (l *ringLog) lapLeft(pos uint64) int64 { return l.size - l.offset(pos) }

// used is how many bytes of the ring are taken.
func (l *ringLog) used() int64 { return int64(l.written.Load() - l.tail.Load()) }

// room tells whether n more bytes from pos fit, skip included.
func (l *ringLog) room(pos uint64, n int64) bool {
	if left := l.lapLeft(pos); n > left {
		n += left
	}
	return int64(pos-l.tail.Load())+n+logSlack <= l.size
}

// maxData is the largest payload of a record, in bytes: 1 MiB, less if the ring
// is small, so that every record finds room once the log is poured.
func (l *ringLog) maxData() int {
	return min(recMaxBlocks, int(l.size/4/BlockSize)) * BlockSize
}

var zeroPadding [BlockSize]byte

// write puts the buffers, together n bytes, at pos. It completes the last page
// with zeros, because a partial write to a page that is not in the page cache
// would have to read it first.
func (l *ringLog) write(bufs [][]byte, pos uint64, n int64) error {
	end := pos + uint64(n)
	if rest := end % BlockSize; rest != 0 && end > l.padded {
		bufs = append(bufs, zeroPadding[rest:])
		l.padded = end - rest + BlockSize
	}
	return l.f.WritevAt(bufs, l.offset(pos))
}

// read fills p from pos, which lies within one record.
func (l *ringLog) read(p []byte, pos uint64) error {
	_, err := l.f.ReadAt(p, l.offset(pos))
	return err
}

// forget takes the log between two positions out of memory; the page cache keeps it.
// What is mapped is then what is not poured, not all that was ever written.
func (l *ringLog) forget(from, to uint64) {
	for from < to {
		page := l.offset(from) / BlockSize * BlockSize
		n := min(int64(to-from), l.lapLeft(from))
		l.f.Forget(page, l.offset(from)+n-page)
		from += uint64(n)
	}
}

// createLog makes the file and fills it with zeros.
func createLog(fs env.FS, name string, size int64) error {
	f, err := fs.Open(name, openCreate)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Allocate(0, size); err != nil {
		return err
	}
	// Page by page: a page that came into memory in a large folio would be written
	// back with all of it.
	for off := int64(0); off < size; off += BlockSize {
		if _, err := f.WriteAt(zeroPadding[:], off); err != nil {
			return err
		}
	}
	return f.Sync()
}

// scanned is one record found by scan.
type scanned struct {
	record
	crc []uint32 // per block
	bad []int    // data blocks that fail their checksum
}

func (r *scanned) payloadPos() uint64 { return r.pos + uint64(r.headerBytes()) }

// scanner walks the log from a position to its end.
type scanner struct {
	log     *ringLog
	super   *superblock
	verify  bool // check payloads
	pos     uint64
	seq     Seq
	gen     Generation
	inc     uint32
	durable uint64   // highest durable position that the records tell
	reuse   *scanned // if set, returned for every record
	head    []byte   // memory for a header
	buf     []byte   // memory for a payload
}

// next returns the next record, or io.EOF at the end of the log. Payload blocks
// that fail are reported in bad: the caller decides whether that is a crash that
// cut the log or damage.
func (s *scanner) next() (*scanned, error) {
	r, err := s.step(s.super.replayFrom + uint64(s.log.size))
	if err == nil && r.kind == recData {
		err = s.payload(r)
	}
	if err != nil {
		return nil, err
	}
	s.durable = max(s.durable, r.durable)
	return r, nil
}

// step returns the next record that begins before limit, without its payload.
func (s *scanner) step(limit uint64) (*scanned, error) {
	for {
		if s.log.lapLeft(s.pos) < recHeader {
			s.pos += uint64(s.log.lapLeft(s.pos))
		}
		if s.pos+recHeader > limit {
			return nil, io.EOF
		}
		r, err := s.header()
		if err != nil {
			return nil, err
		}
		if r.kind == recSkip {
			s.inc = r.incarnation
			s.pos += uint64(s.log.lapLeft(s.pos))
			continue
		}
		s.pos += uint64(r.bytes())
		s.seq, s.gen, s.inc = r.seq, r.gen, r.incarnation
		return r, nil
	}
}

func (s *scanner) header() (*scanned, error) { return s.headerOf(s.continues) }

// headerOf reads the header at s.pos, or returns io.EOF if there is none that
// fits.
func (s *scanner) headerOf(fits func(*record) bool) (*scanned, error) {
	if s.head == nil {
		s.head = make([]byte, recHeader+4*recMaxBlocks+originBytes)
	}
	head := s.head[:recHeader]
	if err := s.log.read(head, s.pos); err != nil {
		return nil, fmt.Errorf("read %s: %w", s.log.name, err)
	}
	r := s.reuse
	if r == nil {
		r = &scanned{}
	}
	if r.decode(head) != nil || !fits(&r.record) || int64(r.bytes()) > s.log.lapLeft(s.pos) {
		return nil, io.EOF
	}
	whole := s.head[:r.headerBytes()]
	if err := s.log.read(whole, s.pos); err != nil {
		return nil, fmt.Errorf("read %s: %w", s.log.name, err)
	}
	if r.checkTable(whole) != nil {
		return nil, io.EOF
	}
	r.crc = slices.Grow(r.crc[:0], r.crcs())[:r.crcs()]
	for i := range r.crc {
		r.crc[i] = le.Uint32(whole[recHeader+4*i:])
	}
	return r, nil
}

// continues tells whether r can be the record at s.pos.
func (s *scanner) continues(r *record) bool {
	if r.pos != s.pos || r.gen < s.gen {
		return false
	}
	current := r.incarnation == s.super.incarnation
	if (r.incarnation < s.inc || r.incarnation > s.super.incarnation || current != (r.pos >= s.super.incStart)) && !mutant.On(mutant.StoreReviveTail) {
		return false
	}
	return r.kind == recSkip || r.seq == s.seq+1
}

// payload reads and verifies the payload of a record.
func (s *scanner) payload(r *scanned) error {
	if s.buf == nil {
		s.buf = make([]byte, s.log.maxData())
	}
	p := s.buf[:r.blocks*BlockSize]
	if err := s.log.read(p, r.payloadPos()); err != nil {
		return fmt.Errorf("read %s: %w", s.log.name, err)
	}
	for i := 0; s.verify && i < r.blocks; i++ {
		if checksum(p[i*BlockSize:(i+1)*BlockSize]) != r.crc[i] {
			r.bad = append(r.bad, i)
		}
	}
	return nil
}

// lookAhead is how many bytes behind the end of the log are searched for proof
// that it should be longer.
const lookAhead = 64 << 20

// laterDurable returns the highest durable position that a record behind the
// scanner's position tells. If it is beyond that position, the log does not end
// there by a crash: a record that was flushed is damaged.
func (s *scanner) laterDurable() (uint64, error) {
	const window = 128 << 10
	var magic [4]byte
	le.PutUint32(magic[:], recMagic)
	limit := min(s.super.replayFrom+uint64(s.log.size), s.pos+lookAhead)
	buf := make([]byte, window)
	best := uint64(0)
	for pos := s.pos; pos+recHeader <= limit; {
		n := min(window, int(limit-pos), int(s.log.lapLeft(pos)))
		if err := s.log.read(buf[:n], pos); err != nil {
			return 0, fmt.Errorf("read %s: %w", s.log.name, err)
		}
		for at := 0; ; at += 4 {
			i := bytes.Index(buf[at:n], magic[:])
			if i < 0 {
				break
			}
			at += i
			d, err := s.durableAt(pos + uint64(at))
			if err != nil {
				return 0, err
			}
			best = max(best, d)
		}
		if n > recHeader && int64(n) < s.log.lapLeft(pos) {
			n -= len(magic) - 1 // the magic may lie across the border
		}
		pos += uint64(n)
	}
	return best, nil
}

// durableAt is the durable position told by the record at pos, or 0 if there is
// no valid one.
func (s *scanner) durableAt(pos uint64) (uint64, error) {
	if s.log.lapLeft(pos) < recHeader {
		return 0, nil
	}
	at := *s
	at.pos = pos // and its own buffer, which is free now
	r, err := at.headerOf(func(r *record) bool {
		return r.pos == pos && r.incarnation <= s.super.incarnation && (r.incarnation == s.super.incarnation) == (pos >= s.super.incStart)
	})
	if err == io.EOF {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return r.durable, nil
}

var errLogDamaged = errors.New("the log is damaged before the point up to which it was flushed; acknowledged writes would be lost")

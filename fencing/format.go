package fencing

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// The file of a gate: two slots, written in turn; a slot holds two equal copies.
// The copy with the highest serial counts. What counts of a copy lies in one sector
// of 512 bytes, which is never torn, so a crash leaves each copy either old or new,
// and both copies of a slot fail only if the disk is damaged. Then the newest
// promise may be the one that is lost, and the file is refused.
//
//	 0  8  magic "blkdgat", 1
//	 8  4  CRC-32C of bytes 12 to 512
//	12  4  format version
//	16  8  serial; its lowest bit is the number of the slot
//	24  8  lineage, 0: unbound
//	32  8  generation
//	40  4  number of lineages left
//	44  4  0
//	48     the lineages left, 8 bytes each
//
// Integers are little-endian.
const (
	gateSlots  = 2
	copyBytes  = 4096 // in blocks of their own, so that a bad one takes one copy
	slotBytes  = 2 * copyBytes
	gateBytes  = gateSlots * slotBytes
	gateSector = 512

	gateVersion = 1
	leftAt      = 48
	maxLeft     = (gateSector - leftAt) / 8
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	gateMagic  = [8]byte{'b', 'l', 'k', 'd', 'g', 'a', 't', 1}
)

// promise is what one slot says.
type promise struct {
	serial  uint64
	lineage uint64
	gen     Generation
	left    []uint64 // lineages that were left, oldest first
}

func slotOffset(serial uint64) int64 { return int64(serial%gateSlots) * slotBytes }

// encode fills both copies of a slot.
func (p *promise) encode(slot []byte) {
	b := slot[:copyBytes]
	clear(b)
	copy(b, gateMagic[:])
	le.PutUint32(b[12:], gateVersion)
	le.PutUint64(b[16:], p.serial)
	le.PutUint64(b[24:], p.lineage)
	le.PutUint64(b[32:], uint64(p.gen))
	le.PutUint32(b[40:], uint32(len(p.left)))
	for i, lineage := range p.left {
		le.PutUint64(b[leftAt+8*i:], lineage)
	}
	le.PutUint32(b[8:], crc32.Checksum(b[12:gateSector], castagnoli))
	copy(slot[copyBytes:slotBytes], b)
}

// decode reads one copy, of a slot.
func (p *promise) decode(b []byte, slot uint64) error {
	if [8]byte(b[:8]) != gateMagic {
		return errors.New("magic")
	}
	if le.Uint32(b[8:]) != crc32.Checksum(b[12:gateSector], castagnoli) {
		return errors.New("CRC-32C")
	}
	if v := le.Uint32(b[12:]); v != gateVersion {
		return fmt.Errorf("format version %d, this program reads %d", v, gateVersion)
	}
	n := le.Uint32(b[40:])
	*p = promise{serial: le.Uint64(b[16:]), lineage: le.Uint64(b[24:]), gen: Generation(le.Uint64(b[32:]))}
	if p.serial%gateSlots != slot || n > maxLeft {
		return fmt.Errorf("serial %d, %d lineages", p.serial, n)
	}
	for i := range n {
		p.left = append(p.left, le.Uint64(b[leftAt+8*i:]))
	}
	return nil
}

// newestPromise finds what counts in the contents of a file.
func newestPromise(b []byte) (newest promise, err error) {
	for slot := range uint64(gateSlots) {
		var bad []error
		for n := range 2 {
			var p promise
			at := int(slot)*slotBytes + n*copyBytes
			if err := p.decode(b[at:at+copyBytes], slot); err != nil {
				bad = append(bad, fmt.Errorf("copy at byte %d: %w", at, err))
				continue
			}
			if p.serial >= newest.serial {
				newest = p
			}
		}
		if len(bad) == 2 {
			return promise{}, fmt.Errorf("slot %d is damaged: %w", slot, errors.Join(bad...))
		}
	}
	return newest, nil
}

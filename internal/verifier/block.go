package verifier

import (
	"encoding/binary"
	"fmt"

	"blkd/blockdev"
)

// content makes the blocks of one load. No two loads make the same one.
type content struct{ run uint64 }

const headBytes = 24 // run, block and version

// fill makes the bytes of a version of a block. Version 0 is one that was never
// written: zeros.
func (c content) fill(p []byte, block int64, version uint64) {
	if version == 0 {
		clear(p)
		return
	}
	binary.LittleEndian.PutUint64(p, c.run)
	binary.LittleEndian.PutUint64(p[8:], uint64(block))
	binary.LittleEndian.PutUint64(p[16:], version)
	x := mix(c.run ^ mix(uint64(block)^mix(version)))
	for i := headBytes; i < blockdev.BlockSize; i += 8 {
		x = mix(x)
		binary.LittleEndian.PutUint64(p[i:], x)
	}
}

// version tells which version of a block p is, or what is wrong with it. The
// scratch is a block long.
func (c content) version(p, scratch []byte, block int64) (uint64, error) {
	v := binary.LittleEndian.Uint64(p[16:])
	if c.fill(scratch, block, v); string(p) == string(scratch) {
		return v, nil
	}
	run, other := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
	switch {
	case run != c.run:
		return 0, fmt.Errorf("block %d holds what nobody wrote there: it begins with %x", block, p[:headBytes])
	case other != uint64(block):
		return 0, fmt.Errorf("block %d holds block %d", block, other)
	default:
		return 0, fmt.Errorf("block %d is torn: it says version %d and holds something else besides", block, v)
	}
}

// mix is a step of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

package crc32c

import "math/bits"

// The arithmetic of folding. A CRC is the remainder of the message, read as a
// polynomial over GF(2), modulo P. So 16 bytes A that lie D bits before 16 other
// bytes B may be replaced by zeros when A·x^D mod P is added to B. With A cut into
// halves of 64 bits, the first H and the second L,
//
//	A·x^D ≡ H·(x^(D+64) mod P) + L·(x^D mod P),
//
// two carry-less multiplications, each by a key that depends on D alone and with
// a product shorter than 128 bits: it fits in where B lies.
//
// The first bit of a message is the lowest bit of its first byte, so in a register
// of w bits, bit i stands for x^(w-1-i). The product of two 64-bit registers has 127
// bits, of which bit i stands for x^(126-i); read as a register of 128 it counts for
// x times as much. The keys are divided by x to make up for it.

// castagnoli is P without its x^32, bit i standing for x^i.
const castagnoli = 0x1EDC6F41

// foldKey carries 16 bytes over a distance: the keys for the first and the second
// half.
type foldKey [2]uint64

// foldKeyTable is what fold multiplies by, as it lies in memory.
type foldKeyTable struct {
	step  [4]foldKey // four registers on: 256 bytes
	next  [4]foldKey // one register on: 64 bytes
	lanes [4]foldKey // each 16 bytes of a register to the last, which stays
}

var foldKeys = makeFoldKeys()

func makeFoldKeys() (t foldKeyTable) {
	for i := range 4 {
		t.step[i] = makeFoldKey(foldBytes)
		t.next[i] = makeFoldKey(64)
	}
	for i := range 3 {
		t.lanes[i] = makeFoldKey(16 * (3 - i))
	}
	return t
}

// makeFoldKey returns the keys for a distance in bytes.
func makeFoldKey(distance int) foldKey {
	d := 8 * distance
	return foldKey{register(powerModP(d + 64 - 1)), register(powerModP(d - 1))}
}

// powerModP returns x^n mod P, bit i standing for x^i.
func powerModP(n int) uint32 {
	r := uint32(1)
	for range n {
		carry := r >> 31
		r = r<<1 ^ carry*castagnoli
	}
	return r
}

// register puts a remainder into a register of 64 bits.
func register(r uint32) uint64 { return bits.Reverse64(uint64(r)) }

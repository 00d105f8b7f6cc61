// Package crc32c computes CRC-32C (Castagnoli), the checksum of every block, at
// the speed of the processor's widest registers.
//
// The sums are those of hash/crc32 with the Castagnoli polynomial, which reads 8
// bytes per instruction. Where the processor multiplies polynomials in 64-byte
// registers, long inputs are folded instead (fold_amd64.s): V. Gopal et al.,
// "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction",
// Intel, 2009. Everything else goes to hash/crc32.
package crc32c

import "hash/crc32"

var table = crc32.MakeTable(crc32.Castagnoli)

// foldBytes is the step of fold: its input is a multiple of that long.
const foldBytes = 256

// Checksum returns the CRC-32C of p; 0 for no bytes.
func Checksum(p []byte) uint32 { return Update(0, p) }

// Update returns the CRC-32C of what crc is the sum of, followed by p:
// Update(Checksum(a), b) is the sum of a and b joined. It reads nothing beyond p
// and allocates nothing.
func Update(crc uint32, p []byte) uint32 {
	if n := len(p) &^ (foldBytes - 1); n > 0 && useFold {
		crc = ^fold(^crc, p[:n], &foldKeys)
		p = p[n:]
	}
	if len(p) == 0 {
		return crc
	}
	return crc32.Update(crc, table, p)
}

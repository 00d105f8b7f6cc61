package crc32c

import "golang.org/x/sys/cpu"

// haveFold tells whether processor and system have the registers that fold uses.
var haveFold = cpu.X86.HasAVX512F && cpu.X86.HasAVX512VPCLMULQDQ && cpu.X86.HasSSE42

// useFold is haveFold, but for tests of the other path.
var useFold = haveFold

// fold advances the remainder crc over p, whose length is a multiple of foldBytes
// and not 0. The remainder is a CRC with all bits inverted.
//
//go:noescape
func fold(crc uint32, p []byte, keys *foldKeyTable) uint32

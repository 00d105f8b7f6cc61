//go:build !amd64

package crc32c

const haveFold = false

var useFold = haveFold

func fold(uint32, []byte, *foldKeyTable) uint32 { panic("crc32c: no wide registers") }

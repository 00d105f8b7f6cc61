package blockdev

import (
	"errors"
	"fmt"
)

// The errors a Device answers with; compare with errors.Is. Everything that is
// none of these is an ErrIO to a client.
var (
	ErrIO           = errors.New("input/output error")
	ErrNoSpace      = errors.New("no space left on the backing file system")
	ErrReadOnly     = errors.New("device is read-only")
	ErrInvalid      = errors.New("invalid request")
	ErrRange        = errors.New("beyond the end of the device")
	ErrNotSupported = errors.New("not supported")
	ErrClosed       = errors.New("device is closed")
)

// RangeError says which request reached beyond which end. It is an ErrRange.
type RangeError struct {
	Op             Op
	Off, Len, Size int64
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("%s of %d bytes at offset %d: %v, which has %d bytes", e.Op, e.Len, e.Off, ErrRange, e.Size)
}

// Is makes the error match ErrRange.
func (e *RangeError) Is(target error) bool { return target == ErrRange }

// ChecksumError says which block of which volume failed its CRC-32C and where it
// lies on disk. It is an ErrIO: the client gets EIO, never the bytes.
type ChecksumError struct {
	Volume    string // volume name
	Off       int64  // byte offset in the volume
	File      string // file that holds the block
	FileOff   int64  // byte offset in that file
	Want, Got uint32 // recorded and computed CRC-32C
}

func (e *ChecksumError) Error() string {
	return fmt.Sprintf("volume %s: block at offset %d fails its checksum (recorded %08x, computed %08x) in %s at %d",
		e.Volume, e.Off, e.Want, e.Got, e.File, e.FileOff)
}

// Is makes the error match ErrIO.
func (e *ChecksumError) Is(target error) bool { return target == ErrIO }

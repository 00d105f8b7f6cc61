package nbd

import (
	"errors"
	"fmt"

	"blkd/blockdev"
)

// errnoOf maps a device's error to the wire. What NBD has no value for is EIO.
func errnoOf(cmd uint16, err error) uint32 {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, blockdev.ErrClosed): // first: the reason may be any of the others
		return errnoShutdown
	case errors.Is(err, blockdev.ErrRange):
		return rangeErrno(cmd)
	case errors.Is(err, blockdev.ErrReadOnly):
		return errnoPerm
	case errors.Is(err, blockdev.ErrNoSpace):
		return errnoNoSpace
	case errors.Is(err, blockdev.ErrInvalid):
		return errnoInval
	case errors.Is(err, blockdev.ErrNotSupported):
		return errnoNotSup
	}
	return errnoIO
}

// rangeErrno is the error for a request beyond the end.
func rangeErrno(cmd uint16) uint32 {
	if cmd == cmdWrite || cmd == cmdWriteZeroes {
		return errnoNoSpace
	}
	return errnoInval
}

// RemoteError is an error a server answered with.
type RemoteError struct {
	Errno   uint32 // NBD's value
	Message string // the server's text, may be empty
	kind    error
}

func (e *RemoteError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("nbd server: %v (error %d)", e.kind, e.Errno)
	}
	return fmt.Sprintf("nbd server: %v (error %d): %s", e.kind, e.Errno, e.Message)
}

// Unwrap is the error of package blockdev that the value stands for.
func (e *RemoteError) Unwrap() error { return e.kind }

// errorOf maps a wire value to a device's error. mutates tells ENOSPC for a full
// disk from ENOSPC for a range.
func errorOf(errno uint32, msg string) error {
	kind := blockdev.ErrIO
	switch errno {
	case 0:
		return nil
	case errnoPerm:
		kind = blockdev.ErrReadOnly
	case errnoNoSpace:
		kind = blockdev.ErrNoSpace
	case errnoInval, errnoOverflow:
		kind = blockdev.ErrInvalid
	case errnoNotSup:
		kind = blockdev.ErrNotSupported
	case errnoShutdown:
		kind = blockdev.ErrClosed
	}
	return &RemoteError{Errno: errno, Message: msg, kind: kind}
}

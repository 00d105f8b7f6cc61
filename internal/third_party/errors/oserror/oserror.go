// Package oserror tells the errors of the operating system apart, wrapped or not.
package oserror

import (
	"errors"
	"io/fs"
)

// The errors that io/fs names.
var (
	ErrInvalid    = fs.ErrInvalid
	ErrPermission = fs.ErrPermission
	ErrExist      = fs.ErrExist
	ErrNotExist   = fs.ErrNotExist
	ErrClosed     = fs.ErrClosed
)

// IsPermission tells whether err is ErrPermission.
func IsPermission(err error) bool { return errors.Is(err, ErrPermission) }

// IsExist tells whether err is ErrExist.
func IsExist(err error) bool { return errors.Is(err, ErrExist) }

// IsNotExist tells whether err is ErrNotExist.
func IsNotExist(err error) bool { return errors.Is(err, ErrNotExist) }

// Package errors stands in for github.com/cockroachdb/errors, which Pebble makes
// its errors with; go.mod of blkd replaces that one. The original adds 2 MB to
// the binary: encoders of errors for transport, a second protobuf library, and a
// client of an error-reporting service, none of which a storage daemon shall
// have. This package has the functions that Pebble calls, with the same outcome
// for errors.Is and errors.As, and without stack traces and redaction.
package errors

import (
	"errors"
	"fmt"
)

// New makes an error of a text.
func New(text string) error { return errors.New(text) }

// Newf makes an error of a format; %w wraps.
func Newf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// Errorf is Newf.
func Errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// Is is that of the standard library.
func Is(err, target error) bool { return errors.Is(err, target) }

// As is that of the standard library.
func As(err error, target any) bool { return errors.As(err, target) }

// Join is that of the standard library.
func Join(errs ...error) error { return errors.Join(errs...) }

// Wrap puts a text before an error; nil stays nil.
func Wrap(err error, text string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", text, err)
}

// Wrapf is Wrap with a format.
func Wrapf(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return Wrap(err, fmt.Sprintf(format, args...))
}

// UnwrapAll is the innermost of a chain of errors.
func UnwrapAll(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// WithStack returns the error itself.
func WithStack(err error) error { return err }

// WithDetailf returns the error itself: a detail is not part of its text.
func WithDetailf(err error, _ string, _ ...any) error { return err }

// WithHintf returns the error itself: a hint is not part of its text.
func WithHintf(err error, _ string, _ ...any) error { return err }

// WithSafeDetails returns the error itself.
func WithSafeDetails(err error, _ string, _ ...any) error { return err }

// WithSecondaryError returns the first error: the second is not part of its text
// and Is does not find it.
func WithSecondaryError(err, _ error) error { return err }

// CombineErrors is the first that is not nil; the other is a secondary error.
func CombineErrors(err, other error) error {
	if err == nil {
		return other
	}
	return err
}

// Mark makes Is find reference in err, whose text stays.
func Mark(err, reference error) error {
	if err == nil {
		return nil
	}
	return &marked{err, reference}
}

type marked struct{ err, reference error }

func (m *marked) Error() string { return m.err.Error() }

func (m *marked) Unwrap() error { return m.err }

func (m *marked) Is(target error) bool { return errors.Is(m.reference, target) }

// AssertionFailedf is an error that IsAssertionFailure knows: a bug.
func AssertionFailedf(format string, args ...any) error {
	return &assertion{fmt.Errorf(format, args...)}
}

type assertion struct{ err error }

func (a *assertion) Error() string { return a.err.Error() }

func (a *assertion) Unwrap() error { return a.err }

// IsAssertionFailure tells whether AssertionFailedf made the error itself; like
// the original it does not look into what a cause was wrapped with.
func IsAssertionFailure(err error) bool {
	_, is := err.(*assertion)
	return is
}

// Safe marks an argument that may be reported; here it returns it.
func Safe(v any) any { return v }

// SafeDetailPayload is one error's details that may be reported.
type SafeDetailPayload struct{ SafeDetails []string }

// GetAllSafeDetails returns none.
func GetAllSafeDetails(error) []SafeDetailPayload { return nil }

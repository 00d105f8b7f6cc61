package pki

import "errors"

// The reasons of an [Error].
var (
	// ErrOtherCluster: the certificate was not signed by a CA of this cluster.
	ErrOtherCluster = errors.New("certificate of another cluster")
	// ErrOtherName: the certificate is of another node (or operator, or client)
	// than the one expected or claimed.
	ErrOtherName = errors.New("certificate of another name")
	// ErrRole: the certificate is good, but its role may not do this.
	ErrRole = errors.New("certificate of another role")
	// ErrExpired: the certificate or its CA is not valid any more, or not yet.
	ErrExpired = errors.New("certificate not valid at this time")
	// ErrNoCertificate: the peer showed no certificate.
	ErrNoCertificate = errors.New("no certificate")
	// ErrPlainText: the peer speaks plain text where TLS is wanted.
	ErrPlainText = errors.New("plain text")
	// ErrTLS: the peer speaks TLS where plain text is wanted.
	ErrTLS = errors.New("TLS")
	// ErrRefused: the peer refused this side's certificate.
	ErrRefused = errors.New("refused by the peer")
	// ErrBadFile: a file cannot be read or does not hold what it should.
	ErrBadFile = errors.New("bad file")
	// ErrInvalid: a name, host or lifetime cannot be used.
	ErrInvalid = errors.New("invalid value")
	// ErrExists: there is something by that name already.
	ErrExists = errors.New("exists")
	// ErrNotFound: there is nothing by that name.
	ErrNotFound = errors.New("not found")
	// ErrInUse: what should be dropped is still needed.
	ErrInUse = errors.New("in use")
)

// Error is what went wrong and what to do about it.
type Error struct {
	Reason error  // one of the Err variables; errors.Is finds it
	Text   string // for people; says what is wrong and where
	Next   string // the next command or step; may be empty
}

// Error is the text and the next step.
func (e *Error) Error() string {
	if e.Next == "" {
		return e.Text
	}
	return e.Text + " (next: " + e.Next + ")"
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Reason }

package nbd

import (
	"crypto/tls"
	"io"
	"log/slog"
	"time"
)

// TLSMode says whether connections are encrypted.
type TLSMode uint8

const (
	// TLSOff refuses STARTTLS.
	TLSOff TLSMode = iota
	// TLSAllowed leaves the choice to the client. It does not protect a client
	// that does not insist on TLS.
	TLSAllowed
	// TLSRequired answers nothing but STARTTLS and ABORT in clear text.
	TLSRequired
)

// Options configure a Server. The zero value is ready to use: every limit that is
// zero has the default named at it.
type Options struct {
	// TLS holds the server's certificate; set ClientCAs and ClientAuth to
	// demand certificates of clients. TLSMode says when it is used.
	TLS     *tls.Config
	TLSMode TLSMode

	// Find is called, by the goroutine of the client that asks, for an export that
	// there is not, which is looked up again when it returns: it may call SetExport.
	// Nil: nobody knows of others.
	Find func(name string)

	// Logger gets one line for each connection that ends abnormally. Default:
	// nothing is logged.
	Logger *slog.Logger

	// HandshakeTimeout is the time a client has to finish its whole negotiation,
	// TLS included. Default 10 s.
	HandshakeTimeout time.Duration
	// StallTimeout is how long a connection may take to move 1 MiB while it holds
	// buffers and others wait for the server's memory. Default 30 s.
	StallTimeout time.Duration

	// MaxConnections limits the connections that have chosen an export.
	// Default 1024.
	MaxConnections int
	// MaxHandshakes limits the connections that have not. One more ends the
	// oldest of them, so that silent peers cannot keep clients out. Default 128.
	MaxHandshakes int
	// MaxOptions is the number of options a client may send. Default 128.
	MaxOptions int
	// MaxOptionBytes is the longest option, in bytes. Default 64 KiB.
	MaxOptionBytes int

	// MaxRequests is the number of requests in flight per connection. Default
	// 1024.
	MaxRequests int
	// MaxConnectionBytes is the memory, in bytes, that the requests and replies
	// of one connection may hold beyond its two basic buffers of 256 KiB.
	// Default and minimum 64 MiB.
	MaxConnectionBytes int64
	// MaxServerBytes is the same for all connections together. Default 1 GiB,
	// minimum MaxConnectionBytes.
	MaxServerBytes int64
}

// orDefault replaces a value that is not positive.
func orDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// withDefaults fills in what is zero and raises what is too small to work.
func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.TLS == nil {
		o.TLSMode = TLSOff
	}
	orDefault(&o.HandshakeTimeout, 10*time.Second)
	orDefault(&o.StallTimeout, 30*time.Second)
	orDefault(&o.MaxConnections, 1024)
	orDefault(&o.MaxHandshakes, 128)
	orDefault(&o.MaxOptions, 128)
	orDefault(&o.MaxOptionBytes, 64<<10)
	orDefault(&o.MaxRequests, 1024)
	orDefault(&o.MaxServerBytes, 1<<30)
	o.MaxConnectionBytes = max(o.MaxConnectionBytes, 64<<20)
	o.MaxServerBytes = max(o.MaxServerBytes, o.MaxConnectionBytes)
	return o
}

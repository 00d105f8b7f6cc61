package nbd

import (
	"context"
	"fmt"
	"net"
)

// Negotiated is a connection that has done the handshake and asked for nothing yet.
// Replies on it are simple ones: it is made for the kernel's client.
type Negotiated struct {
	Conn      net.Conn
	SizeBytes int64
	Flags     uint16 // the transmission flags
	MultiConn bool   // the server allows more than one
	ReadOnly  bool
}

// Negotiate connects to the export of an NBD URI, up to the end of the handshake.
// Connections and MaxRequests of the options do not matter.
func Negotiate(ctx context.Context, uri string, opts DialOptions) (*Negotiated, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	opts.Simple = true
	conn, info, err := connect(ctx, u, &opts)
	if err != nil {
		return nil, fmt.Errorf("nbd: %s: %w", uri, err)
	}
	return &Negotiated{Conn: conn, SizeBytes: info.size, Flags: info.flags,
		MultiConn: info.flags&flagCanMultiConn != 0, ReadOnly: info.flags&flagReadOnly != 0}, nil
}

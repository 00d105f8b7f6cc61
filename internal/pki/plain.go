package pki

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// PlainServerCredentials are for a gRPC server without TLS. They recognise a
// client that speaks TLS and tell both sides. refused may be nil.
func PlainServerCredentials(refused Refused) credentials.TransportCredentials {
	return &plainCredentials{TransportCredentials: insecure.NewCredentials(), refused: refused}
}

// PlainClientCredentials are for a gRPC client without TLS. They recognise a
// server that speaks TLS.
func PlainClientCredentials() credentials.TransportCredentials {
	return &plainCredentials{TransportCredentials: insecure.NewCredentials()}
}

type plainCredentials struct {
	credentials.TransportCredentials
	refused Refused
}

// ClientHandshake is for gRPC.
func (c *plainCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.TransportCredentials.ClientHandshake(ctx, authority, &plainConn{Conn: raw, explain: func(err error) error {
		switch {
		case err == nil:
			return &Error{Reason: ErrTLS, Text: raw.RemoteAddr().String() + ": the peer speaks TLS, this side plain text",
				Next: "give this side a certificate, blkctl pki issue"}
		case errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET):
			return &Error{Reason: err, Text: raw.RemoteAddr().String() + ": the peer hung up without a word; it may want TLS, and this side speaks plain text"}
		}
		return err
	}})
}

// ServerHandshake is for gRPC.
func (c *plainCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.TransportCredentials.ServerHandshake(&plainConn{Conn: raw, explain: func(err error) error {
		if err != nil {
			return err
		}
		err = &Error{Reason: ErrTLS, Text: "the peer speaks TLS, this side plain text", Next: "give this node a certificate, blkctl pki issue node NAME"}
		if c.refused != nil {
			c.refused(raw.RemoteAddr(), err)
		}
		return err
	}})
}

// Clone is for gRPC.
func (c *plainCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}

// plainConn looks at the first bytes that the peer says. That is enough: a plain
// server says its first words unasked, and they end the TLS client's handshake
// with an error that names plain text.
type plainConn struct {
	net.Conn
	first   sync.Once
	explain func(error) error // of the first read, if it failed or is TLS (nil)
	refusal error
}

// Read reads.
func (c *plainConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 || err != nil {
		c.first.Do(func() {
			switch {
			case n > 0 && isTLS(p[:n]):
				c.refusal = c.explain(nil)
			case n == 0:
				err = c.explain(err)
			}
		})
	}
	if c.refusal != nil {
		return 0, c.refusal
	}
	return n, err
}

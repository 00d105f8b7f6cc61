package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// Conn is a TLS connection whose peer has been verified.
type Conn struct {
	*tls.Conn
	peer    Identity
	explain func(error) error
}

// Peer is who is at the other end.
func (c *Conn) Peer() Identity { return c.peer }

// Read reads. A refusal by the peer, which a client learns of here and not in the
// handshake, is an [*Error].
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && err != io.EOF {
		err = c.explain(err)
	}
	return n, err
}

// Accept does the server's part of the handshake on conn, until ctx ends, with a
// client of one of the roles, or of any if there are none. A refusal is an
// [*Error]; conn is closed then, after the peer was told.
func (r *Reloader) Accept(ctx context.Context, conn net.Conn, accept ...Role) (*Conn, error) {
	return r.accept(ctx, conn, r.serverConfig(nil, accept))
}

func (r *Reloader) accept(ctx context.Context, conn net.Conn, cfg *tls.Config) (*Conn, error) {
	t := tls.Server(conn, cfg)
	err := t.HandshakeContext(ctx)
	if err == nil {
		return r.verified(t)
	}
	err = r.current.Load().explain(err, r)
	switch {
	case ctx.Err() != nil || errors.Is(err, io.EOF):
		conn.Close()
	case errors.Is(err, ErrPlainText):
		hangUp(conn, wantsTLS)
	default:
		hangUp(conn, nil)
	}
	return nil, err
}

// Connect does the client's part of the handshake on conn, until ctx ends, with
// the node of that name, or any node if it is empty. A refusal is an [*Error];
// conn is closed then.
func (r *Reloader) Connect(ctx context.Context, conn net.Conn, node string) (*Conn, error) {
	return r.connect(ctx, conn, r.clientConfig(nil, node))
}

func (r *Reloader) connect(ctx context.Context, conn net.Conn, cfg *tls.Config) (*Conn, error) {
	t := tls.Client(conn, cfg)
	if err := t.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", conn.RemoteAddr(), r.current.Load().explain(err, r))
	}
	return r.verified(t)
}

func (r *Reloader) verified(t *tls.Conn) (*Conn, error) {
	id, err := PeerIdentity(t.ConnectionState())
	if err != nil {
		panic("pki: a verified connection has no identity: " + err.Error())
	}
	m := r.current.Load()
	return &Conn{Conn: t, peer: id, explain: func(err error) error { return m.explain(err, r) }}, nil
}

// lingerTime is how long a refused peer may take to read why.
const lingerTime = time.Second

// hangUp ends a connection so that the peer reads the last words: closing while
// there is something unread would reset it and may destroy them on the way.
func hangUp(conn net.Conn, last []byte) {
	defer conn.Close()
	if conn.SetDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	if _, err := conn.Write(last); err != nil && len(last) > 0 {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() != nil {
		return
	}
	io.Copy(io.Discard, io.LimitReader(conn, 1<<20))
}

// wantsTLS is a TLS alert, protocol_version and fatal, in plain text: what a TLS
// server answers to plain text, and plain.go recognises.
var wantsTLS = []byte{recordAlert, 3, 3, 0, 2, 2, 70}

// First bytes of TLS records.
const (
	recordAlert     = 21
	recordHandshake = 22
)

// isTLS tells whether what a peer said first, of which begin is a part, is TLS.
func isTLS(begin []byte) bool {
	return len(begin) > 0 && slices.Contains([]byte{recordAlert, recordHandshake}, begin[0])
}

package pki

import (
	"context"
	"errors"
	"io"
	"net"

	"google.golang.org/grpc/credentials"
)

// Refused is told of each connection that a server refuses, e.g. to log it: who
// and, an [*Error] if it is understood, why. It may be called concurrently.
type Refused func(remote net.Addr, err error)

// ServerCredentials are for a gRPC server that takes clients with a certificate
// of this cluster and one of the roles, or any role if there are none; which
// methods they may call is for an [Authorizer] to say. refused may be nil.
func (r *Reloader) ServerCredentials(refused Refused, accept ...Role) credentials.TransportCredentials {
	return &tlsCredentials{r: r, refused: refused, accept: accept}
}

// ClientCredentials are for a gRPC client of the node of that name, or of any
// node of the cluster if it is empty.
func (r *Reloader) ClientCredentials(node string) credentials.TransportCredentials {
	return &tlsCredentials{r: r, node: node}
}

// tlsCredentials differ from those of package credentials in that they read
// reloaded files, verify identities, and explain refusals to both sides.
type tlsCredentials struct {
	r       *Reloader
	refused Refused
	accept  []Role
	node    string
}

var http2 = []string{"h2"}

// ClientHandshake is for gRPC.
func (c *tlsCredentials) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, err := c.r.connect(ctx, raw, c.r.clientConfig(http2, c.node))
	if err != nil {
		return nil, nil, err
	}
	return conn, authInfo(conn), nil
}

// ServerHandshake is for gRPC, which bounds its time by a deadline on the
// connection.
func (c *tlsCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, err := c.r.accept(context.Background(), raw, c.r.serverConfig(http2, c.accept))
	if err != nil {
		// Who connects and goes without a word is a load balancer or a port scan.
		if c.refused != nil && !errors.Is(err, io.EOF) {
			c.refused(raw.RemoteAddr(), err)
		}
		return nil, nil, err
	}
	return conn, authInfo(conn), nil
}

func authInfo(c *Conn) credentials.AuthInfo {
	return credentials.TLSInfo{State: c.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
}

// Info is for gRPC.
func (c *tlsCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone is for gRPC.
func (c *tlsCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}

// OverrideServerName does nothing: the name of the server is in its identity.
func (c *tlsCredentials) OverrideServerName(string) error { return nil }

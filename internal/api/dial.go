package api

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// MaxSocketPath is the longest path, in bytes, of a Unix socket that Linux takes.
const MaxSocketPath = 107

// Dial prepares a connection to the node that listens on a Unix socket. It does
// not wait: the first call reports a node that does not answer (Unavailable).
// The socket's file mode says who may connect, so the stream itself is plain.
func Dial(socket string) (*grpc.ClientConn, error) {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return grpc.NewClient("passthrough:///blkd",
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// reconnect is how soon a connection that failed is tried again. gRPC's own pauses
// grow to two minutes: a node that was away for a while would go on to be taken for
// one that does not answer, and a hand-over become a failover.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 250 * time.Millisecond},
	MinConnectTimeout: time.Second,
}

// DialNode prepares a connection to a node of a cluster at HOST:PORT; nil
// credentials are plain text. It does not wait, like [Dial].
func DialNode(address string, creds credentials.TransportCredentials) (*grpc.ClientConn, error) {
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds), grpc.WithConnectParams(reconnect))
}

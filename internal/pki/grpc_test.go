package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// served is a gRPC server on loopback and whom it has refused.
type served struct {
	address string
	refused chan error
}

// serve runs a server with the health service, which has a unary method and a
// stream. made makes its credentials.
func serve(t *testing.T, made func(Refused) credentials.TransportCredentials, may Policy) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := &served{address: l.Addr().String(), refused: make(chan error, 100)}
	creds := made(func(remote net.Addr, err error) {
		if !strings.HasPrefix(remote.String(), "127.0.0.1:") {
			t.Errorf("refused %v", remote)
		}
		select {
		case s.refused <- err:
		default: // gRPC tries again and again
		}
	})
	unary, stream := Authorizer(may)
	server := grpc.NewServer(grpc.Creds(creds), grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream))
	healthpb.RegisterHealthServer(server, health.NewServer())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { server.Stop(); <-done })
	return s
}

// call calls once and returns the error.
func (s *served) call(t *testing.T, creds credentials.TransportCredentials) error {
	t.Helper()
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(creds))
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

func everyone(string, Identity) error { return nil }

// says checks the text of an error that came through gRPC.
func says(t *testing.T, err error, code codes.Code, wanted ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%v\nwant code %v", err, code)
	}
	for _, w := range wanted {
		if err != nil && !strings.Contains(err.Error(), w) {
			t.Errorf("%v\nlacks %q", err, w)
		}
	}
}

func TestGRPCTellsWhoCalls(t *testing.T) {
	a := cluster(t, "prod")
	n1, n2 := holder(t, a, Node, "n1"), holder(t, a, Node, "n2")
	s := serve(t, func(f Refused) credentials.TransportCredentials { return n1.ServerCredentials(f) },
		func(method string, id Identity) error {
			if method != healthpb.Health_Check_FullMethodName || id != n2.Self() {
				t.Errorf("%s by %v", method, id)
			}
			return nil
		})
	must(t, s.call(t, n2.ClientCredentials("n1")))
	must(t, s.call(t, n2.ClientCredentials("")))
}

func TestGRPCRefusals(t *testing.T) {
	a, b := cluster(t, "prod"), cluster(t, "prod2")
	n1, foreign := holder(t, a, Node, "n1"), holder(t, b, Node, "n2")
	secure := func(r *Reloader, accept ...Role) func(Refused) credentials.TransportCredentials {
		return func(f Refused) credentials.TransportCredentials { return r.ServerCredentials(f, accept...) }
	}
	for name, tc := range map[string]struct {
		server   func(Refused) credentials.TransportCredentials
		client   credentials.TransportCredentials
		reason   error // at the server
		atServer string
		atClient string
	}{
		"other cluster": {secure(n1), foreign.ClientCredentials("n1"), ErrRefused,
			"the peer refuses the certificate of node n1", "is signed by CA " + a.cas.name().String() + ", this is " + b.cas.name().String()},
		"other node": {secure(holder(t, a, Node, "n3")), n1.ClientCredentials("n2"), ErrRefused,
			"the peer refuses the certificate of node n3", "node n3 answers here, not node n2"},
		"role": {secure(n1, Node), holder(t, a, Client, "db1").ClientCredentials("n1"), ErrRole,
			"the certificate is of client db1; this port is for the role node", "the peer refuses the certificate of client db1"},
		"not a server": {secure(holder(t, a, Admin, "eve")), n1.ClientCredentials("eve"), ErrRefused,
			"the peer refuses the certificate of admin eve", "only nodes are servers"},
		"no certificate": {secure(n1), credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}), ErrNoCertificate,
			"the peer showed no certificate", "certificate required"},
		"plain client": {secure(n1), PlainClientCredentials(), ErrPlainText,
			"the peer speaks plain text", "the peer speaks TLS, this side plain text"},
		"foreign plain client": {secure(n1), insecure.NewCredentials(), ErrPlainText,
			"the peer speaks plain text", "error reading server preface"},
		"plain server": {PlainServerCredentials, n1.ClientCredentials("n1"), ErrTLS,
			"the peer speaks TLS, this side plain text", "the peer speaks plain text, this side TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, tc.server, everyone)
			err := s.call(t, tc.client)
			says(t, err, codes.Unavailable, tc.atClient)
			refusal(t, "server", <-s.refused, tc.reason, tc.atServer)
		})
	}
}

func TestGRPCExpired(t *testing.T) {
	a := cluster(t, "prod")
	n1 := holder(t, a, Node, "n1")
	from(a, -CertificateLifetime-9*day)
	n2 := expired(t, a, issue(t, a, Node, "n2"))
	s := serve(t, func(f Refused) credentials.TransportCredentials { return n1.ServerCredentials(f) }, everyone)
	says(t, s.call(t, n2.ClientCredentials("n1")), codes.Unavailable, "by the peer's clock the certificate of node n2", "blkctl pki rotate n2")
	refusal(t, "server", <-s.refused, ErrExpired, "the certificate of node n2 ended on 20")
}

func TestAuthorizer(t *testing.T) {
	a := cluster(t, "prod")
	n1, alice := holder(t, a, Node, "n1"), holder(t, a, Admin, "alice")
	s := serve(t, func(f Refused) credentials.TransportCredentials { return n1.ServerCredentials(f) },
		func(method string, id Identity) error {
			if id.Name == "n9" {
				return status.Error(codes.Aborted, "later")
			}
			return id.Check(Node, "n2")
		})
	for name, tc := range map[string]struct {
		client *Reloader
		code   codes.Code
		want   string
	}{
		"right":       {holder(t, a, Node, "n2"), codes.OK, ""},
		"role":        {alice, codes.PermissionDenied, "the certificate is of admin alice, and only node n2 may do this"},
		"other":       {holder(t, a, Node, "n3"), codes.PermissionDenied, "the certificate is of node n3, not of node n2"},
		"own  status": {holder(t, a, Node, "n9"), codes.Aborted, "later"},
	} {
		t.Run(name, func(t *testing.T) {
			says(t, s.call(t, tc.client.ClientCredentials("n1")), tc.code, tc.want)

			conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(tc.client.ClientCredentials("n1")))
			must(t, err)
			defer conn.Close()
			stream, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
			must(t, err)
			_, err = stream.Recv()
			says(t, err, tc.code, tc.want)
		})
	}
}

func TestPlainGRPC(t *testing.T) {
	s := serve(t, PlainServerCredentials, func(method string, id Identity) error {
		if id != (Identity{}) {
			t.Errorf("a plain peer is %v", id)
		}
		return nil
	})
	must(t, s.call(t, PlainClientCredentials()))
	must(t, s.call(t, insecure.NewCredentials()))

	s = serve(t, PlainServerCredentials, func(_ string, id Identity) error { return id.Check(Admin, "") })
	says(t, s.call(t, PlainClientCredentials()), codes.Unauthenticated, "only an admin may do this, and the peer showed no certificate", "blkctl pki issue admin NAME")
}

// TestHungUpOnPlainClient: a server that just closes is what a TLS server of
// another make may look like.
func TestHungUpOnPlainClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	s := &served{address: l.Addr().String()}
	says(t, s.call(t, PlainClientCredentials()), codes.Unavailable, s.address+": the peer hung up without a word; it may want TLS")
}

// TestProbesAreNotRefusals: whoever connects and leaves without a word is not
// worth a line in the log.
func TestProbesAreNotRefusals(t *testing.T) {
	a := cluster(t, "prod")
	n1 := holder(t, a, Node, "n1")
	creds := n1.ServerCredentials(func(_ net.Addr, err error) { t.Errorf("refused: %v", err) })
	s, c := pair(t)
	c.Close()
	if _, _, err := creds.ServerHandshake(s); err == nil {
		t.Error("a handshake with nobody")
	}
	if _, ok := FromContext(context.Background()); ok {
		t.Error("somebody calls where there is no call")
	}
	if !errors.Is(Identity{}.Check(Node, "n1"), ErrNoCertificate) {
		t.Error("nobody passes for n1")
	}
}

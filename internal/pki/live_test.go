package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"time"
)

func TestPeersKnowEachOther(t *testing.T) {
	a := cluster(t, "prod")
	n1, n2, alice := holder(t, a, Node, "n1"), holder(t, a, Node, "n2"), holder(t, a, Admin, "alice")
	ctx := context.Background()
	for _, tc := range []struct {
		client *Reloader
		node   string
	}{{n2, "n1"}, {n2, ""}, {alice, "n1"}, {alice, ""}, {n1, "n1"}} {
		s, c := pair(t)
		got := make(chan *Conn, 1)
		go func() {
			conn, err := n1.Accept(ctx, s)
			if err != nil {
				t.Error(err)
			}
			got <- conn
		}()
		conn, err := tc.client.Connect(ctx, c, tc.node)
		must(t, err)
		if server := <-got; server == nil || server.Peer() != tc.client.Self() || conn.Peer() != n1.Self() {
			t.Errorf("%v and %v: the peers are somebody else", tc.client.Self(), conn.Peer())
		}
		if v := conn.ConnectionState().Version; v != tls.VersionTLS13 {
			t.Errorf("TLS version %x", v)
		}
	}
}

func TestOtherClusterIsRefused(t *testing.T) {
	a, b := cluster(t, "prod"), cluster(t, "prod2")
	here, there := a.cas.name().String(), b.cas.name().String()
	atServer, atClient := meet(t, holder(t, a, Node, "n1"), holder(t, b, Node, "n2"), "")
	refusal(t, "client", atClient, ErrOtherCluster, "the certificate of node n1 is signed by CA "+here, "this is "+there, "127.0.0.1:")
	refusal(t, "server", atServer, ErrRefused, "the peer refuses the certificate of node n1", here)
}

// TestUnknownCA is the case that only the server refuses: in the midst of a change
// of the CA it has not read the new ca.crt, while the client has its new pair.
func TestUnknownCA(t *testing.T) {
	a := cluster(t, "prod")
	n1, files := holder(t, a, Node, "n1"), issue(t, a, Node, "n2")
	old := a.cas.name().String()
	must(t, a.AddCA(CALifetime))
	_, err := a.Rotate("n2", nil, CertificateLifetime)
	must(t, err)
	atServer, atClient := meet(t, n1, load(t, files), "n1")
	refusal(t, "server", atServer, ErrOtherCluster, "the certificate of node n2 is signed by CA "+a.cas.name().String(), "this is "+old, "copy the newest ca.crt")
	refusal(t, "client", atClient, ErrRefused, "does not know the CA of the certificate of node n2", a.cas.name().String(), "copy ca.crt to the peer")
}

func TestOtherNodeIsRefused(t *testing.T) {
	a := cluster(t, "prod")
	atServer, atClient := meet(t, holder(t, a, Node, "n3"), holder(t, a, Node, "n1"), "n2")
	refusal(t, "client", atClient, ErrOtherName, "node n3 answers here, not node n2", "127.0.0.1:")
	refusal(t, "server", atServer, ErrRefused, "the certificate of node n3")
}

func TestOnlyNodesAreServers(t *testing.T) {
	a := cluster(t, "prod")
	_, atClient := meet(t, holder(t, a, Admin, "n1"), holder(t, a, Node, "n2"), "n1")
	refusal(t, "client", atClient, ErrRole, "the certificate of admin n1", "only nodes are servers")
}

func TestWrongRoleIsRefused(t *testing.T) {
	a := cluster(t, "prod")
	atServer, atClient := meet(t, holder(t, a, Node, "n1"), holder(t, a, Client, "db1"), "n1", Node, Admin)
	refusal(t, "server", atServer, ErrRole, "the certificate is of client db1", "for the role node or admin")
	refusal(t, "client", atClient, ErrRefused, "the peer refuses the certificate of client db1", "log")
}

func TestExpiredIsRefused(t *testing.T) {
	a := cluster(t, "prod")
	n1 := holder(t, a, Node, "n1")
	from(a, -CertificateLifetime-9*day)
	files := issue(t, a, Node, "n2")
	_, err := NewReloader(files)
	refusal(t, "loading", err, ErrExpired, "the certificate of node n2 ended on 20", "9 days ago", "blkctl pki rotate n2")

	// A clock that is behind makes the CA one of the future.
	_, err = newReloader(files, func() time.Time { return time.Now().Add(-10 * day) })
	refusal(t, "loading", err, ErrExpired, "CA prod", "begins on", "compare the clocks")

	n2 := expired(t, a, files)
	atServer, atClient := meet(t, n1, n2, "n1")
	refusal(t, "server", atServer, ErrExpired, "the certificate of node n2 ended on 20", "9 days ago", "blkctl pki rotate n2")
	refusal(t, "client", atClient, ErrRefused, "by the peer's clock the certificate of node n2", "is not valid; it is from 20")

	atServer, atClient = meet(t, n2, n1, "n2")
	refusal(t, "client", atClient, ErrExpired, "the certificate of node n2 ended on 20", "9 days ago", "blkctl pki rotate n2")
	refusal(t, "server", atServer, ErrRefused, "the certificate of node n2")
}

// expired loads files that have ended, as if they had not when they were loaded.
func expired(t *testing.T, a *Authority, files Files) *Reloader {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	must(t, err)
	id, err := identityOf(pair.Leaf)
	must(t, err)
	r := &Reloader{files: files, now: time.Now}
	r.current.Store(&material{pair: &pair, self: id, cas: a.cas})
	return r
}

// TestIdentityOfAnotherCA: a CA that is trusted vouches for its own identities
// only, and for none without the right form.
func TestIdentityOfAnotherCA(t *testing.T) {
	a := cluster(t, "prod")
	ca := a.cas.certs[0]
	key, err := a.caKeyOf(ca)
	must(t, err)
	for _, tc := range []struct {
		change func(*x509.Certificate)
		want   string
	}{
		{func(c *x509.Certificate) { c.URIs[0].Host = "0123456789abcdef" }, "claims CA 0123456789abcdef"},
		{func(c *x509.Certificate) { c.URIs = nil }, "names no node"},
		{func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, "names no node"},
		{func(c *x509.Certificate) { c.URIs[0].Path = "/root/n1" }, `no role "root"`},
	} {
		template, err := a.leaf(Request{Role: Node, Name: "n1", Lifetime: day}, ca)
		must(t, err)
		tc.change(template)
		cert, _, err := sign(template, ca, key)
		must(t, err)
		_, err = a.cas.verify(cert, x509.ExtKeyUsageServerAuth, time.Now())
		refusal(t, tc.want, err, ErrOtherCluster, tc.want)
	}
}

// TestForgedCA: another CA under the same subject is not the same CA.
func TestForgedCA(t *testing.T) {
	a, b := cluster(t, "prod"), cluster(t, "prod")
	forged := *b.cas.certs[0]
	key, err := b.caKeyOf(&forged)
	must(t, err)
	forged.Subject, forged.RawSubject = a.cas.certs[0].Subject, a.cas.certs[0].RawSubject
	template, err := a.leaf(Request{Role: Node, Name: "n1", Lifetime: day}, a.cas.certs[0])
	must(t, err)
	cert, _, err := sign(template, &forged, key)
	must(t, err)
	_, err = a.cas.verify(cert, x509.ExtKeyUsageServerAuth, time.Now())
	refusal(t, "forged", err, ErrOtherCluster, "claims CA "+a.cas.name().String(), "did not sign it")
}

func TestForeignCertificates(t *testing.T) {
	a := cluster(t, "prod")
	n1 := holder(t, a, Node, "n1")
	foreign, key, err := sign(&x509.Certificate{SerialNumber: a.template(day).SerialNumber, NotAfter: time.Now().Add(day)}, nil, nil)
	must(t, err)
	for name, tc := range map[string]struct {
		cfg    *tls.Config
		reason error
		want   string
	}{
		"none": {&tls.Config{}, ErrNoCertificate, "the peer showed no certificate"},
		"foreign": {&tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{foreign.Raw}, PrivateKey: key}, nil
		}}, ErrOtherCluster, "this is cluster prod/"},
		"TLS 1.2": {&tls.Config{MaxVersion: tls.VersionTLS12}, nil, "unsupported versions"},
	} {
		s, c := pair(t)
		tc.cfg.InsecureSkipVerify = true
		go func() {
			conn := tls.Client(c, tc.cfg)
			conn.Read(make([]byte, 1)) // whatever it says
			conn.Close()
		}()
		_, err := n1.Accept(context.Background(), s)
		if tc.reason != nil {
			refusal(t, name, err, tc.reason, tc.want)
		} else if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlainText(t *testing.T) {
	a := cluster(t, "prod")
	n1 := holder(t, a, Node, "n1")
	s, c := pair(t)
	answer := make(chan []byte, 1)
	go func() {
		c.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		buf := make([]byte, 64)
		n, _ := c.Read(buf)
		c.Close()
		answer <- buf[:n]
	}()
	_, err := n1.Accept(context.Background(), s)
	refusal(t, "server", err, ErrPlainText, "the peer speaks plain text")
	if got := <-answer; string(got) != string(wantsTLS) {
		t.Errorf("a plain client is told % x", got)
	}

	s, c = pair(t)
	go s.Write([]byte("NBDMAGIC plain text"))
	_, err = n1.Connect(context.Background(), c, "n1")
	refusal(t, "client", err, ErrPlainText, "the peer speaks plain text", c.RemoteAddr().String())
}

func TestSilentPeerEndsWithTheContext(t *testing.T) {
	n1 := holder(t, cluster(t, "prod"), Node, "n1")
	for name, shake := range map[string]func(context.Context, net.Conn) (*Conn, error){
		"server": func(ctx context.Context, c net.Conn) (*Conn, error) { return n1.Accept(ctx, c) },
		"client": func(ctx context.Context, c net.Conn) (*Conn, error) { return n1.Connect(ctx, c, "n1") },
	} {
		s, _ := pair(t)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			_, err := shake(ctx, s)
			done <- err
		}()
		cancel()
		if err := <-done; err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

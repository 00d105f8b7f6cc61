package nbd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blkd/blockdev"
)

// pki is a certificate authority for one test.
type pki struct {
	dir  string // in the layout of tls-certificates
	pool *x509.CertPool
	key  *ecdsa.PrivateKey
	ca   *x509.Certificate
}

func newPKI(t testing.TB) *pki {
	t.Helper()
	p := &pki{dir: t.TempDir(), pool: x509.NewCertPool()}
	p.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &p.key.PublicKey, p.key)
	if err != nil {
		t.Fatal(err)
	}
	p.ca, _ = x509.ParseCertificate(der)
	p.pool.AddCert(p.ca)
	p.write(t, "ca-cert.pem", "CERTIFICATE", der)
	return p
}

func (p *pki) write(t testing.TB, name, kind string, der []byte) {
	t.Helper()
	data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(filepath.Join(p.dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate and writes it as NAME-cert.pem and NAME-key.pem.
func (p *pki) issue(t testing.TB, name, host string) tls.Certificate {
	t.Helper()
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.ca, &key.PublicKey, p.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, _ := x509.MarshalPKCS8PrivateKey(key)
	p.write(t, name+"-cert.pem", "CERTIFICATE", der)
	p.write(t, name+"-key.pem", "PRIVATE KEY", pkcs8)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (p *pki) server(t testing.TB, mode TLSMode) Options {
	return Options{TLSMode: mode, TLS: &tls.Config{Certificates: []tls.Certificate{p.issue(t, "server", "localhost")}}}
}

// secure is the nbds URI of a server.
func (s *testServer) secure(name string) string {
	return "nbds" + strings.TrimPrefix(s.uri(name), "nbd")
}

func TestTLSModes(t *testing.T) {
	ca := newPKI(t)
	good := DialOptions{TLS: &tls.Config{RootCAs: ca.pool}}
	ctx := context.Background()
	for _, mode := range []TLSMode{TLSOff, TLSAllowed, TLSRequired} {
		s := startServer(t, ca.server(t, mode), blockdev.NewMemory(16<<20))
		_, err := Dial(ctx, s.uri("disk"), DialOptions{})
		if (err == nil) != (mode != TLSRequired) {
			t.Errorf("mode %d, clear text: %v", mode, err)
		}
		if mode == TLSRequired && !strings.Contains(err.Error(), "nbds://") {
			t.Errorf("the error does not say what to do: %v", err)
		}
		c, err := Dial(ctx, s.secure("disk"), good)
		if (err == nil) != (mode != TLSOff) {
			t.Errorf("mode %d, TLS: %v", mode, err)
		}
		if err == nil {
			exercise(t, c, 4)
			c.Close()
		}
	}
}

func TestTLSVerification(t *testing.T) {
	ca, foreign := newPKI(t), newPKI(t)
	opts := ca.server(t, TLSRequired)
	opts.TLS.ClientCAs, opts.TLS.ClientAuth = ca.pool, tls.RequireAndVerifyClientCert
	s := startServer(t, opts, blockdev.NewMemory(1<<20))
	ctx := context.Background()
	mine := ca.issue(t, "client", "client")
	certs := func(c tls.Certificate) []tls.Certificate { return []tls.Certificate{c} }
	for name, c := range map[string]struct {
		uri string
		tls *tls.Config
		ok  bool
	}{
		"good":                 {s.secure("disk"), &tls.Config{RootCAs: ca.pool, Certificates: certs(mine)}, true},
		"from a directory":     {s.secure("disk") + "&tls-certificates=" + ca.dir, nil, true},
		"no client cert":       {s.secure("disk"), &tls.Config{RootCAs: ca.pool}, false},
		"foreign client cert":  {s.secure("disk"), &tls.Config{RootCAs: ca.pool, Certificates: certs(foreign.issue(t, "client", "x"))}, false},
		"unknown CA":           {s.secure("disk"), &tls.Config{RootCAs: foreign.pool, Certificates: certs(mine)}, false},
		"system roots":         {s.secure("disk"), nil, false},
		"wrong name":           {s.secure("disk") + "&tls-hostname=example.org", &tls.Config{RootCAs: ca.pool, Certificates: certs(mine)}, false},
		"directory without CA": {s.secure("disk") + "&tls-certificates=/nonexistent", nil, false},
	} {
		conn, err := Dial(ctx, c.uri, DialOptions{TLS: c.tls})
		if err == nil { // TLS 1.3 tells of a refused client certificate at the first read
			err = blockdev.Flush(conn)
			conn.Close()
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTLSNoDowngrade: a client of nbds:// must not go on when STARTTLS is refused.
func TestTLSNoDowngrade(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	after := make(chan int, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		p := be.AppendUint64(be.AppendUint64(nil, magicServer), magicOption)
		nc.Write(be.AppendUint16(p, 3))
		io.ReadFull(nc, make([]byte, 4+16))
		nc.Write(appendOptionReply(nil, optStartTLS, repErrUnsup, nil))
		n, _ := nc.Read(make([]byte, 100))
		after <- n
	}()
	_, err = Dial(context.Background(), "nbds://"+l.Addr().String()+"/disk", DialOptions{})
	var refusal *OptionError
	if !errors.As(err, &refusal) || refusal.Option != optStartTLS {
		t.Errorf("Dial: %v", err)
	}
	if n := <-after; n != 0 {
		t.Errorf("the client sent %d bytes of clear text after STARTTLS was refused", n)
	}
}

func TestTLSRequiredOptions(t *testing.T) {
	s := startServer(t, newPKI(t).server(t, TLSRequired), blockdev.NewMemory(1<<20))
	r := rawOptions(t, s)
	for _, option := range []uint32{optList, optInfo, optGo, optStructuredReply, optExtendedHeaders, optListMetaContext, optSetMetaContext, 99} {
		r.refused(option, nil, repErrTLSReqd)
	}
	r.refused(optStartTLS, []byte{1}, repErrInvalid)
	r.acked(optAbort, nil)
	r.closed()
	r = rawOptions(t, s)
	r.write(appendOption(nil, optExportName, []byte("disk")))
	r.closed()
}

// TestTLSInjection: clear text that follows STARTTLS must not be taken for options,
// and what was agreed before it must be forgotten.
func TestTLSInjection(t *testing.T) {
	ca, log := newPKI(t), newLogs()
	opts := ca.server(t, TLSAllowed)
	opts.Logger = slog.New(slog.NewTextHandler(log, nil))
	s := startServer(t, opts, blockdev.NewMemory(1<<20))
	r := rawOptions(t, s)
	r.write(append(appendOption(nil, optStartTLS, nil), appendOption(nil, optStructuredReply, nil)...))
	r.closed()
	log.wait(t, "16 bytes of clear text follow STARTTLS")

	r = rawOptions(t, s)
	r.acked(optStructuredReply, nil)
	r.acked(optSetMetaContext, metaQuery("disk", contextAllocation))
	r.acked(optStartTLS, nil)
	tc := tls.Client(r.nc, &tls.Config{RootCAs: ca.pool, ServerName: "localhost"})
	r.nc = tc
	r.refused(optStartTLS, nil, repErrInvalid) // once is enough
	r.refused(optSetMetaContext, metaQuery("disk", contextAllocation), repErrInvalid)
	r.acked(optStructuredReply, nil) // not "twice"
	r.acked(optGo, goBody("disk"))
	r.request(modeStructured, wireRequest{cmd: cmdBlockStatus, length: 512}, nil)
	if a := r.answer(modeStructured, 0); a.errno != errnoInval {
		t.Errorf("a metadata context survives STARTTLS: %+v", a)
	}

	r = rawOptions(t, s)
	r.acked(optStartTLS, nil)
	r.write(appendOption(nil, optGo, goBody("disk"))) // not TLS
	log.wait(t, "TLS: ")
}

func TestInteropTLS(t *testing.T) {
	tool(t, "nbdinfo", "libnbd-bin")
	ca := newPKI(t)
	s := startServer(t, ca.server(t, TLSRequired), blockdev.NewMemory(1<<20))
	ca.issue(t, "client", "client")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	out := run(t, "nbdinfo", "nbds://localhost:"+port+"/disk?tls-certificates="+ca.dir)
	if !strings.Contains(out, "newstyle-fixed with TLS") {
		t.Errorf("nbdinfo:\n%s", out)
	}
}

package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"blkd/blockdev"
	"blkd/internal/env"
	"blkd/nbd"
)

// authority issues certificates for a test.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.issue("ca", nil)
	return a
}

// issue writes NAME.pem and NAME-key.pem, signed by the authority (or by itself).
func (a *authority) issue(name string, ips []net.IP) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: ips,
		IsCA: a.cert == nil, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+"-key.pem", "PRIVATE KEY", keyDER)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(name, kind string, der []byte) {
	a.t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(a.file(name), text, 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// client is the TLS configuration of a client that trusts the authority.
func (a *authority) client(name string) *tls.Config {
	a.t.Helper()
	cfg := &tls.Config{RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AddCert(a.cert)
	if name != "" {
		pair, err := tls.LoadX509KeyPair(a.file(name+".pem"), a.file(name+"-key.pem"))
		if err != nil {
			a.t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg
}

// try connects and reads a block.
func try(uri string, cfg *tls.Config) error {
	c, err := nbd.Dial(context.Background(), uri, nbd.DialOptions{TLS: cfg})
	if err != nil {
		return err
	}
	defer c.Close()
	return blockdev.ReadAt(c, make([]byte, 4096), 0)
}

func TestTLS(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	loopback := []net.IP{net.IPv4(127, 0, 0, 1)}
	ca.issue("server", loopback)
	ca.issue("client", nil)
	other.issue("client", nil)

	cfg := testConfig(t, "demo=16MiB")
	cfg.NBD.Listen = []string{"127.0.0.1:0"}
	cfg.NBD.TLS, cfg.NBD.TLSCert, cfg.NBD.TLSKey, cfg.NBD.TLSCA = "required", ca.file("server.pem"), ca.file("server-key.pem"), ca.file("ca.pem")
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	n := start(t, cfg, env.OS{})
	defer stop(t, n)
	uris := n.describe(n.lookup("demo")).Uris
	if len(uris) != 1 {
		t.Fatal(uris)
	}
	secure := uris[0]
	if err := try(secure, ca.client("client")); err != nil {
		t.Errorf("%s with a good certificate: %v", secure, err)
	}
	if err := try(secure, ca.client("")); err == nil {
		t.Error("served a client without a certificate")
	}
	stranger := other.client("client")
	stranger.RootCAs = ca.client("").RootCAs
	if err := try(secure, stranger); err == nil {
		t.Error("served a client of another authority")
	}
	if err := try("nbd"+secure[len("nbds"):], nil); err == nil {
		t.Error("served a client in clear text")
	}

	// A new authority takes over without a restart; broken files change nothing.
	ca.write("server.pem", "CERTIFICATE", []byte("broken"))
	if err := n.Reload(); err == nil {
		t.Error("reloaded a broken certificate")
	}
	if err := try(secure, ca.client("client")); err != nil {
		t.Errorf("after a failed reload: %v", err)
	}
	next := newAuthority(t)
	next.issue("server", loopback)
	next.issue("client", nil)
	for _, name := range []string{"server.pem", "server-key.pem", "ca.pem"} {
		text, err := os.ReadFile(next.file(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(ca.file(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := try(secure, next.client("client")); err != nil {
		t.Errorf("after a reload: %v", err)
	}
	if err := try(secure, ca.client("client")); err == nil {
		t.Error("the old authority is still trusted")
	}
}

func TestExposed(t *testing.T) {
	for _, tc := range []struct {
		network, address string
		cfg              NBDConfig
		want             bool
	}{
		{"tcp", "127.0.0.1:0", NBDConfig{TLS: "off"}, false},
		{"tcp", "0.0.0.0:0", NBDConfig{TLS: "off"}, true},
		{"tcp", "0.0.0.0:0", NBDConfig{TLS: "allowed", TLSCA: "x"}, true},
		{"tcp", "0.0.0.0:0", NBDConfig{TLS: "required"}, true},
		{"tcp", "0.0.0.0:0", NBDConfig{TLS: "required", TLSCA: "x"}, false},
		{"unix", "", NBDConfig{TLS: "off"}, false},
	} {
		l, err := net.Listen(tc.network, tc.address)
		if err != nil {
			t.Fatal(err)
		}
		if got := exposed(l, tc.cfg); got != tc.want {
			t.Errorf("%s %s %+v: %v, want %v", tc.network, tc.address, tc.cfg, got, tc.want)
		}
		l.Close()
	}
}

package attach

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"blkd/blockdev"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

// certificate makes one for localhost that vouches for itself, and a directory that
// tells clients to trust it.
func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ca-cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, dir
}

// TestRelaySpeaksTLS: to a primary that demands it, and never without when it shall.
func TestRelaySpeaksTLS(t *testing.T) {
	cert, dir := certificate(t)
	dev := blockdev.NewMemory(1 << 20)
	for _, demands := range []nbd.TLSMode{nbd.TLSRequired, nbd.TLSOff} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := nbd.NewServer(nbd.Options{TLSMode: demands, TLS: &tls.Config{Certificates: []tls.Certificate{cert}}})
		if err := server.SetExport(nbd.Export{Name: "pg", Device: dev, Open: parameters(dev)}); err != nil {
			t.Fatal(err)
		}
		go server.Serve(l)
		defer server.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		for _, secure := range []bool{true, false} {
			a := &Agent{cfg: Config{Volume: "pg", Relay: true, TLS: secure, Certificates: dir},
				record: &metapb.Volume{Id: 1, Primary: "n1"}, hosts: []string{"localhost:" + port}}
			u, err := a.dialRelay(t.Context())
			if err == nil {
				u.close()
			}
			if works := secure == (demands == nbd.TLSRequired); (err == nil) != works {
				t.Errorf("server %v, relay with TLS %v: %v", demands, secure, err)
			}
			if !secure && demands == nbd.TLSRequired && !errors.Is(err, ErrTLSRequired) {
				t.Errorf("the refusal is %v", err)
			}
		}
	}
}

// TestTLSIsMissing: what can only fail is not tried again, unless a device waits for it.
func TestTLSIsMissing(t *testing.T) {
	for device, want := range map[string]int{"": 1, "/dev/nbd0": 2} {
		a := &Agent{cfg: Config{Log: slog.New(slog.DiscardHandler), Waits: func(error) {}}, state: State{Device: device}}
		tried := 0
		err := a.retry(t.Context(), nil, "", func() error {
			if tried++; tried == 2 {
				return nil
			}
			return fmt.Errorf("n1: %w", ErrTLSRequired)
		})
		if tried != want || (err == nil) != (want == 2) {
			t.Errorf("with device %q: tried %d times, %v", device, tried, err)
		}
	}
}

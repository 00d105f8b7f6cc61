package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blkd/internal/pki"
)

// TestCertificateProblems: what ends soon, and a key that everybody may read, is
// told with the command that helps.
func TestCertificateProblems(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	ca, err := pki.Init(dir, "prod", pki.CALifetime)
	if err != nil {
		t.Fatal(err)
	}
	defer ca.Close()
	load := func(name string, lifetime time.Duration) *member {
		t.Helper()
		if _, err := ca.Issue(pki.Request{Role: pki.Node, Name: name, Lifetime: lifetime}); err != nil {
			t.Fatal(err)
		}
		files, err := pki.FilesIn(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		certs, err := pki.NewReloader(files)
		if err != nil {
			t.Fatal(err)
		}
		return &member{certs: certs}
	}
	if p := (&member{}).certificateProblems(); len(p) != 0 {
		t.Errorf("without certificates: %v", p)
	}
	if p := load("n1", pki.CertificateLifetime).certificateProblems(); len(p) != 0 {
		t.Errorf("with a fresh certificate: %v", p)
	}
	m := load("n2", time.Minute) // it counts from 5 minutes ago, so this is its last third
	p := m.certificateProblems()
	if len(p) != 1 || p[0].Code != "certificate_ends" || p[0].Advice != "blkctl pki rotate n2" || !strings.Contains(p[0].Text, "node n2 ends in") {
		t.Errorf("with one that ends: %v", p)
	}
	if err := os.Chmod(filepath.Join(dir, "n2", "n2.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if p := m.certificateProblems(); len(p) != 2 || p[1].Code != "key_readable" {
		t.Errorf("with a key that all may read: %v", p)
	}
}

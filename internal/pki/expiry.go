package pki

import (
	"crypto/x509"
	"fmt"
	"os"
	"time"
)

// Expiry is when a certificate in use ends.
type Expiry struct {
	Holder   string // e.g. "node n1", "CA prod/3f9a1c0d2b7e4a55"
	NotAfter time.Time
}

// Expiries are those of this process's certificate, which is the first, and of
// each CA that it trusts.
func (r *Reloader) Expiries() []Expiry {
	m := r.current.Load()
	list := []Expiry{{m.self.String(), m.pair.Leaf.NotAfter}}
	for _, ca := range m.cas.certs {
		list = append(list, Expiry{holderOf(ca), ca.NotAfter})
	}
	return list
}

// Problem is something that needs attention soon.
type Problem struct {
	Code   string // certificate_ends, ca_ends or key_readable
	Text   string
	Advice string // the command that helps
}

// Problems lists what an operator should do about the files in use. It looks at
// the mode of the key's file, so it is not free; ask when somebody looks.
func (r *Reloader) Problems() []Problem {
	m, now := r.current.Load(), r.now()
	var list []Problem
	if p := endsSoon(m.pair.Leaf, now); p != "" {
		list = append(list, Problem{"certificate_ends", p, rotateCommand(m.pair.Leaf)})
	}
	for _, ca := range m.cas.certs {
		if p := endsSoon(ca, now); p != "" {
			list = append(list, Problem{"ca_ends", p, rotateCommand(ca)})
		}
	}
	if info, err := os.Stat(r.files.Key); err == nil && info.Mode().Perm()&0o007 != 0 {
		list = append(list, Problem{"key_readable", fmt.Sprintf("every user may open the private key %s (mode %04o)", r.files.Key, info.Mode().Perm()),
			"chmod 600 " + r.files.Key + "; then blkctl pki rotate " + m.self.Name})
	}
	return list
}

// Before the end there is a warning: the last third of the lifetime, at most so
// long.
const (
	warnCertificate = 30 * 24 * time.Hour
	warnCA          = 365 * 24 * time.Hour // no certificate outlives its CA, so a year before
)

// endsSoon says so if the certificate has ended or soon will; else it is empty.
func endsSoon(cert *x509.Certificate, now time.Time) string {
	warn := warnCertificate
	if cert.IsCA {
		warn = warnCA
	}
	left := cert.NotAfter.Sub(now)
	switch {
	case left <= 0:
		return fmt.Sprintf("%s ended %s ago", holderOf(cert), roughly(-left))
	case left <= min(warn, cert.NotAfter.Sub(cert.NotBefore)/3):
		return fmt.Sprintf("%s ends in %s", holderOf(cert), roughly(left))
	}
	return ""
}

package pki

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Rotate issues a certificate again, with a new key, signed by the newest CA.
// Hosts are kept unless there are new ones.
func (a *Authority) Rotate(name string, hosts []string, lifetime time.Duration) (*Certificate, error) {
	if !nameRule.MatchString(name) {
		return nil, invalid("%q cannot be a name: %s", name, nameHelp)
	}
	if _, err := os.Stat(a.certFile(name)); errors.Is(err, os.ErrNotExist) {
		return nil, &Error{Reason: ErrNotFound, Text: "nothing was issued to " + name + " in " + a.dir, Next: "blkctl pki list"}
	}
	old := a.certificate(name)
	if old.Role == "" {
		return nil, &Error{Reason: ErrBadFile, Text: a.certFile(name) + ": " + old.Problem, Next: old.Advice}
	}
	if len(hosts) == 0 {
		hosts = old.Hosts
	} else if old.Role != Node {
		return nil, invalid("hosts are for nodes, and %s is not one", old.Identity)
	}
	return a.issue(Request{Role: old.Role, Name: name, Hosts: hosts, Lifetime: lifetime}, a.cas.certs[0])
}

// AddCA begins the change to a new CA: it puts one beside the old, and both into
// every holder's ca.crt. Certificates stay signed by the old CA. The change goes
// on, with no moment in which two holders do not trust each other, so:
//
//  1. AddCA; every holder gets the new ca.crt and reads it.
//  2. Rotate of everyone; every holder gets its new pair and reads it, one after
//     the other.
//  3. DropCA; every holder gets the new ca.crt and reads it.
//
// When a change is under way, AddCA makes no third CA and only repeats the copies.
func (a *Authority) AddCA(lifetime time.Duration) error {
	if a.Changing() {
		return a.copyCAs()
	}
	if err := checkLifetime(lifetime); err != nil {
		return err
	}
	old := a.cas.certs[0]
	oldKey, err := a.caKeyOf(old)
	if err != nil {
		return err
	}
	cert, key, err := a.newCA(a.Cluster(), lifetime)
	if err != nil {
		return err
	}
	if err := a.replaceCAs([]*x509.Certificate{cert, old}, []crypto.Signer{key, oldKey}); err != nil {
		return err
	}
	return a.copyCAs()
}

// Changing tells whether a change of the CA has begun and not ended.
func (a *Authority) Changing() bool { return len(a.cas.certs) > 1 }

// SignedByOld lists who still has a certificate, valid now, of another than the
// newest CA.
func (a *Authority) SignedByOld() ([]string, error) {
	list, err := a.List()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range list {
		if c.Role != "" && c.CA != a.cas.name().id && c.NotAfter.After(a.now()) {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

// DropCA ends the change: it takes the old CA and its key away and writes every
// holder's ca.crt. It refuses, with ErrInUse, while a certificate is signed by
// the old CA.
func (a *Authority) DropCA() error {
	if !a.Changing() {
		return a.copyCAs() // repeated, or interrupted before
	}
	names, err := a.SignedByOld()
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return &Error{Reason: ErrInUse, Text: fmt.Sprintf("the old CA still signs for %s", strings.Join(names, ", ")),
			Next: "blkctl pki rotate --all, and copy the new pairs; then again"}
	}
	key, err := a.caKeyOf(a.cas.certs[0])
	if err != nil {
		return err
	}
	if err := a.replaceCAs(slices.Clone(a.cas.certs[:1]), []crypto.Signer{key}); err != nil {
		return err
	}
	return a.copyCAs()
}

// copyCAs gives every holder the CAs to trust.
func (a *Authority) copyCAs() error {
	list, err := a.List()
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Role == "" {
			continue
		}
		if err := a.copyCA(c.Name); err != nil {
			return err
		}
	}
	return nil
}

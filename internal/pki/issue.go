package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
)

// Request is a certificate to issue.
type Request struct {
	Role     Role
	Name     string
	Hosts    []string      // nodes only: addresses that NBD clients dial, besides this machine's own
	Lifetime time.Duration // how long it shall be valid; it never outlives the CA
}

const nameHelp = "use 1 to 63 letters, digits, dots, dashes and underscores, a letter or digit first"

// Issue makes a key and a certificate and writes them to the directory NAME, with
// ca.crt. It refuses, with ErrExists, a name that was issued before.
//
// While the CA is changed it signs with the old CA, which everyone trusts until
// the last step; Rotate signs with the new one.
func (a *Authority) Issue(r Request) (*Certificate, error) {
	switch {
	case !nameRule.MatchString(r.Name) || strings.HasPrefix(r.Name, "ca."):
		return nil, invalid("%q cannot be a name: %s (and not ca.)", r.Name, nameHelp)
	case r.Role == Node && r.Name != strings.ToLower(r.Name):
		return nil, invalid("%q cannot be the name of a node: write it in small letters", r.Name)
	case r.Role != Node && len(r.Hosts) > 0:
		return nil, invalid("hosts are for nodes; %s are not dialed", string(r.Role)+"s")
	}
	if _, err := os.Lstat(a.certFile(r.Name)); !errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Reason: ErrExists, Text: r.Name + " was issued before: " + a.path(r.Name), Next: "blkctl pki rotate " + r.Name + ", or choose another name"}
	}
	ca := a.cas.certs[len(a.cas.certs)-1]
	if !ca.NotAfter.After(a.now()) {
		ca = a.cas.certs[0]
	}
	return a.issue(r, ca)
}

// issue makes the pair and writes it. Between the two renames the files do not
// belong together; who reads them then keeps what it has, or says so.
func (a *Authority) issue(r Request, ca *x509.Certificate) (*Certificate, error) {
	template, err := a.leaf(r, ca)
	if err != nil {
		return nil, err
	}
	caKey, err := a.caKeyOf(ca)
	if err != nil {
		return nil, err
	}
	cert, key, err := sign(template, ca, caKey)
	if err != nil {
		return nil, err
	}
	secret, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.path(r.Name), 0o700); err != nil {
		return nil, err
	}
	if err := writeFile(a.keyFile(r.Name), 0o600, secret); err != nil {
		return nil, err
	}
	if err := writeFile(a.certFile(r.Name), 0o644, certPEM(cert)); err != nil {
		return nil, err
	}
	if err := a.copyCA(r.Name); err != nil {
		return nil, err
	}
	if r.Role == Client {
		if err := a.linkForNBD(r.Name); err != nil {
			return nil, err
		}
	}
	return a.certificate(r.Name), nil
}

// leaf is the certificate to be. It has no key usage: old releases of QEMU want
// one there that the key has no use for, or none at all.
func (a *Authority) leaf(r Request, ca *x509.Certificate) (*x509.Certificate, error) {
	if err := checkLifetime(r.Lifetime); err != nil {
		return nil, err
	}
	issuer, _ := caNameOf(ca.Subject)
	t := a.template(r.Lifetime)
	if t.NotAfter.After(ca.NotAfter) {
		t.NotAfter = ca.NotAfter
	}
	if !t.NotAfter.After(a.now()) {
		return nil, outsideItsTime(ca, a.now())
	}
	uri, err := url.Parse(Identity{Role: r.Role, Name: r.Name, CA: issuer.id}.URI())
	if err != nil {
		return nil, err
	}
	t.URIs = []*url.URL{uri}
	t.Subject = pkix.Name{CommonName: r.Name, Organization: []string{issuer.cluster}, OrganizationalUnit: []string{string(r.Role)}}
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if r.Role != Node {
		return t, nil
	}
	t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	t.DNSNames = []string{"localhost"}
	t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	return t, addHosts(t, r.Hosts)
}

var hostRule = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)*$`)

func addHosts(t *x509.Certificate, hosts []string) error {
	for _, h := range hosts {
		ip := net.ParseIP(h)
		switch {
		case h == "localhost" || ip.IsLoopback():
		case ip != nil:
			t.IPAddresses = append(t.IPAddresses, ip)
		case len(h) <= 253 && hostRule.MatchString(h):
			t.DNSNames = append(t.DNSNames, h)
		default:
			return invalid("%q is neither a host name nor an IP address; leave a port out", h)
		}
	}
	return nil
}

// linkForNBD gives the files the names too that QEMU and libnbd look for.
func (a *Authority) linkForNBD(name string) error {
	for link, target := range map[string]string{"ca-cert.pem": caCert, "client-cert.pem": name + certEnd, "client-key.pem": name + keyEnd} {
		if err := os.Symlink(target, a.path(name, link)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func (a *Authority) certFile(name string) string { return a.path(name, name+certEnd) }

func (a *Authority) keyFile(name string) string { return a.path(name, name+keyEnd) }

// copyCA gives a holder the CAs to trust.
func (a *Authority) copyCA(name string) error {
	return writeFile(a.path(name, caCert), 0o644, a.cas.pem())
}

func checkLifetime(d time.Duration) error {
	if d <= 0 || d > 100*CertificateLifetime {
		return invalid("a lifetime of %d days is not between 1 and %d", d/(24*time.Hour), 100*CertificateLifetime/(24*time.Hour))
	}
	return nil
}

func invalid(format string, args ...any) error {
	return &Error{Reason: ErrInvalid, Text: fmt.Sprintf(format, args...)}
}

package pki

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"time"
)

// Certificate is one that was issued, or a CA.
type Certificate struct {
	Identity            // of a CA: no role, the cluster's name, its own id
	Serial    string    // 16 hexadecimal digits
	Hosts     []string  // addresses besides this machine's own
	NotBefore time.Time // UTC
	NotAfter  time.Time // UTC
	Dir       string    // where its files are
	Problem   string    // what is wrong, or soon will be; may be empty
	Advice    string    // what to do about it
}

// DaysLeft is how long it is valid from now on, in whole days; negative when it
// has ended.
func (c *Certificate) DaysLeft(now time.Time) int {
	const day = 24 * time.Hour
	return int((c.NotAfter.Sub(now) + day/2) / day)
}

// CAs lists the CAs that are trusted, the newest first.
func (a *Authority) CAs() []*Certificate {
	var out []*Certificate
	for i, cert := range a.cas.certs {
		name, _ := caNameOf(cert.Subject)
		c := describe(cert, Identity{Name: name.cluster, CA: name.id}, a.dir)
		if p := endsSoon(cert, a.now()); p != "" && i == 0 {
			c.Problem, c.Advice = p, rotateCommand(cert)
		}
		if i > 0 {
			c.Problem, c.Advice = "to be dropped when nobody's certificate is signed by it", "blkctl pki rotate --ca says what is next"
		}
		out = append(out, c)
	}
	return out
}

// List lists what was issued, by name. Files that cannot be read are listed with
// the problem and no role.
func (a *Authority) List() ([]*Certificate, error) {
	entries, err := os.ReadDir(a.dir)
	if err != nil {
		return nil, err
	}
	var out []*Certificate
	for _, e := range entries {
		if e.IsDir() && nameRule.MatchString(e.Name()) {
			out = append(out, a.certificate(e.Name()))
		}
	}
	slices.SortFunc(out, func(x, y *Certificate) int { return bytes.Compare([]byte(x.Name), []byte(y.Name)) })
	return out, nil
}

// certificate describes the files of one holder.
func (a *Authority) certificate(name string) *Certificate {
	cert, err := readCertificate(a.certFile(name))
	if err != nil {
		return &Certificate{Identity: Identity{Name: name}, Dir: a.path(name), Problem: err.Error(), Advice: "delete " + a.path(name) + " and issue it again"}
	}
	id, err := identityOf(cert)
	if err != nil || id.Name != name {
		return &Certificate{Identity: Identity{Name: name}, Dir: a.path(name), Problem: "the certificate there is of somebody else",
			Advice: "delete " + a.path(name) + " and issue it again"}
	}
	c := describe(cert, id, a.path(name))
	c.Problem, c.Advice = a.problem(cert, id)
	return c
}

func describe(cert *x509.Certificate, id Identity, dir string) *Certificate {
	c := &Certificate{Identity: id, Serial: fmt.Sprintf("%016x", cert.SerialNumber), Hosts: []string{},
		NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(), Dir: dir}
	for _, n := range cert.DNSNames {
		if n != "localhost" {
			c.Hosts = append(c.Hosts, n)
		}
	}
	for _, ip := range cert.IPAddresses {
		if !ip.IsLoopback() {
			c.Hosts = append(c.Hosts, ip.String())
		}
	}
	return c
}

// problem finds what is wrong with the files of one holder, the worst first.
func (a *Authority) problem(cert *x509.Certificate, id Identity) (text, advice string) {
	rotate := rotateCommand(cert)
	issuer, _ := caNameOf(cert.Issuer)
	keys, err := readKeys(a.keyFile(id.Name)) // it may be elsewhere only, which is fine
	switch {
	case !a.cas.has(issuer):
		return fmt.Sprintf("signed by CA %s, which ca.crt does not hold", issuer), rotate
	case endsSoon(cert, a.now()) != "":
		return endsSoon(cert, a.now()), rotate
	case err == nil && !belongTo(cert, keys[0]):
		return "certificate and key do not belong together", rotate
	case err == nil && a.readable(id.Name):
		return "others may read its key", "chmod 600 " + a.keyFile(id.Name) + "; then " + rotate
	case issuer != a.cas.name():
		return "signed by the old CA " + issuer.String(), "blkctl pki rotate --ca says what is next"
	}
	if copied, err := readFile(a.path(id.Name, caCert)); err != nil || !bytes.Equal(copied, a.cas.pem()) {
		return "its ca.crt is not the current one", "cp " + a.path(caCert) + " " + a.path(id.Name, caCert)
	}
	return "", ""
}

func (a *Authority) readable(name string) bool {
	info, err := os.Stat(a.keyFile(name))
	return err == nil && info.Mode().Perm()&0o077 != 0
}

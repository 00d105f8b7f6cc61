package pki

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
)

// caName is what tells one CA from another.
type caName struct {
	cluster string
	id      string // 16 hexadecimal digits, random
}

func (n caName) String() string { return n.cluster + "/" + n.id }

// subject is the name as a certificate holds it.
func (n caName) subject() pkix.Name {
	return pkix.Name{CommonName: "blkd CA of " + n.cluster, Organization: []string{n.cluster}, SerialNumber: n.id}
}

// caNameOf reads a subject or issuer; ok is false if it is none of ours.
func caNameOf(s pkix.Name) (n caName, ok bool) {
	if len(s.Organization) != 1 {
		return caName{}, false
	}
	n = caName{cluster: s.Organization[0], id: s.SerialNumber}
	return n, nameRule.MatchString(n.cluster) && caIDRule.MatchString(n.id) && s.CommonName == n.subject().CommonName
}

// bundle is the CAs that are trusted: one, or while the CA is changed two, the
// new one first. All are of one cluster.
type bundle struct {
	certs []*x509.Certificate
	pool  *x509.CertPool
}

// readBundle reads the CA certificates of a PEM file.
func readBundle(file string) (*bundle, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, &Error{Reason: ErrBadFile, Text: fmt.Sprintf("reading the CA: %v", err), Next: "blkctl pki init, or copy ca.crt there"}
	}
	b, err := parseBundle(text)
	if err != nil {
		return nil, &Error{Reason: ErrBadFile, Text: fmt.Sprintf("%s: %v", file, err), Next: "copy ca.crt there again"}
	}
	return b, nil
}

func parseBundle(text []byte) (*bundle, error) {
	b := &bundle{pool: x509.NewCertPool()}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		name, ok := caNameOf(cert.Subject)
		if !ok || !cert.IsCA || !bytes.Equal(cert.RawSubject, cert.RawIssuer) {
			return nil, fmt.Errorf("%q is not the CA of a blkd cluster", cert.Subject)
		}
		if len(b.certs) > 0 && name.cluster != b.name().cluster {
			return nil, fmt.Errorf("it holds CAs of two clusters, %s and %s", b.name(), name)
		}
		b.certs = append(b.certs, cert)
		b.pool.AddCert(cert)
	}
	if len(b.certs) == 0 {
		return nil, fmt.Errorf("it holds no PEM certificate")
	}
	return b, nil
}

// name is that of the newest CA.
func (b *bundle) name() caName {
	n, ok := caNameOf(b.certs[0].Subject)
	if !ok {
		panic("pki: a bundle holds a CA without a name")
	}
	return n
}

// has tells whether a CA with the name is trusted.
func (b *bundle) has(n caName) bool {
	for _, c := range b.certs {
		if own, ok := caNameOf(c.Subject); ok && own == n {
			return true
		}
	}
	return false
}

// pem is the bundle as a file holds it.
func (b *bundle) pem() []byte {
	var out bytes.Buffer
	for _, c := range b.certs {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: c.Raw}))
	}
	return out.Bytes()
}

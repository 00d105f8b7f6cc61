package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// verify checks a certificate against the trusted CAs and returns who holds it.
// The usage is what its holder does in this connection.
func (b *bundle) verify(cert *x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (Identity, error) {
	chains, err := cert.Verify(x509.VerifyOptions{Roots: b.pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return Identity{}, b.explain(cert, err, now)
	}
	return identityIn(chains)
}

// identityIn reads the identity of verified chains. A CA vouches for identities
// that bear its own id, no others.
func identityIn(chains [][]*x509.Certificate) (Identity, error) {
	if len(chains) == 0 {
		return Identity{}, &Error{Reason: ErrNoCertificate, Text: "the peer showed no certificate"}
	}
	cert := chains[0][0]
	id, err := identityOf(cert)
	if err != nil {
		return Identity{}, err
	}
	for _, chain := range chains {
		if ca, ok := caNameOf(chain[len(chain)-1].Subject); ok && ca.id == id.CA {
			return id, nil
		}
	}
	return Identity{}, &Error{Reason: ErrOtherCluster,
		Text: fmt.Sprintf("the certificate of %s claims CA %s, but another signed it", id, id.CA)}
}

// explain says why a certificate did not verify.
func (b *bundle) explain(cert *x509.Certificate, err error, now time.Time) error {
	holder := holderOf(cert)
	issuer, ours := caNameOf(cert.Issuer)
	var invalid x509.CertificateInvalidError
	isInvalid := errors.As(err, &invalid)
	switch {
	case !ours:
		return &Error{Reason: ErrOtherCluster, Text: fmt.Sprintf("%s is signed by %q; this is cluster %s", holder, cert.Issuer, b.name())}
	case !b.has(issuer):
		return b.otherCA(holder, issuer)
	case isInvalid && invalid.Reason == x509.Expired:
		if invalid.Cert == nil {
			invalid.Cert = cert
		}
		return outsideItsTime(invalid.Cert, now)
	case isInvalid && invalid.Reason == x509.IncompatibleUsage:
		return &Error{Reason: ErrRole, Text: holder + " may not be used for this: only nodes are servers"}
	}
	return &Error{Reason: ErrOtherCluster, Text: fmt.Sprintf("%s claims CA %s, but that did not sign it: %v", holder, issuer, err)}
}

func (b *bundle) otherCA(holder string, issuer caName) error {
	e := &Error{Reason: ErrOtherCluster, Text: fmt.Sprintf("%s is signed by CA %s, this is %s", holder, issuer, b.name())}
	if issuer.cluster == b.name().cluster { // another cluster of that name, or a CA change half way
		e.Next = "if the CA is being changed, copy the newest ca.crt and certificates to both sides and reload them"
	}
	return e
}

// outsideItsTime is the refusal of a certificate that has ended or not begun.
func outsideItsTime(cert *x509.Certificate, now time.Time) error {
	holder := holderOf(cert)
	if now.Before(cert.NotBefore) {
		return &Error{Reason: ErrExpired, Text: fmt.Sprintf("%s begins on %s and it is %s here", holder, moment(cert.NotBefore), moment(now)),
			Next: "compare the clocks"}
	}
	return &Error{Reason: ErrExpired, Text: fmt.Sprintf("%s ended on %s, %s ago", holder, moment(cert.NotAfter), roughly(now.Sub(cert.NotAfter))),
		Next: rotateCommand(cert)}
}

// holderOf names a certificate in messages.
func holderOf(cert *x509.Certificate) string {
	if ca, ok := caNameOf(cert.Subject); ok && cert.IsCA {
		return "CA " + ca.String()
	}
	id, err := identityOf(cert)
	if err != nil {
		return fmt.Sprintf("certificate %q", cert.Subject)
	}
	return "the certificate of " + id.String()
}

// rotateCommand is what replaces a certificate.
func rotateCommand(cert *x509.Certificate) string {
	id, err := identityOf(cert)
	switch {
	case cert.IsCA:
		return "blkctl pki rotate --ca"
	case err != nil:
		return ""
	}
	return "blkctl pki rotate " + id.Name
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// roughly is a duration, not negative, in the unit that people would use.
func roughly(d time.Duration) string {
	const day = 24 * time.Hour
	n, unit := int64(d/time.Minute), "minute"
	switch {
	case d >= 2*day:
		n, unit = int64((d+day/2)/day), "day"
	case d >= 2*time.Hour:
		n, unit = int64((d+time.Hour/2)/time.Hour), "hour"
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", n, unit)
}

package pki

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
)

// explain turns an error of a TLS handshake, or of the first read after it, into
// an [*Error] if it is a refusal. It returns other errors as they are.
func (m *material) explain(err error, r *Reloader) error {
	var own *Error
	var chain *tls.CertificateVerificationError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &chain):
		return m.cas.explain(chain.UnverifiedCertificates[0], chain.Err, r.now())
	case errors.As(err, &plain):
		return &Error{Reason: ErrPlainText, Text: "the peer speaks plain text, this side TLS",
			Next: "give the peer a certificate, blkctl pki issue, and compare the ports"}
	case strings.Contains(err.Error(), "client didn't provide a certificate"): // crypto/tls has no type for it
		return &Error{Reason: ErrNoCertificate, Text: "the peer showed no certificate; this is cluster " + m.cas.name().String(),
			Next: "blkctl pki issue, and give the peer the files"}
	}
	if alert, ok := remoteAlert(err); ok {
		return m.explainAlert(alert)
	}
	return err
}

// remoteAlert returns the text of the TLS alert that the peer ended with.
func remoteAlert(err error) (string, bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return "", false
	}
	return op.Err.Error(), true
}

// Alerts about certificates, RFC 8446 section 6.
const (
	alertBadCertificate      tls.AlertError = 42
	alertExpired             tls.AlertError = 45
	alertUnknownCA           tls.AlertError = 48
	alertCertificateRequired tls.AlertError = 116
)

// explainAlert says what the peer most likely dislikes. The alert is all it tells
// to one that it does not trust.
func (m *material) explainAlert(alert string) error {
	e := &Error{Reason: ErrRefused}
	whose := fmt.Sprintf("the certificate of %s (CA %s/%s)", m.self, m.cas.name().cluster, m.self.CA)
	switch alert {
	case alertUnknownCA.Error():
		e.Text = "the peer does not know the CA of " + whose
		e.Next = "copy ca.crt to the peer and reload it, if it is of this cluster"
	case alertExpired.Error():
		e.Text = fmt.Sprintf("by the peer's clock %s is not valid; it is from %s to %s", whose, moment(m.pair.Leaf.NotBefore), moment(m.pair.Leaf.NotAfter))
		e.Next = "compare the clocks, or blkctl pki rotate " + m.self.Name
	case alertBadCertificate.Error():
		e.Text = "the peer refuses " + whose
		e.Next = "look at the peer's log, which says why"
	case alertCertificateRequired.Error():
		e.Text = "the peer wants a certificate and was shown none"
		e.Next = "blkctl pki issue"
	default:
		e.Text = fmt.Sprintf("the peer ended the TLS handshake: %s", alert)
		e.Next = "look at the peer's log, which says why"
	}
	return e
}

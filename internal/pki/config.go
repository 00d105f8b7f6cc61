package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
)

// ServerConfig is for servers: TLS 1.3, a certificate of this cluster wanted from
// every client, and one of the roles accept; without any, all roles are welcome.
// Every handshake uses what was loaded last. Resumption is off, so every
// connection is verified in full.
func (r *Reloader) ServerConfig(accept ...Role) *tls.Config { return r.serverConfig(nil, accept) }

func (r *Reloader) serverConfig(protocols []string, accept []Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return r.current.Load().server(r, protocols, accept), nil
		},
	}
}

func (m *material) server(r *Reloader, protocols []string, accept []Role) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protocols,
		Time:                   r.now,
		Certificates:           []tls.Certificate{*m.pair},
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              m.cas.pool,
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := identityIn(cs.VerifiedChains)
			if err != nil {
				return err
			}
			if len(accept) > 0 && !slices.Contains(accept, id.Role) {
				return &Error{Reason: ErrRole, Text: fmt.Sprintf("the certificate is of %s; this port is for the role %s", id, list(accept))}
			}
			return nil
		},
	}
}

// ClientConfig is for clients: TLS 1.3, and the server must be the node of that
// name, or, if it is empty, any node of this cluster. Every handshake uses what
// was loaded last. To understand a refusal by the server use [Reloader.Connect],
// or [Reloader.ClientCredentials], which do more than this.
func (r *Reloader) ClientConfig(node string) *tls.Config { return r.clientConfig(nil, node) }

func (r *Reloader) clientConfig(protocols []string, node string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protocols,
		Time:       r.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return r.current.Load().pair, nil
		},
		// Go would verify the host name. Here the identity counts: VerifyConnection
		// verifies it, and the chain.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := r.current.Load().cas.verify(cs.PeerCertificates[0], x509.ExtKeyUsageServerAuth, r.now())
			if err != nil {
				return err
			}
			return isNode(id, node)
		},
	}
}

// isNode refuses a server that is not the node that was meant.
func isNode(id Identity, node string) error {
	switch {
	case id.Role != Node:
		return &Error{Reason: ErrRole, Text: fmt.Sprintf("the certificate is of %s, which is not a node", id)}
	case node != "" && id.Name != node:
		return &Error{Reason: ErrOtherName, Text: fmt.Sprintf("%s answers here, not node %s", id, node),
			Next: "compare the addresses and the certificate files of both nodes"}
	}
	return nil
}

// list is roles for messages.
func list(roles []Role) string {
	text := string(roles[0])
	for _, r := range roles[1:] {
		text += " or " + string(r)
	}
	return text
}

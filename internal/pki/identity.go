package pki

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"regexp"
	"strings"
)

// Role is what the holder of a certificate may be.
type Role string

// The roles.
const (
	Node   Role = "node"   // runs blkd; the only role that others accept as a server
	Admin  Role = "admin"  // an operator, with blkctl
	Client Role = "client" // a client of NBD
)

// Roles lists the roles.
var Roles = []Role{Node, Admin, Client}

// Identity is who a certificate says its holder is. The zero Identity is nobody:
// a peer without a certificate.
type Identity struct {
	Role Role
	Name string // unique within the role
	CA   string // id of the CA that vouches for it
}

const scheme = "blkd://"

var (
	nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	caIDRule = regexp.MustCompile(`^[0-9a-f]{16}$`)
)

// ParseIdentity reads the form that String writes, and no other.
func ParseIdentity(uri string) (Identity, error) {
	rest, ok := strings.CutPrefix(uri, scheme)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return Identity{}, fmt.Errorf("identity %q is not of the form %sCA/ROLE/NAME", uri, scheme)
	}
	id := Identity{CA: parts[0], Role: Role(parts[1]), Name: parts[2]}
	switch {
	case !caIDRule.MatchString(id.CA):
		return Identity{}, fmt.Errorf("identity %q: %q is no id of a CA", uri, id.CA)
	case id.Role != Node && id.Role != Admin && id.Role != Client:
		return Identity{}, fmt.Errorf("identity %q: there is no role %q", uri, id.Role)
	case !nameRule.MatchString(id.Name):
		return Identity{}, fmt.Errorf("identity %q: %q is no name", uri, id.Name)
	}
	return id, nil
}

// URI is the identity as certificates hold it: blkd://CA/ROLE/NAME.
func (id Identity) URI() string { return scheme + id.CA + "/" + string(id.Role) + "/" + id.Name }

// String is the identity as messages name it, e.g. "node n1".
func (id Identity) String() string {
	if id == (Identity{}) {
		return "nobody"
	}
	return string(id.Role) + " " + id.Name
}

// Check returns an [*Error] unless the identity has the role and, if name is not
// empty, the name. It is for calls in which a peer says who it is.
func (id Identity) Check(role Role, name string) error {
	switch {
	case id == (Identity{}):
		return &Error{Reason: ErrNoCertificate, Text: fmt.Sprintf("only %s may do this, and the peer showed no certificate", wanted(role, name)),
			Next: issueCommand(role, name)}
	case id.Role != role:
		return &Error{Reason: ErrRole, Text: fmt.Sprintf("the certificate is of %s, and only %s may do this", id, wanted(role, name)),
			Next: issueCommand(role, name)}
	case name != "" && id.Name != name:
		return &Error{Reason: ErrOtherName, Text: fmt.Sprintf("the certificate is of %s, not of %s %s", id, role, name),
			Next: "compare names, addresses and certificate files of both"}
	}
	return nil
}

// wanted names a role, or one holder of it.
func wanted(role Role, name string) string {
	if name != "" {
		return string(role) + " " + name
	}
	if role == Admin {
		return "an " + string(role)
	}
	return "a " + string(role)
}

func issueCommand(role Role, name string) string {
	if name == "" {
		name = "NAME"
	}
	return fmt.Sprintf("blkctl pki issue %s %s", role, name)
}

// PeerIdentity tells who the peer of a connection is that was made with the
// configurations of a [Reloader]: they have verified it.
func PeerIdentity(cs tls.ConnectionState) (Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, &Error{Reason: ErrNoCertificate, Text: "the peer showed no certificate"}
	}
	return identityOf(cs.PeerCertificates[0])
}

// identityOf reads the identity that a certificate claims.
func identityOf(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 {
		return Identity{}, &Error{Reason: ErrOtherCluster,
			Text: fmt.Sprintf("certificate %q names no node, admin or client of a blkd cluster", cert.Subject)}
	}
	id, err := ParseIdentity(cert.URIs[0].String())
	if err != nil {
		return Identity{}, &Error{Reason: ErrOtherCluster, Text: fmt.Sprintf("certificate %q: %v", cert.Subject, err)}
	}
	return id, nil
}

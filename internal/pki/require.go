package pki

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// RequireTLS is asked before addresses are served or dialed without TLS: it is
// nil if all of them stay on this machine, or if insecure says that the operator
// wants it so. Addresses are HOST:PORT or unix:PATH. A host name other than
// localhost counts as another machine; nothing is looked up.
func RequireTLS(addresses []string, insecure bool) error {
	if insecure {
		return nil
	}
	for _, a := range addresses {
		if staysHere(a) {
			continue
		}
		host, _, err := net.SplitHostPort(a)
		if err != nil || host == "" {
			host = "ADDRESS"
		}
		return &Error{Reason: ErrPlainText, Text: fmt.Sprintf("%s can be reached over the network and there are no certificates for it", a),
			Next: fmt.Sprintf("blkctl pki init, then for each node blkctl pki issue node NAME --host %s; or --insecure, if all who reach the network may read and write everything", host)}
	}
	return nil
}

// staysHere tells whether only this machine can reach an address.
func staysHere(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

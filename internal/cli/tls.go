package cli

import (
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"

	"blkd/internal/pki"
)

// tlsFiles are the flags that say how blkctl proves to a node who it is.
type tlsFiles struct {
	dir           string // holds all three
	cert, key, ca string
	insecure      bool
}

// credentials are those for the nodes of --node: with certificates TLS, else
// plain text, which wants an address of this machine or --insecure.
func (a *app) credentials() (credentials.TransportCredentials, error) {
	t := a.tls
	switch {
	case t.dir != "" && (t.cert != "" || t.key != "" || t.ca != ""):
		return nil, &Error{Code: Usage, Text: "--tls-dir holds all three files: take --tls-cert, --tls-key and --tls-ca away"}
	case t.dir != "":
		files, err := pki.FilesIn(t.dir)
		if err != nil {
			return nil, certificateError(err)
		}
		return clientCredentials(files)
	case t.cert != "" && t.key != "" && t.ca != "":
		return clientCredentials(pki.Files{Cert: t.cert, Key: t.key, CA: t.ca})
	case t.cert != "" || t.key != "" || t.ca != "":
		return nil, &Error{Code: Usage, Text: "--tls-cert, --tls-key and --tls-ca go together", Advice: "blkctl pki issue admin NAME makes all three"}
	}
	for _, address := range a.nodes {
		if !t.insecure && !isLoopback(address) {
			return nil, &Error{Code: Usage, Text: fmt.Sprintf("%s is another machine, and without certificates everything could be read and changed on the way", address),
				Advice: "give --tls-dir (blkctl pki issue admin NAME fills it), or --insecure if the network is trusted"}
		}
	}
	return pki.PlainClientCredentials(), nil
}

func clientCredentials(files pki.Files) (credentials.TransportCredentials, error) {
	certs, err := pki.NewReloader(files)
	if err != nil {
		return nil, certificateError(err)
	}
	return certs.ClientCredentials(""), nil
}

// certificateError is an error of package pki with its own advice.
func certificateError(err error) error {
	e := &Error{Code: Failed, Text: "certificates: " + err.Error()}
	var p *pki.Error
	if errors.As(err, &p) {
		e.Text, e.Advice = "certificates: "+p.Text, p.Next
	}
	return e
}

// isLoopback tells whether HOST:PORT can only be this machine.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

package nbd

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// URI is a parsed NBD URI:
//
//	nbd://HOST[:PORT]/EXPORT           TCP, port 10809 unless given
//	nbd+unix:///EXPORT?socket=PATH     Unix socket
//	nbds://…, nbds+unix://…            the same with TLS, never without
//
// The query tls-hostname=NAME names the server to verify instead of HOST, and
// tls-certificates=DIR a directory with ca-cert.pem and, to authenticate the
// client, client-cert.pem and client-key.pem.
type URI struct {
	Network string // "tcp" or "unix"
	Address string // host:port, or the socket's path
	Export  string // may be empty: the server's default export
	TLS     bool

	ServerName   string // whom the certificate must name
	Certificates string // directory, may be empty
}

// ParseURI parses an NBD URI.
func ParseURI(s string) (URI, error) {
	fail := func(format string, args ...any) (URI, error) {
		return URI{}, fmt.Errorf("nbd: URI %q: %s; write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH", s, fmt.Sprintf(format, args...))
	}
	u, err := url.Parse(s)
	if err != nil {
		return fail("%v", err)
	}
	r := URI{Export: strings.TrimPrefix(u.Path, "/")}
	q := u.Query()
	r.ServerName, r.Certificates = q.Get("tls-hostname"), q.Get("tls-certificates")
	if r.ServerName == "" {
		r.ServerName = u.Hostname()
	}
	scheme, unix := strings.CutSuffix(u.Scheme, "+unix")
	r.TLS = scheme == "nbds"
	switch {
	case scheme != "nbd" && scheme != "nbds":
		return fail("unknown scheme %q", u.Scheme)
	case len(r.Export) > maxString:
		return fail("the export name has %d bytes, limit %d", len(r.Export), maxString)
	case unix && q.Get("socket") == "":
		return fail("no socket=PATH")
	case unix:
		r.Network, r.Address = "unix", q.Get("socket")
		if r.ServerName == "" {
			r.ServerName = "localhost"
		}
		return r, nil
	case u.Hostname() == "":
		return fail("no host")
	case strings.Contains(u.Hostname(), ":"):
		if _, err := netip.ParseAddr(u.Hostname()); err != nil {
			return fail("%v", err)
		}
	}
	port := u.Port()
	if port == "" {
		port = strconv.Itoa(DefaultPort)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fail("port %q is not between 1 and 65535", port)
	}
	r.Network, r.Address = "tcp", net.JoinHostPort(u.Hostname(), port)
	return r, nil
}

// String is the URI in text form; ParseURI(u.String()) gives u back.
func (u URI) String() string {
	scheme := "nbd"
	if u.TLS {
		scheme = "nbds"
	}
	out := url.URL{Scheme: scheme, Path: "/" + u.Export}
	q := url.Values{}
	host := "localhost"
	if u.Network == "unix" {
		out.Scheme += "+unix"
		q.Set("socket", u.Address)
	} else {
		out.Host = u.Address
		host, _, _ = net.SplitHostPort(u.Address)
	}
	if u.ServerName != "" && u.ServerName != host {
		q.Set("tls-hostname", u.ServerName)
	}
	if u.Certificates != "" {
		q.Set("tls-certificates", u.Certificates)
	}
	out.RawQuery = q.Encode()
	if u.Network == "unix" { // url.URL leaves out the empty host's slashes
		return out.Scheme + "://" + out.EscapedPath() + "?" + out.RawQuery
	}
	return out.String()
}

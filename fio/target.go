package fio

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
)

// Target is something that is measured: an NBD export or, for reference, a file.
type Target struct {
	Name string `json:"name"` // how reports call it
	URI  string `json:"uri"`  // nbd://, nbds://, nbd+unix://, nbds+unix:// or file:/path

	// PIDs are the server's processes. Empty: whoever listens on the URI's socket.
	PIDs []int `json:"pids,omitempty"`
}

// ParseTarget reads "URI" or "NAME=URI".
func ParseTarget(arg string) (Target, error) {
	name, uri, named := strings.Cut(arg, "=")
	if !named || strings.ContainsAny(name, ":/?") {
		name, uri = "", arg
	}
	u, err := url.Parse(uri)
	if err != nil {
		return Target{}, fmt.Errorf("target %q: %w", arg, err)
	}
	t := Target{Name: name, URI: uri}
	switch u.Scheme {
	case "nbd", "nbds":
		if u.Host == "" {
			return t, fmt.Errorf("target %q names no host; write it as nbd://HOST:PORT/EXPORT", arg)
		}
	case "nbd+unix", "nbds+unix":
		if u.Query().Get("socket") == "" {
			return t, fmt.Errorf("target %q names no socket; write it as nbd+unix:///EXPORT?socket=PATH", arg)
		}
	case "file":
		if t.file() == "" {
			return t, fmt.Errorf("target %q names no file; write it as file:/PATH", arg)
		}
	default:
		return t, fmt.Errorf("target %q is no NBD URI; write it as nbd://HOST:PORT/EXPORT or nbd+unix:///EXPORT?socket=PATH", arg)
	}
	if t.Name == "" {
		t.Name = shortName(u)
	}
	return t, nil
}

// shortName is how a target without a name is called.
func shortName(u *url.URL) string {
	if s := u.Query().Get("socket"); s != "" {
		return strings.TrimPrefix(u.Path, "/") + "@" + s[strings.LastIndexByte(s, '/')+1:]
	}
	if u.Scheme == "file" {
		return "file"
	}
	return strings.TrimPrefix(u.Path, "/") + "@" + u.Host
}

// file is the path of a file target, or "".
func (t Target) file() string {
	rest, ok := strings.CutPrefix(t.URI, "file:")
	if !ok {
		return ""
	}
	return "/" + strings.TrimLeft(rest, "/")
}

// address is the network and address of an NBD target, as net.Dial takes them.
func (t Target) address() (network, addr string, err error) {
	u, err := url.Parse(t.URI)
	if err != nil {
		return "", "", err
	}
	if s := u.Query().Get("socket"); s != "" {
		return "unix", s, nil
	}
	port := u.Port()
	if port == "" {
		port = "10809"
	}
	return "tcp", net.JoinHostPort(u.Hostname(), port), nil
}

// answers tells whether the target can be reached at all, before fio says so with less care.
func (t Target) answers(ctx context.Context) error {
	if f := t.file(); f != "" {
		if _, err := os.Stat(f); err != nil {
			return fmt.Errorf("target %s: %w; create it at the size of the other targets first", t.Name, err)
		}
		return nil
	}
	network, addr, err := t.address()
	if err != nil {
		return err
	}
	d := net.Dialer{Timeout: 5 * time.Second}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return fmt.Errorf("target %s (%s) does not answer: %w; start the server, then try: nbdinfo '%s'", t.Name, t.URI, err, t.URI)
	}
	return c.Close()
}

package pki

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const day = 24 * time.Hour

// cluster is an open authority with a CA of that name.
func cluster(t *testing.T, name string) *Authority {
	t.Helper()
	a, err := Init(filepath.Join(t.TempDir(), "pki"), name, CALifetime)
	must(t, err)
	t.Cleanup(func() { a.Close() })
	return a
}

// issue issues a certificate that is valid at the time of the authority's clock.
func issue(t *testing.T, a *Authority, role Role, name string) Files {
	t.Helper()
	c, err := a.Issue(Request{Role: role, Name: name, Lifetime: CertificateLifetime})
	must(t, err)
	files, err := FilesIn(c.Dir)
	must(t, err)
	return files
}

// load reads files as a process does.
func load(t *testing.T, files Files) *Reloader {
	t.Helper()
	r, err := NewReloader(files)
	must(t, err)
	return r
}

// holder issues and loads.
func holder(t *testing.T, a *Authority, role Role, name string) *Reloader {
	t.Helper()
	return load(t, issue(t, a, role, name))
}

// from makes the authority's clock show another time.
func from(a *Authority, d time.Duration) { a.now = func() time.Time { return time.Now().Add(d) } }

// pair is a TCP connection on loopback: the server's end and the client's.
func pair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	must(t, err)
	server, err = l.Accept()
	must(t, err)
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

// meet connects two holders, has the server send a byte, and returns what each
// side made of it.
func meet(t *testing.T, server, client *Reloader, node string, accept ...Role) (atServer, atClient error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s, c := pair(t)
	done := make(chan error, 1)
	go func() {
		conn, err := server.Accept(ctx, s, accept...)
		if err == nil {
			_, err = conn.Write([]byte{1})
		}
		done <- err
	}()
	conn, err := client.Connect(ctx, c, node)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	return <-done, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refusal checks that err is an Error for the reason and says all that is wanted.
func refusal(t *testing.T, who string, err, reason error, wanted ...string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, reason) {
		t.Errorf("%s: %v\nwant an *Error for %q", who, err, reason)
		return
	}
	for _, w := range wanted {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v\nlacks %q", who, err, w)
		}
	}
}

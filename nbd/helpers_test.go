package nbd

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blkd/blockdev"
)

// testServer is a server on a Unix socket with one export, "disk".
type testServer struct {
	*Server
	path string
	dev  blockdev.Device
}

// uri is the NBD URI of an export.
func (s *testServer) uri(name string) string { return "nbd+unix:///" + name + "?socket=" + s.path }

func testLogger(t testing.TB) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	os.Stderr.Write(p)
	return len(p), nil
}

// startServer serves dev as "disk" until the test ends.
func startServer(t testing.TB, opts Options, dev blockdev.Device) *testServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	if opts.Logger == nil {
		opts.Logger = testLogger(t)
	}
	s := &testServer{Server: NewServer(opts), path: filepath.Join(dir, "s"), dev: dev}
	if err := s.SetExport(Export{Name: "disk", Description: "a test disk", Device: dev}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != ErrServerClosed {
			t.Errorf("Serve returned %v", err)
		}
		os.RemoveAll(dir)
	})
	return s
}

// tool skips the test unless a program is installed.
func tool(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian package %s)", name, pkg)
	}
	return path
}

// run runs a program and returns its output.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

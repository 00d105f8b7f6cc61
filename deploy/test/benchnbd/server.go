package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"blkd/fio"
	"blkd/nbd"
)

// startTimeout is how long a server may take until it answers.
const startTimeout = 30 * time.Second

// server is one running NBD server, or a file.
type server struct {
	name, uri string
	cmd       *exec.Cmd // nil for a file, and for a volume of a cluster
	pids      []int     // of all who work for it; nil: it is cmd alone
	ended     chan struct{}
	log       string
}

// target is the server as the fio package takes it.
func (s *server) target() fio.Target {
	t := fio.Target{Name: s.name, URI: s.uri, PIDs: s.pids}
	if s.cmd != nil && t.PIDs == nil {
		t.PIDs = []int{s.cmd.Process.Pid}
	}
	return t
}

// check says which program is missing.
func (b *bench) check() error {
	for _, p := range []struct{ program, how string }{
		{b.blkd, "name it with -blkd"}, {b.memserver, "name it with -memserver"},
		{"nbdkit", "apt-get install nbdkit"}, {"qemu-nbd", "apt-get install qemu-utils"},
		{"nbd-server", "apt-get install nbd-server"}, {"fio", "apt-get install fio"},
	} {
		if _, err := exec.LookPath(p.program); err != nil {
			return fmt.Errorf("%w (%s)", err, p.how)
		}
	}
	return nil
}

// place is where a server listens.
type place struct{ socket, host, port string }

// place returns a place that nobody uses.
func (b *bench) place(transport string) (place, error) {
	b.ports++
	if transport == "unix" {
		return place{socket: filepath.Join(b.dir, fmt.Sprintf("s%d", b.ports))}, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return place{}, err
	}
	defer l.Close()
	host, port, err := net.SplitHostPort(l.Addr().String())
	return place{host: host, port: port}, err
}

func (p place) uri(export string) string {
	if p.socket != "" {
		return "nbd+unix:///" + export + "?socket=" + url.QueryEscape(p.socket)
	}
	return "nbd://" + net.JoinHostPort(p.host, p.port) + "/" + export
}

// address is the place as blkd and memserver take it.
func (p place) address() string {
	if p.socket != "" {
		return "unix:" + p.socket
	}
	return net.JoinHostPort(p.host, p.port)
}

// nbdkit starts nbdkit with a plugin.
func (b *bench) nbdkit(ctx context.Context, name string, p place, plugin ...string) (*server, error) {
	where := []string{"-f", "-i", p.host, "-p", p.port}
	if p.socket != "" {
		where = []string{"-f", "-U", p.socket}
	}
	return b.start(ctx, name, p.uri(""), "nbdkit", append(where, plugin...)...)
}

// qemuNBD starts qemu-nbd on a raw file, with the page cache as its write cache.
func (b *bench) qemuNBD(ctx context.Context, p place, file string) (*server, error) {
	where := []string{"-b", p.host, "-p", p.port}
	if p.socket != "" {
		where = []string{"-k", p.socket}
	}
	args := append(where, "-t", "-f", "raw", "--shared=8", "--cache=writeback", "--discard=unmap", file)
	return b.start(ctx, "qemu-nbd", p.uri(""), "qemu-nbd", args...)
}

// nbdServer starts the NBD project's own server on a file.
func (b *bench) nbdServer(ctx context.Context, p place, file string) (*server, error) {
	where := "listenaddr = " + p.host + "\nport = " + p.port
	if p.socket != "" {
		where = "unixsock = " + p.socket
	}
	config := filepath.Join(b.dir, fmt.Sprintf("nbd-server%d.conf", b.ports))
	text := fmt.Sprintf("[generic]\n%s\n[disk]\nexportname = %s\nflush = true\nfua = true\ntrim = true\n", where, file)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	pidFile := config + ".pid"
	// It becomes a daemon, and with -d, which has it stay, it serves one client only.
	if out, err := exec.CommandContext(ctx, "nbd-server", "-C", config, "-p", pidFile).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("nbd-server: %w: %s", err, out)
	}
	s := &server{name: "nbd-server", uri: p.uri("disk")}
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	id, err := os.ReadFile(pidFile)
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(id)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pidFile, err)
	}
	s.pids = []int{pid}
	b.daemons = append(b.daemons, pid)
	return s, nil
}

// blkdNode starts blkd on a directory of its own, with one volume called disk.
func (b *bench) blkdNode(ctx context.Context, name string, p place, dir string, more ...string) (*server, error) {
	args := append([]string{"--standalone", "--data-dir", filepath.Join(b.dir, dir),
		"--volume", fmt.Sprintf("disk=%dMiB", b.size>>20), "--nbd", p.address()}, more...)
	return b.start(ctx, name, p.uri("disk"), b.blkd, args...)
}

// start runs a server and waits until it answers at its URI.
func (b *bench) start(ctx context.Context, name, uri, program string, args ...string) (*server, error) {
	s, err := b.launch(name, program, args...)
	if err != nil {
		return nil, err
	}
	s.uri = uri
	return s, s.waitReady(ctx)
}

// launch runs a program until the servers are stopped.
func (b *bench) launch(name, program string, args ...string) (*server, error) {
	s := &server{name: name, log: filepath.Join(b.dir, fmt.Sprintf("log%d", len(b.servers))), ended: make(chan struct{})}
	out, err := os.Create(s.log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s.cmd = exec.Command(program, args...)
	s.cmd.Stdout, s.cmd.Stderr = out, out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	b.servers = append(b.servers, s)
	go func() { s.cmd.Wait(); close(s.ended) }()
	return s, nil
}

func (s *server) waitReady(ctx context.Context) error {
	deadline := time.Now().Add(startTimeout)
	for {
		c, err := nbd.Dial(ctx, s.uri, nbd.DialOptions{})
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.ended:
			return fmt.Errorf("%s ended instead of serving:\n%s", s.name, s.said())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w\n%s", s.name, err, s.said())
		}
	}
}

// said is the server's output.
func (s *server) said() string {
	text, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text[max(0, len(text)-2000):]))
}

// stopAll ends every server that runs, in the end with SIGKILL, and every cluster.
func (b *bench) stopAll() {
	for _, c := range b.clusters {
		c.Close()
	}
	b.clusters = nil
	for _, pid := range b.daemons {
		syscall.Kill(pid, syscall.SIGTERM) //nolint:errcheck // it has ended by itself
	}
	b.daemons = nil
	for _, s := range slices.Backward(b.servers) {
		s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.ended:
		case <-time.After(20 * time.Second):
			s.cmd.Process.Kill()
			<-s.ended
		}
	}
	b.servers = nil
}

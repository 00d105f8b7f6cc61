package node

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"blkd/internal/env"
)

// syncBuffer is a buffer that a running blkd writes and the test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestSystemd plays systemd: it wants READY, signs of life, and STOPPING.
func TestSystemd(t *testing.T) {
	cfg := testConfig(t)
	path := filepath.Join(cfg.DataDir, "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")

	var out syncBuffer
	exit := make(chan int, 1)
	go func() {
		exit <- run([]string{"--standalone", "--data-dir", cfg.DataDir, "--nbd", cfg.NBD.Listen[0], "--volume", "demo=16MiB"}, nil, &out, &out)
	}()
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 1000)
		for {
			if err := notify.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			n, err := notify.Read(buf)
			if err != nil {
				t.Fatalf("waiting for %s: %v\n%s", want, err, out.String())
			}
			if string(buf[:n]) == want {
				return
			}
		}
	}
	expect("READY=1")
	expect("WATCHDOG=1")
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "SIGHUP is served", func() bool { return strings.Contains(out.String(), "msg=reloaded") })
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expect("STOPPING=1")
	if code := <-exit; code != exitOK {
		t.Errorf("exit code %d\n%s", code, out.String())
	}
	for _, line := range []string{"serves 1 volume", "demo  16 MiB  created  nbd+unix:///demo?socket=", "try: nbdinfo 'nbd+unix", "msg=stopped"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("output lacks %q:\n%s", line, out.String())
		}
	}
}

// TestSystemdInCluster: READY comes when the node is a member, not before, and
// STATUS says what it waits for.
func TestSystemdInCluster(t *testing.T) {
	cfg := testConfig(t)
	path := filepath.Join(cfg.DataDir, "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	c := newTrio(t, three, nil)
	var out syncBuffer
	for _, name := range three {
		c.start(name)
		go c.nodes[name].announce(&out)
		for found := name == "n3"; ; {
			buf := make([]byte, 1000)
			if err := notify.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			n, err := notify.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			text := string(buf[:n])
			if text == "READY=1" {
				if found {
					break
				}
				t.Fatalf("ready with the nodes up to %s", name)
			}
			if !found && strings.HasPrefix(text, "STATUS=founding: founding needs all nodes of the list once; waits for") {
				break
			}
		}
	}
}

func TestGreetingAsJSON(t *testing.T) {
	cfg := testConfig(t, "demo=16MiB")
	cfg.Log.Format = "json"
	var out syncBuffer
	n, err := Start(cfg, World{FS: env.OS{}, Log: newLog(cfg.Log, &out, false)})
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, n)
	n.greet(&out)
	if got := out.String(); !strings.Contains(got, `"volume":"demo","size_bytes":16777216,"state":"ok","uris":["nbd+unix:`) {
		t.Error(got)
	}
}

func TestJournalHasItsOwnTime(t *testing.T) {
	for journal, want := range map[bool]bool{true: false, false: true} {
		var out bytes.Buffer
		newLog(LogConfig{Level: "info", Format: "text"}, &out, journal).Info("hello")
		if got := strings.Contains(out.String(), "time="); got != want {
			t.Errorf("journal %v: %s", journal, out.String())
		}
	}
}

package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/env"
	"blkd/nbd"
)

// sickFS lets one volume's disk fail when it is told to.
type sickFS struct {
	env.FS
	volume string
	sick   atomic.Bool
}

type sickFile struct {
	env.File
	fs *sickFS
}

func (s *sickFS) Open(name string, flag int) (env.File, error) {
	f, err := s.FS.Open(name, flag)
	if err != nil || !strings.Contains(name, "/"+volumesDir+"/"+s.volume+"/") {
		return f, err
	}
	return &sickFile{f, s}, nil
}

func (f *sickFile) Sync() error {
	if f.fs.sick.Load() {
		return syscall.EIO
	}
	return f.File.Sync()
}

// testConfig is a node on sockets of its own. Their paths must be short, which
// those of t.TempDir are not.
func testConfig(t *testing.T, volumes ...string) Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "blk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg := DefaultConfig()
	cfg.Standalone, cfg.NodeName, cfg.DataDir, cfg.Volume = true, "n1", dir, volumes
	cfg.NBD.Listen = []string{"unix:" + dir + "/nbd.sock"}
	cfg.Metrics.Listen = "127.0.0.1:0"
	cfg.Store.LogSize = "1MiB"
	if err := cfg.validate(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func start(t *testing.T, cfg Config, fs env.FS) *Node {
	t.Helper()
	n, err := Start(cfg, World{FS: fs, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// testWriter sends a log to the test's.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func stop(t *testing.T, n *Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := n.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func dial(t *testing.T, n *Node, name string) *nbd.Client {
	t.Helper()
	c, err := nbd.Dial(context.Background(), uri(n.listeners[0], name, false), nbd.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// eventually waits for something that another goroutine is about to do.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 3000 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func get(t *testing.T, n *Node, path string) (int, string) {
	t.Helper()
	r, err := http.Get("http://" + n.web.address.String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

func TestDataSurvivesRestart(t *testing.T) {
	cfg := testConfig(t, "demo=16MiB")
	n := start(t, cfg, env.OS{})
	want := bytes.Repeat([]byte("block"), 1000)
	if err := blockdev.WriteAt(dial(t, n, "demo"), want, 4000, 0); err != nil {
		t.Fatal(err)
	}
	stop(t, n) // with the client still connected

	n = start(t, cfg, env.OS{})
	defer stop(t, n)
	got := make([]byte, len(want))
	if err := blockdev.ReadAt(dial(t, n, "demo"), got, 4000); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read back %.20q…, %v", got, err)
	}
}

// TestFailStop: when a volume's disk fails, its clients are cut off and get no
// error for what is in flight; all other volumes go on.
func TestFailStop(t *testing.T) {
	fs := &sickFS{FS: env.OS{}, volume: "ill"}
	n := start(t, testConfig(t, "ill=16MiB", "well=16MiB"), fs)
	ill, well := dial(t, n, "ill"), dial(t, n, "well")
	if err := blockdev.WriteAt(ill, make([]byte, 4096), 0, 0); err != nil {
		t.Fatal(err)
	}
	fs.sick.Store(true)
	if err := blockdev.Flush(ill); !errors.Is(err, nbd.ErrConnectionLost) {
		t.Errorf("flush on a failed disk: %v, want a lost connection", err)
	}
	if err := blockdev.WriteAt(well, make([]byte, 4096), 0, blockdev.FUA); err != nil {
		t.Errorf("the other volume: %v", err)
	}
	eventually(t, "the export is taken away", func() bool { _, ok := n.connections()["ill"]; return !ok })
	if c, err := nbd.Dial(context.Background(), uri(n.listeners[0], "ill", false), nbd.DialOptions{}); err == nil {
		c.Close()
		t.Error("the failed volume can still be connected to")
	}
	v := n.describe(n.lookup("ill"))
	if v.State != api.VolumeState_VOLUME_STATE_FAILED || len(v.Problems) != 1 || v.Problems[0].Code != "store_failed" || len(v.Uris) != 0 {
		t.Errorf("status of the failed volume: %v", v)
	}
	if code, body := get(t, n, "/health"); code != http.StatusServiceUnavailable || !strings.Contains(body, "volume ill: it stopped at a disk error") {
		t.Errorf("/health: %d %s", code, body)
	}
	stop(t, n)
}

func TestHealth(t *testing.T) {
	n := start(t, testConfig(t, "demo=16MiB"), env.OS{})
	defer stop(t, n)
	// The machine's own disk may be low, which is told but no failure.
	if code, body := get(t, n, "/health"); code != http.StatusOK || body != "ok\n" && !strings.HasPrefix(body, "node n1:") {
		t.Errorf("healthy: %d %q", code, body)
	}
	events := n.storeEvents(n.lookup("demo"))
	events.Full(true)
	code, body := get(t, n, "/health")
	if code != http.StatusOK || !strings.Contains(body, "volume demo: the file system of") || !strings.Contains(body, "writes wait") {
		t.Errorf("full: %d %q", code, body)
	}
	events.Full(false)
	bad := &blockdev.ChecksumError{Volume: "demo", Off: 8192}
	events.BadBlock(bad)
	events.BadBlock(bad)
	if _, body := get(t, n, "/health"); !strings.Contains(body, "1 block fails its checksum") {
		t.Errorf("bad block: %q", body)
	}
}

func TestMetrics(t *testing.T) {
	n := start(t, testConfig(t, "demo=16MiB"), env.OS{})
	defer stop(t, n)
	c := dial(t, n, "demo")
	for range 200 { // enough for a latency sample
		if err := blockdev.WriteAt(c, make([]byte, 4096), 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	code, body := get(t, n, "/metrics")
	if code != http.StatusOK {
		t.Fatal(code, body)
	}
	for _, line := range []string{
		`blk_volume_size_bytes{volume="demo"} 1.6777216e+07`,
		`blk_volume_written_bytes_total{volume="demo"} 819200`,
		`blk_volume_state{state="ok",volume="demo"} 1`,
		`blk_volume_state{state="failed",volume="demo"} 0`,
		`blk_nbd_connections{volume="demo"} 1`,
		`blk_nbd_requests_total{op="write",volume="demo"} 200`,
		`blk_nbd_request_duration_seconds_count{op="write",volume="demo"} `,
		`blk_build_info{`, `go_goroutines `, `process_open_fds `,
	} {
		if !strings.Contains(body, "\n"+line) {
			t.Errorf("/metrics lacks %s", line)
		}
	}
	if code, _ := get(t, n, "/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("pprof without being asked for: %d", code)
	}
}

func TestPprof(t *testing.T) {
	cfg := testConfig(t)
	cfg.Metrics.Pprof = true
	n := start(t, cfg, env.OS{})
	defer stop(t, n)
	if code, body := get(t, n, "/debug/pprof/goroutine?debug=1"); code != http.StatusOK || !strings.Contains(body, "goroutine profile") {
		t.Errorf("%d %s", code, body)
	}
}

func TestDeleteNeedsForceWhileClientsAreConnected(t *testing.T) {
	n := start(t, testConfig(t, "demo=16MiB"), env.OS{})
	defer stop(t, n)
	c := dial(t, n, "demo")
	if err := blockdev.WriteAt(c, make([]byte, 4096), 0, 0); err != nil {
		t.Fatal(err)
	}
	_, refused := n.deleteVolume("demo", false)
	x := api.Explain(refused)
	if x.Code != codes.FailedPrecondition || x.Node != "n1" || !strings.Contains(x.Text, "1 client connected") || !strings.Contains(x.Advice, "--force") {
		t.Fatalf("without force: %+v", x)
	}
	if err := blockdev.Flush(c); err != nil {
		t.Fatalf("the client after the refusal: %v", err)
	}
	note, err := n.deleteVolume("demo", true)
	if err != nil || !strings.Contains(note, "the configuration still names volume demo") {
		t.Fatal(note, err)
	}
	if err := blockdev.Flush(c); !errors.Is(err, nbd.ErrConnectionLost) {
		t.Errorf("the client after the delete: %v", err)
	}
	if n.lookup("demo") != nil {
		t.Error("still listed")
	}
}

// TestOneOperationAtATime: a volume that is busy refuses a second operation.
func TestOneOperationAtATime(t *testing.T) {
	n := start(t, testConfig(t, "demo=16MiB"), env.OS{})
	defer stop(t, n)
	release, err := n.lookup("demo").acquire("being verified")
	if err != nil {
		t.Fatal(err)
	}
	for name, op := range map[string]func() error{
		"delete": func() error { _, err := n.deleteVolume("demo", true); return err },
		"resize": func() error { _, err := n.resizeVolume("demo", 32<<20, false); return err },
		"verify": func() error {
			return n.verifyVolume(context.Background(), "demo", func(*api.VerifyVolumeProgress) error { return nil })
		},
	} {
		err := op()
		if x := api.Explain(err); x.Code != codes.Aborted || !strings.Contains(x.Text, "being verified") {
			t.Errorf("%s: %+v", name, x)
		}
	}
	release()
	if _, err := n.resizeVolume("demo", 32<<20, false); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestResizeIsSeenByNewClients(t *testing.T) {
	n := start(t, testConfig(t, "demo=16MiB"), env.OS{})
	defer stop(t, n)
	if _, err := n.resizeVolume("demo", 32<<20, false); err != nil {
		t.Fatal(err)
	}
	if got := dial(t, n, "demo").Size(); got != 32<<20 {
		t.Errorf("size %d", got)
	}
}

// TestVolumeThatCannotBeCreated does not keep the others from being served.
func TestVolumeThatCannotBeCreated(t *testing.T) {
	cfg := testConfig(t, "demo=16MiB", "blocked=16MiB")
	if err := os.MkdirAll(cfg.DataDir+"/"+volumesDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.DataDir+"/"+volumesDir+"/blocked", nil, 0o600); err != nil { // a file where a directory must be
		t.Fatal(err)
	}
	n := start(t, cfg, env.OS{})
	defer stop(t, n)
	v := n.describe(n.lookup("blocked"))
	if v.State != api.VolumeState_VOLUME_STATE_FAILED || !strings.Contains(v.Problems[0].Text, "creating it failed") {
		t.Errorf("%v", v)
	}
	if err := blockdev.WriteAt(dial(t, n, "demo"), make([]byte, 4096), 0, 0); err != nil {
		t.Error(err)
	}
}

// TestFailedStartLeavesNothing: after a start that failed half way, the same
// data directory can be used at once.
func TestFailedStartLeavesNothing(t *testing.T) {
	cfg := testConfig(t, "demo=16MiB")
	bad := cfg
	bad.NBD.Listen = append(bad.NBD.Listen, "unix:/nowhere/at/all.sock")
	_, err := Start(bad, World{FS: env.OS{}, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/at/all.sock") {
		t.Fatalf("start: %v", err)
	}
	stop(t, start(t, cfg, env.OS{}))
}

package node

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/env"
)

func control(t *testing.T, n *Node) *grpc.ClientConn {
	t.Helper()
	conn, err := api.Dial(n.cfg.socketPath())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestControlSocket(t *testing.T) {
	n := start(t, testConfig(t, "demo=16MiB"), env.OS{})
	defer stop(t, n)
	info, err := os.Stat(n.cfg.socketPath())
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("mode of the socket: %v, %v", info.Mode(), err)
	}
	conn := control(t, n)
	h, err := grpc_health_v1.NewHealthClient(conn).Check(context.Background(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || h.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	ask, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := ask.Send(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{},
	}); err != nil {
		t.Fatal(err)
	}
	answer, err := ask.Recv()
	if err != nil || !strings.Contains(answer.String(), "blkd.v1.VolumeService") {
		t.Errorf("reflection: %v, %v", answer, err)
	}
	if err := ask.CloseSend(); err != nil {
		t.Error(err)
	}
}

func TestStatusCall(t *testing.T) {
	n := start(t, testConfig(t, "a=16MiB", "b=16MiB"), env.OS{})
	defer stop(t, n)
	c := api.NewNodeServiceClient(control(t, n))
	all, err := c.Status(context.Background(), &api.StatusRequest{})
	if err != nil || len(all.Volumes) != 2 || all.Volumes[0].Name != "a" || all.Node != "n1" || all.Mode != "standalone" ||
		all.DataDir != n.cfg.DataDir || all.DiskFreeBytes <= 0 || all.DiskSizeBytes < all.DiskFreeBytes {
		t.Errorf("%v, %v", all, err)
	}
	one, err := c.Status(context.Background(), &api.StatusRequest{Volume: "b"})
	if err != nil || len(one.Volumes) != 1 || one.Volumes[0].Name != "b" {
		t.Errorf("%v, %v", one, err)
	}
	_, err = c.Status(context.Background(), &api.StatusRequest{Volume: "x"})
	if x := api.Explain(err); x.Code != codes.NotFound || x.Node != "n1" {
		t.Errorf("%+v", x)
	}
}

// TestVerifyFindsRot damages a byte of a stopped volume's image.
func TestVerifyFindsRot(t *testing.T) {
	cfg := testConfig(t, "demo=16MiB")
	n := start(t, cfg, env.OS{})
	data := []byte(strings.Repeat("0123456789abcdef", 4096))
	if err := blockdev.WriteAt(dial(t, n, "demo"), data, 1<<20, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	stop(t, n)
	damage(t, filepath.Join(cfg.DataDir, volumesDir, "demo", "image"), "0123456789abcdef")

	n = start(t, cfg, env.OS{})
	defer stop(t, n)
	var last *api.VerifyVolumeProgress
	err := n.verifyVolume(context.Background(), "demo", func(p *api.VerifyVolumeProgress) error { last = p; return nil })
	if err != nil || !last.GetDone() || last.BadTotal != 1 || len(last.BadBlocks) != 1 || last.BadBlocks[0].Offset != 1<<20 {
		t.Fatalf("verify: %v, %v", last, err)
	}
	v := n.describe(n.lookup("demo"))
	if v.State != api.VolumeState_VOLUME_STATE_DEGRADED || len(v.Problems) != 1 || v.Problems[0].Code != "bad_block" {
		t.Errorf("status: %v", v)
	}
	// Written anew, the block is good again, and a verification says so.
	if err := blockdev.WriteAt(dial(t, n, "demo"), data[:4096], 1<<20, 0); err != nil {
		t.Fatal(err)
	}
	err = n.verifyVolume(context.Background(), "demo", func(p *api.VerifyVolumeProgress) error { last = p; return nil })
	if err != nil || last.BadTotal != 0 {
		t.Errorf("after the repair: %v, %v", last, err)
	}
	if v := n.describe(n.lookup("demo")); v.State != api.VolumeState_VOLUME_STATE_OK {
		t.Errorf("status after the repair: %v", v)
	}
}

// damage changes the first byte of the first occurrence of text in a file.
func damage(t *testing.T, file, text string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(data), text)
	if at < 0 {
		t.Fatalf("%s does not hold %q", file, text)
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{'X'}, int64(at)); err != nil {
		t.Fatal(err)
	}
}

// TestStopEndsVerification: a stop does not wait for a verification to end.
func TestStopEndsVerification(t *testing.T) {
	n := start(t, testConfig(t, "demo=16MiB"), env.OS{})
	if err := blockdev.WriteAt(dial(t, n, "demo"), make([]byte, 12<<20), 0, 0); err != nil {
		t.Fatal(err)
	}
	err := n.verifyVolume(context.Background(), "demo", func(p *api.VerifyVolumeProgress) error {
		n.stop() // early: the first progress comes long before the last
		return nil
	})
	if x := api.Explain(err); x.Code != codes.Canceled || !strings.Contains(x.Text, "was stopped") {
		t.Errorf("%+v", x)
	}
	stop(t, n)
}

func TestLowDisk(t *testing.T) {
	for _, tc := range []struct {
		free, size int64
		want       bool
	}{{100, 1000, false}, {50, 1000, false}, {49, 1000, true}, {0, 1000, true}, {51 << 30, 10 << 40, false}, {49 << 30, 10 << 40, true}} {
		if got := isLow(tc.free, tc.size); got != tc.want {
			t.Errorf("%d of %d: %v", tc.free, tc.size, got)
		}
	}
}

package cli

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"blkd/internal/api"
	"blkd/internal/version"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// golden compares got with testdata/name.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -rewrite accepts it):\n%s", file, got)
	}
}

var healthy = &api.Volume{
	Name: "demo", SizeBytes: 1 << 30, AllocatedBytes: 12 << 20, State: api.VolumeState_VOLUME_STATE_OK,
	Clients: 1, Uris: []string{"nbd://127.0.0.1:10809/demo", "nbd+unix:///demo?socket=/run/blkd/nbd.sock"},
	Io: &api.VolumeIO{LogUsedBytes: 4 << 20, LogSizeBytes: 128 << 20, ClientWrittenBytes: 100 << 20,
		DiskWrittenBytes: 205 << 20, WriteAmplification: 2.05, MemoryBytes: 3 << 20},
}

var full = &api.Volume{
	Name: "logs", SizeBytes: 50 << 30, AllocatedBytes: 49 << 30, State: api.VolumeState_VOLUME_STATE_DEGRADED,
	Uris: []string{"nbd://127.0.0.1:10809/logs"},
	Io:   &api.VolumeIO{LogUsedBytes: 1 << 30, LogSizeBytes: 1 << 30, ClientWrittenBytes: 1, DiskWrittenBytes: 4096, WriteAmplification: 4096, MemoryBytes: 70 << 20},
	Problems: []*api.Problem{{Code: "disk_full", Text: "the file system of /var/lib/blkd is full and writes wait",
		Advice: "free space there; the writes then go on by themselves"}},
}

var broken = &api.Volume{
	Name: "old", State: api.VolumeState_VOLUME_STATE_FAILED,
	Problems: []*api.Problem{{Code: "open_failed", Text: "it is not open: superblock: bad magic",
		Advice: "repair what the message names, then restart blkd"}},
}

func exampleStatus(volumes ...*api.Volume) Status {
	return newStatus(&api.NodeStatus{
		Node: "n1", Mode: "standalone", Started: timestamppb.New(time.Date(2026, 3, 1, 14, 2, 3, 999, time.UTC)),
		Version: &api.VersionInfo{Version: "0.1.0", Revision: "0123456789ab", Go: "go1.26.0", Platform: "linux/amd64"},
		DataDir: "/var/lib/blkd", DiskSizeBytes: 1 << 40, DiskFreeBytes: 300 << 30, Volumes: volumes,
	})
}

func TestJSON(t *testing.T) {
	server := version.Info{Version: "0.1.0", Revision: "0123456789ab", Go: "go1.26.0", Platform: "linux/amd64"}
	client := version.Info{Version: "devel", Go: "go1.26.0", Platform: "linux/amd64"}
	for name, data := range map[string]any{
		"volume.json":        newVolume(healthy),
		"volume_list.json":   VolumeList{Volumes: newVolumes([]*api.Volume{healthy, broken})},
		"volume_none.json":   VolumeList{Volumes: newVolumes(nil)},
		"deleted.json":       Deleted{Name: "demo", Deleted: true},
		"status.json":        exampleStatus(healthy, full, broken),
		"version.json":       Versions{Client: client, Server: &server},
		"version_alone.json": Versions{Client: client},
		"verified.json":      newVerified("demo", &api.VerifyVolumeProgress{CheckedBytes: 12 << 20, TotalBytes: 1 << 30, Done: true}),
		"verified_bad.json": newVerified("demo", &api.VerifyVolumeProgress{CheckedBytes: 12 << 20, Done: true, BadTotal: 1,
			BadBlocks: []*api.BadBlock{{Offset: 8192, File: "/var/lib/blkd/volumes/demo/image", FileOffset: 4096}}}),
	} {
		var out bytes.Buffer
		if err := show(&out, formatJSON, result{data: data}); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.Bytes())
	}
}

func TestErrorJSON(t *testing.T) {
	var out bytes.Buffer
	(&Error{Code: Refused, Text: "volume demo has 1 client connected", Node: "n1", Advice: "disconnect them"}).print(&out, true)
	golden(t, "error.json", out.Bytes())
}

func TestYAML(t *testing.T) {
	var out bytes.Buffer
	odd := newVolume(healthy)
	odd.Name = "123" // must not become a number
	if err := show(&out, formatYAML, result{data: odd}); err != nil {
		t.Fatal(err)
	}
	golden(t, "volume.yaml", out.Bytes())
}

func TestTables(t *testing.T) {
	status := exampleStatus(healthy, full, broken)
	status.Started = time.Now().Add(-190 * time.Second)
	empty := exampleStatus()
	empty.Started = time.Now().Add(-50 * time.Hour)
	for name, r := range map[string]result{
		"status.txt":       statusResult(status),
		"status_empty.txt": statusResult(empty),
	} {
		var out bytes.Buffer
		if err := show(&out, formatTable, r); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.Bytes())
	}
	var wide, names bytes.Buffer
	if err := show(&wide, formatWide, statusResult(status)); err != nil {
		t.Fatal(err)
	}
	golden(t, "status_wide.txt", wide.Bytes())
	if err := show(&names, formatName, statusResult(status)); err != nil {
		t.Fatal(err)
	}
	if names.String() != "demo\nlogs\nold\n" {
		t.Errorf("-o name: %q", names.String())
	}
}

func TestStatusState(t *testing.T) {
	for _, tc := range []struct {
		volumes []*api.Volume
		want    string
	}{
		{nil, "ok"}, {[]*api.Volume{healthy}, "ok"}, {[]*api.Volume{healthy, full}, "degraded"},
		{[]*api.Volume{broken, full, healthy}, "failed"}, {[]*api.Volume{full, broken}, "failed"},
	} {
		if got := exampleStatus(tc.volumes...).State; got != tc.want {
			t.Errorf("%d volumes: state %s, want %s", len(tc.volumes), got, tc.want)
		}
	}
}

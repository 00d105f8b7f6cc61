package fio

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nbdkitMemory starts nbdkit with a memory export and returns its target, or skips.
func nbdkitMemory(t *testing.T, name string, args ...string) Target {
	t.Helper()
	if _, err := exec.LookPath("nbdkit"); err != nil {
		t.Skip("nbdkit is not installed")
	}
	socket := filepath.Join(t.TempDir(), "s")
	cmd := exec.Command("nbdkit", append([]string{"-f", "-U", socket, "memory", "32M"}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 500 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return Target{Name: name, URI: "nbd+unix:///?socket=" + socket}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("nbdkit did not start to listen within 5 s")
	return Target{}
}

func needFio(t *testing.T) {
	t.Helper()
	if err := (fioEngine{program: "fio"}).check(t.Context()); err != nil {
		t.Skip(err)
	}
}

func pick(t *testing.T, names ...string) []Job {
	t.Helper()
	jobs, err := SelectJobs(names)
	if err != nil {
		t.Fatal(err)
	}
	return jobs
}

// A short real run: two servers, in turns, with every figure that can be had.
func TestRunWithFio(t *testing.T) {
	needFio(t)
	var talk strings.Builder
	rep, err := Run(t.Context(), Config{
		Targets:   []Target{nbdkitMemory(t, "a"), nbdkitMemory(t, "b")},
		Jobs:      pick(t, "mixed-70-30-4k-qd32", "verify-crc32c", "randwrite-4k-qd1-j4", "fsync1-4k-qd1"),
		Rounds:    2,
		Runtime:   600 * time.Millisecond,
		Overwrite: true,
		Progress:  &talk,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Results) != 4 {
		t.Fatalf("%d results, want 4", len(rep.Results))
	}
	for _, r := range rep.Results {
		for _, tr := range r.Targets {
			for _, m := range Metrics {
				if m == DiskAmp {
					continue // nobody asked for it
				}
				if v, ok := tr.Summary[m]; !ok || v.Rounds != 2 || (v.Median <= 0 && m != WriteAmp && m != CPU) {
					t.Errorf("%s, %s: %s is %+v", r.Job, tr.Name, m, v)
				}
			}
			if r.Job != "verify-crc32c" && len(tr.Samples[0].Series) == 0 {
				t.Errorf("%s, %s: no throughput over time", r.Job, tr.Name)
			}
		}
		if r.Targets[1].Ratios[IOPS].Rounds != 2 {
			t.Errorf("%s: ratios %+v", r.Job, r.Targets[1].Ratios)
		}
	}
	var order []string
	for line := range strings.Lines(talk.String()) {
		if rest, ok := strings.CutPrefix(line, "mixed-70-30-4k-qd32, fio, round "); ok {
			_, name, _ := strings.Cut(rest, ": ")
			order = append(order, name[:1])
		}
	}
	if got := strings.Join(order, ""); got != "abba" {
		t.Errorf("runs went %q, want abba", got)
	}
	if err := rep.HTML(io.Discard); err != nil {
		t.Error(err)
	}
}

// fio's own error must reach the user.
func TestRunReportsAFailingServer(t *testing.T) {
	needFio(t)
	_, err := Run(t.Context(), Config{
		Targets:   []Target{nbdkitMemory(t, "bad", "--filter=error", "error-rate=100%")},
		Jobs:      pick(t, "verify-crc32c"),
		Overwrite: true,
	})
	if err == nil || !strings.Contains(err.Error(), "verify-crc32c on bad") || !strings.Contains(err.Error(), "Input/output error") {
		t.Errorf("got %v", err)
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	needFio(t)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(500*time.Millisecond, cancel)
	_, err := Run(ctx, Config{Targets: []Target{nbdkitMemory(t, "a")}, Jobs: pick(t, "randread-4k-qd1"), Runtime: time.Hour})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
}

func TestRunRefuses(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	up := "nbd://" + listener.Addr().String()
	listener.Close()
	here, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	noEngine := filepath.Join(t.TempDir(), "fio")
	if err := os.WriteFile(noEngine, []byte("#!/bin/sh\necho IO engine nbd not found\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	listening := "nbd+unix:///?socket=" + here.Addr().String()
	for name, c := range map[string]struct {
		args string
		want []string
	}{
		"no URI":          {"", []string{"--list", "nbd://"}},
		"no such scheme":  {"http://x", []string{"http://x", "nbd://"}},
		"no socket":       {"nbd+unix:///x", []string{"socket="}},
		"nobody there":    {up, []string{"does not answer", "refused", "nbdinfo"}},
		"no such file":    {"file:/nonexistent/f", []string{"/nonexistent/f"}},
		"writes":          {"-j randwrite-4k-qd1 " + up, []string{"randwrite-4k-qd1", "--overwrite"}},
		"no such job":     {"-j nothing " + up, []string{"nothing", "--list"}},
		"no such engine":  {"--engine dd " + up, []string{"dd", "fio", "blkd"}},
		"verify by blkd":  {"--overwrite --engine blkd -j verify-crc32c " + up, []string{"verify", "fio"}},
		"rounds":          {"--rounds 0 " + up, []string{"--rounds 0"}},
		"runtime":         {"--runtime -1s " + up, []string{"-1s"}},
		"output":          {"-o xml " + up, []string{"xml", "json"}},
		"too many pids":   {"--pid 1 --pid 2 " + up, []string{"--pid"}},
		"bad pid":         {"--pid x " + up, []string{"x"}},
		"fio missing":     {"--fio /nonexistent/fio " + listening, []string{"apt-get install fio"}},
		"fio without nbd": {"--fio " + noEngine + " " + listening, []string{"libnbd"}},
	} {
		cmd := Command()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(strings.Fields(c.args))
		err := cmd.Execute()
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q does not say %q", name, err, w)
			}
		}
	}
}

func TestCommandLists(t *testing.T) {
	cmd := Command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--list"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "randread-4k-qd1\n    4 KiB random read") || !strings.Contains(out.String(), "verify-crc32c (overwrites)") {
		t.Errorf("unexpected list:\n%s", out.String())
	}
}

func TestParseTarget(t *testing.T) {
	for arg, want := range map[string]Target{
		"nbd://h:1/x":                  {Name: "x@h:1", URI: "nbd://h:1/x"},
		"our=nbd://h/x":                {Name: "our", URI: "nbd://h/x"},
		"nbd+unix:///x?socket=/run/s":  {Name: "x@s", URI: "nbd+unix:///x?socket=/run/s"},
		"a=nbd+unix:///?socket=/run/s": {Name: "a", URI: "nbd+unix:///?socket=/run/s"},
		"raw=file:/a/b":                {Name: "raw", URI: "file:/a/b"},
	} {
		got, err := ParseTarget(arg)
		if err != nil || got.Name != want.Name || got.URI != want.URI {
			t.Errorf("%s: %+v, %v", arg, got, err)
		}
	}
}

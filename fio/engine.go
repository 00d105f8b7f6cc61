package fio

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Engine names a load generator.
type Engine string

const (
	// EngineFio is the fio program with its nbd engine: one system call per request,
	// 10 to 12 µs of the client's CPU each.
	EngineFio Engine = "fio"
	// EngineBlkd is this project's NBD client, which sends and receives many requests
	// per system call: it shows the server's own limit.
	EngineBlkd Engine = "blkd"
)

// generator runs one job against one target, once.
type generator interface {
	// check says what is missing, and how to get it, before the first run.
	check(ctx context.Context) error
	run(ctx context.Context, j Job, t Target) (Sample, error)
}

// seriesWidth is the width of one point of a throughput series.
const seriesWidth = 250 * time.Millisecond

// fioEngine runs the fio program.
type fioEngine struct{ program string }

func (e fioEngine) check(ctx context.Context) error {
	if _, err := exec.LookPath(e.program); err != nil {
		return fmt.Errorf("fio is not installed (%w): run apt-get install fio, or use --engine %s", err, EngineBlkd)
	}
	if out, err := exec.CommandContext(ctx, e.program, "--enghelp=nbd").CombinedOutput(); err != nil {
		return fmt.Errorf("%s has no nbd engine (%s): it must be built with libnbd, as Debian's package is since fio 3.33; or use --engine %s",
			e.program, clip(string(out)), EngineBlkd)
	}
	return nil
}

func (e fioEngine) run(ctx context.Context, j Job, t Target) (Sample, error) {
	dir, err := os.MkdirTemp("", "blk-bench-")
	if err != nil {
		return Sample{}, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, j.Name+".fio")
	if err := os.WriteFile(file, fioJobFor(j, t, dir).file(), 0o600); err != nil {
		return Sample{}, err
	}
	cmd := exec.CommandContext(ctx, e.program, "--output-format=json+", file)
	cmd.Dir = dir
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// On SIGINT fio ends the processes of its jobs too; SIGKILL would leave them behind.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	runErr := cmd.Run()
	if ctx.Err() != nil {
		return Sample{}, ctx.Err()
	}
	if runErr != nil {
		return Sample{}, fmt.Errorf("fio job %s on %s: %w: %s", j.Name, t.Name, runErr, clip(stderr.String()))
	}
	out, err := parseOutput([]byte(stdout.String()))
	if err != nil {
		return Sample{}, fmt.Errorf("fio job %s on %s: %w", j.Name, t.Name, err)
	}
	s, err := out.sample(j.Flushes())
	if err != nil {
		return Sample{}, fmt.Errorf("fio job %s on %s: %w: %s", j.Name, t.Name, err, clip(stderr.String()))
	}
	s.Series, err = readSeries(dir)
	return s, err
}

// fioJobFor fits a job to a target. A file is written through the page cache, which is
// what a server that acknowledges before it flushes is compared with.
func fioJobFor(j Job, t Target, dir string) Job {
	where := []option{{"uri", t.URI}}
	if f := t.file(); f != "" {
		where = []option{{"ioengine", "psync"}, {"uri", ""}, {"filename", f}, {"invalidate", "0"}}
	}
	log := []option{
		{"write_iops_log", filepath.Join(dir, "log")},
		{"log_avg_msec", fmt.Sprint(seriesWidth.Milliseconds())},
	}
	j = j.with(append(where, log...)...)
	j.opts = deleteEmpty(j.opts)
	return j
}

// deleteEmpty removes options without a value.
func deleteEmpty(opts []option) []option {
	kept := opts[:0]
	for _, o := range opts {
		if o.value != "" {
			kept = append(kept, o)
		}
	}
	return kept
}

// readSeries adds up the IOPS logs that fio left in a directory.
func readSeries(dir string) ([]Point, error) {
	logs, err := filepath.Glob(filepath.Join(dir, "log_iops.*.log"))
	if err != nil {
		return nil, err
	}
	sum := map[int64]float64{}
	for _, l := range logs {
		text, err := os.ReadFile(l)
		if err != nil {
			return nil, err
		}
		if err := parseIOPSLog(text, seriesWidth, sum); err != nil {
			return nil, err
		}
	}
	return series(sum, seriesWidth), nil
}

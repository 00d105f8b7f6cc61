package fio

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// defaultJobs are run when none is named: random 4 KiB at each depth, and 1 MiB in sequence.
var defaultJobs = []string{
	"randread-4k-qd1", "randread-4k-qd32", "randread-4k-qd128", "seqread-1m-qd8",
	"randwrite-4k-qd1", "randwrite-4k-qd32", "randwrite-4k-qd128", "seqwrite-1m-qd8",
}

// benchFlags are the options of the bench command.
type benchFlags struct {
	jobs, engines, pids []string
	rounds              int
	runtime             time.Duration
	overwrite, list     bool
	output, html, fio   string
	disk                string
	quiet               bool
}

// Command is "bench URI…": measure NBD servers side by side.
func Command() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench [NAME=]URI…",
		Short: "Measure one or several NBD servers side by side",
		Long: `Bench runs load against NBD exports and prints request rates, latencies, the
server's CPU time per request and how much it wrote.

Several exports are measured in turns (A B, B A, …), round by round, so that a busy
machine hurts all of them alike; ratios compare runs of the same round with the
first export's. CPU time and bytes written are those of the processes that listen
on the export's address, or of --pid.

Jobs that write destroy what the exports hold. They run with --overwrite only.`,
		Example: `  blkctl bench nbd://127.0.0.1:10809/demo
  blkctl bench --overwrite --job 'rand*-qd32' --html report.html \
      nbdkit=nbd://127.0.0.1:10900/ blkd=nbd://127.0.0.1:10809/demo`,
		SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && !f.list {
				return fmt.Errorf("name at least one NBD URI, e.g. nbd://127.0.0.1:10809/demo (--list shows the jobs)")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args) },
	}
	fl := cmd.Flags()
	fl.StringArrayVarP(&f.jobs, "job", "j", nil, "job to run, or a pattern such as 'rand*-qd32'; may be repeated")
	fl.StringArrayVar(&f.engines, "engine", []string{string(EngineFio)}, "load generator: fio, or blkd for this project's batching client; may be repeated")
	fl.IntVar(&f.rounds, "rounds", DefaultRounds, "runs of each job against each export")
	fl.DurationVar(&f.runtime, "runtime", 0, "length of a run (default: the job's own, 5s)")
	fl.StringArrayVar(&f.pids, "pid", nil, "server process of the export in the same place, or several with commas (default: whoever listens)")
	fl.BoolVar(&f.overwrite, "overwrite", false, "run jobs that write, which destroys what the exports hold")
	fl.StringVarP(&f.output, "output", "o", "table", "table or json")
	fl.StringVar(&f.html, "html", "", "also write a page with plots to this file")
	fl.StringVar(&f.disk, "disk", "", "count what reaches the disk under this directory, too")
	fl.StringVar(&f.fio, "fio", "fio", "fio program to run")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "no line per run on standard error")
	fl.BoolVar(&f.list, "list", false, "list the jobs and what they claim")
	return cmd
}

func (f *benchFlags) run(cmd *cobra.Command, args []string) error {
	if f.list {
		return list(cmd.OutOrStdout())
	}
	if f.output != "table" && f.output != "json" {
		return fmt.Errorf("--output %s: it can be table or json", f.output)
	}
	cfg, err := f.config(args, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	rep, err := Run(cmd.Context(), cfg)
	if rep == nil || len(rep.Results) == 0 {
		return err
	}
	// What was measured before an error is shown all the same.
	if showErr := f.show(rep, cmd.OutOrStdout()); err == nil {
		err = showErr
	}
	return err
}

// config turns flags and arguments into what Run takes.
func (f *benchFlags) config(args []string, talk io.Writer) (Config, error) {
	cfg := Config{Rounds: f.rounds, Runtime: f.runtime, Overwrite: f.overwrite, Program: f.fio, Disk: f.disk, Dial: dialNBD}
	if f.rounds < 1 {
		return cfg, fmt.Errorf("--rounds %d: at least one is needed", f.rounds)
	}
	if !f.quiet {
		cfg.Progress = talk
	}
	for i, arg := range args {
		t, err := ParseTarget(arg)
		if err != nil {
			return cfg, err
		}
		if i < len(f.pids) {
			if t.PIDs, err = parsePIDs(f.pids[i]); err != nil {
				return cfg, err
			}
		}
		cfg.Targets = append(cfg.Targets, t)
	}
	if len(f.pids) > len(args) {
		return cfg, fmt.Errorf("%d --pid for %d exports; give them in the order of the exports", len(f.pids), len(args))
	}
	for _, e := range f.engines {
		cfg.Engines = append(cfg.Engines, Engine(e))
	}
	names := f.jobs
	if len(names) == 0 {
		names = defaultJobs
	}
	jobs, err := SelectJobs(names)
	if err != nil {
		return cfg, err
	}
	for _, j := range jobs {
		if len(f.jobs) == 0 && j.Writes() && !f.overwrite {
			fmt.Fprintf(talk, "%s left out: it would overwrite the exports (see --overwrite)\n", j.Name)
			continue
		}
		cfg.Jobs = append(cfg.Jobs, j)
	}
	return cfg, nil
}

// show prints the report, and writes the page if one is wanted.
func (f *benchFlags) show(rep *Report, out io.Writer) error {
	if f.html != "" {
		file, err := os.Create(f.html)
		if err != nil {
			return err
		}
		if err := rep.HTML(file); err != nil {
			file.Close()
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	if f.output == "json" {
		return rep.JSON(out)
	}
	return rep.Table(out)
}

// list prints every job with its claim.
func list(out io.Writer) error {
	jobs, err := Jobs()
	if err != nil {
		return err
	}
	for _, j := range jobs {
		what := ""
		if j.Writes() {
			what = " (overwrites)"
		}
		fmt.Fprintf(out, "%s%s\n    %s\n", j.Name, what, j.Claim)
	}
	return nil
}

// parsePIDs reads "123" or "123,124".
func parsePIDs(s string) ([]int, error) {
	var pids []int
	for part := range strings.SplitSeq(s, ",") {
		pid, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || pid <= 0 {
			return nil, fmt.Errorf("--pid %s: %q is not a process id", s, part)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

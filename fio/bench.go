package fio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"blkd/blockdev"
)

// DefaultRounds is how often each job runs against each target: fewer say little on a
// machine that others use too.
const DefaultRounds = 5

// warmUp is the longest run before the first measured one.
const warmUp = time.Second

// Config says what Run measures.
type Config struct {
	Targets []Target
	Jobs    []Job
	Engines []Engine // each runs every job; empty: EngineFio
	Rounds  int      // 0: DefaultRounds

	// Runtime replaces the jobs' own; 0 keeps it. Jobs that end by themselves keep
	// their length.
	Runtime time.Duration
	// Overwrite allows jobs that write, which destroy what the exports hold.
	Overwrite bool
	// Disk is a path on the file system of the servers. If set, what reaches its disk
	// is counted too, for every process of the machine.
	Disk string
	// Prepare, if set, is called before every measured run.
	Prepare func(Job, Target) error
	// Program is the fio to run; empty: "fio" in PATH.
	Program string
	// Dial connects EngineBlkd to an NBD URI.
	Dial func(ctx context.Context, uri string) (blockdev.Device, error)
	// Progress, if set, gets one line per run.
	Progress io.Writer

	disk *disk
}

// ErrWouldOverwrite is returned when a job writes and Config.Overwrite is not set.
var ErrWouldOverwrite = errors.New("the job overwrites what the exports hold")

// Run runs every job against every target, in turns: round by round, within a round
// target by target, each round beginning with the next one. It stops at the first error and returns what was measured until
// then together with the error.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if err := cfg.complete(ctx); err != nil {
		return nil, err
	}
	rep := newReport(cfg)
	for _, e := range cfg.Engines {
		gen := cfg.generator(e)
		if err := gen.check(ctx); err != nil {
			return rep, err
		}
		for _, j := range cfg.Jobs {
			res, err := cfg.runJob(ctx, gen, e, j.withRuntime(cfg.Runtime))
			if res.rounds() > 0 {
				res.summarize()
				rep.Results = append(rep.Results, res)
			}
			if err != nil {
				return rep, err
			}
		}
	}
	return rep, nil
}

// complete checks the configuration and fills in what it leaves open.
func (cfg *Config) complete(ctx context.Context) error {
	if len(cfg.Targets) == 0 {
		return errors.New("no target to measure: name at least one NBD URI")
	}
	if len(cfg.Jobs) == 0 {
		return errors.New("no job to run; --list shows them all")
	}
	for _, j := range cfg.Jobs {
		if j.Writes() && !cfg.Overwrite {
			return fmt.Errorf("job %s: %w; say --overwrite if nothing on them is needed", j.Name, ErrWouldOverwrite)
		}
	}
	if cfg.Rounds == 0 {
		cfg.Rounds = DefaultRounds
	}
	if cfg.Rounds < 0 || cfg.Runtime < 0 {
		return fmt.Errorf("%d rounds of %v: neither can be negative", cfg.Rounds, cfg.Runtime)
	}
	if len(cfg.Engines) == 0 {
		cfg.Engines = []Engine{EngineFio}
	}
	if cfg.Program == "" {
		cfg.Program = "fio"
	}
	for _, e := range cfg.Engines {
		if err := cfg.supports(e); err != nil {
			return err
		}
	}
	if cfg.Disk != "" {
		var err error
		if cfg.disk, err = diskUnder(cfg.Disk); err != nil {
			return err
		}
	}
	for i := range cfg.Targets {
		t := &cfg.Targets[i]
		if err := t.answers(ctx); err != nil {
			return err
		}
		if err := t.locate(); err != nil {
			return err
		}
	}
	return nil
}

// supports tells whether an engine can run all the jobs.
func (cfg *Config) supports(e Engine) error {
	switch e {
	case EngineFio:
		return nil
	case EngineBlkd:
		for _, j := range cfg.Jobs {
			if _, err := loadOf(j); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("engine %q is not known; there are %s and %s", e, EngineFio, EngineBlkd)
}

func (cfg *Config) generator(e Engine) generator {
	if e == EngineBlkd {
		return &clientEngine{dial: cfg.Dial}
	}
	return fioEngine{program: cfg.Program}
}

// runJob measures one job: a short run per target that is thrown away, then the rounds.
// Each round begins with another target: what the machine did in between (freed memory
// that a hypervisor took back, say) hurts whoever comes first.
func (cfg *Config) runJob(ctx context.Context, gen generator, e Engine, j Job) (*Result, error) {
	res := &Result{Job: j.Name, Claim: j.Claim, Engine: e, Flushes: j.Flushes()}
	for _, t := range cfg.Targets {
		res.Targets = append(res.Targets, &TargetResult{Name: t.Name})
	}
	for _, t := range cfg.Targets {
		if d, err := j.runtime(); err == nil && d > 0 {
			if _, err := gen.run(ctx, j.withRuntime(min(d, warmUp)), t); err != nil {
				return res, err
			}
		}
		if err := settle(ctx, t.PIDs); err != nil {
			return res, err
		}
	}
	for round := 1; round <= cfg.Rounds; round++ {
		for k := range cfg.Targets {
			i := (k + round - 1) % len(cfg.Targets)
			t := cfg.Targets[i]
			if cfg.Prepare != nil {
				if err := cfg.Prepare(j, t); err != nil {
					return res, fmt.Errorf("before %s on %s: %w", j.Name, t.Name, err)
				}
			}
			s, err := cfg.measure(ctx, gen, j, t)
			if err != nil {
				return res, err
			}
			s.Round = round
			res.Targets[i].Samples = append(res.Targets[i].Samples, s)
			if cfg.Progress != nil {
				fmt.Fprintf(cfg.Progress, "%s, %s, round %d of %d: %s %s\n", j.Name, e, round, cfg.Rounds, t.Name, s.Figures)
			}
		}
	}
	return res, nil
}

// measure is one run, with what the server's processes used for it. What a server puts
// off belongs to the run that caused it, and must not disturb the next one: so the
// account is closed, and measure returns, when the server is idle again.
func (cfg *Config) measure(ctx context.Context, gen generator, j Job, t Target) (Sample, error) {
	before, err := cfg.account(t)
	if err != nil {
		return Sample{}, err
	}
	s, err := gen.run(ctx, j, t)
	if err != nil {
		return s, err
	}
	if err := settle(ctx, t.PIDs); err != nil {
		return s, err
	}
	after, err := cfg.account(t)
	if err != nil {
		return s, err
	}
	s.charge(before, after)
	return s, nil
}

// account is what a target's processes have used, and what its disk has taken.
func (cfg *Config) account(t Target) (u usage, err error) {
	if len(t.PIDs) > 0 {
		if u, err = usageOf(t.PIDs); err != nil {
			return u, err
		}
		u.known = true
	}
	if cfg.disk != nil {
		u.hasDisk = true
		u.disk, err = cfg.disk.written()
	}
	return u, err
}

const (
	quietTime  = 500 * time.Millisecond // a server that did nothing for so long is idle
	quietCPU   = 2 * clockTick          // what "nothing" may cost a process: timers, heartbeats, measuring
	quietBytes = 256 << 10              // and what it may write: a line in a log
	settleTime = 30 * time.Second       // a server that is never idle is measured as it is
)

// settle writes back what the kernel holds dirty, waits until the processes are idle,
// and returns what they have used.
func settle(ctx context.Context, pids []int) error {
	unix.Sync()
	last, err := usageOf(pids)
	if err != nil || len(pids) == 0 {
		return err
	}
	for deadline := time.Now().Add(settleTime); time.Now().Before(deadline); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(quietTime):
		}
		now, err := usageOf(pids)
		if err != nil {
			return err
		}
		n := len(pids)
		quiet := now.cpu-last.cpu <= time.Duration(n)*quietCPU && now.wrote-last.wrote <= int64(n)*quietBytes
		last = now
		if quiet {
			break
		}
	}
	unix.Sync()
	return nil
}

package sim

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const usage = `blksim simulates clusters from seeds and checks every rule of the protocol.

  blksim run [--seeds N] [--first N] [--time 10m] [--keep DIR]   run seeds; shrink and keep the first that fails
  blksim replay SEED | FILE                                      run one again, with its trace
  blksim shrink SEED | FILE [--keep DIR]                         cut a failing one down
  blksim scenario [NAME] [--first N]                             run the named scenarios whose names contain this
  blksim rules                                                   what is checked, and by what
`

// Main is blksim. It returns the exit code: 1 if a rule was broken, 2 for bad usage.
func Main(args []string, out, errs io.Writer) int {
	debug.SetGCPercent(400) // short-lived messages, and many
	if len(args) == 0 {
		fmt.Fprint(errs, usage)
		return 2
	}
	c := command{out: out}
	f := flag.NewFlagSet("blksim "+args[0], flag.ContinueOnError)
	f.SetOutput(errs)
	f.Uint64Var(&c.seeds, "seeds", 1000, "how many seeds")
	f.Uint64Var(&c.first, "first", 1, "the first seed; that of scenarios")
	f.DurationVar(&c.time, "time", 0, "stop after this time; 0: after all seeds")
	f.StringVar(&c.keep, "keep", "", "directory in which failing schedules are kept; empty: they are only printed")
	var names []string
	for rest := args[1:]; ; rest = f.Args()[1:] { // flags may stand behind names
		if err := f.Parse(rest); errors.Is(err, flag.ErrHelp) {
			return 0
		} else if err != nil {
			return 2
		}
		if f.NArg() == 0 {
			break
		}
		names = append(names, f.Arg(0))
	}
	failed, err := c.do(args[0], names)
	switch {
	case err != nil:
		fmt.Fprintf(errs, "blksim: %v\n", err)
		return 2
	case failed:
		return 1
	}
	return 0
}

type command struct {
	out   io.Writer
	seeds uint64
	first uint64
	time  time.Duration
	keep  string
}

func (c *command) do(verb string, names []string) (failed bool, err error) {
	name := strings.Join(names, " ")
	switch verb {
	case "run":
		if name != "" {
			return false, fmt.Errorf("run takes no %q; to run one seed again: blksim replay SEED", name)
		}
		return c.run()
	case "replay", "shrink":
		p, err := find(name)
		if err != nil {
			return false, err
		}
		if verb == "shrink" {
			return c.shrink(p)
		}
		r := Run(p, c.out)
		c.report(p, r)
		return r.Violation != nil, nil
	case "scenario":
		return c.scenarios(name)
	case "rules":
		for _, r := range Rules() {
			fmt.Fprintf(c.out, "%-9s %s\n%9s by %s\n", r.Name, r.Text, "", r.By)
		}
		return false, nil
	case "help", "-h", "--help":
		fmt.Fprint(c.out, usage)
		return false, nil
	}
	return false, fmt.Errorf("there is no command %q; see: blksim help", verb)
}

// find is the schedule of a seed, or of a file.
func find(name string) (Schedule, error) {
	if seed, err := strconv.ParseUint(name, 10, 64); err == nil {
		return Plan(seed), nil
	}
	if name == "" {
		return Schedule{}, errors.New("which one? Give a seed, or a file of testdata/seeds")
	}
	return Load(name)
}

func (c *command) report(p Schedule, r Result) {
	if r.Violation != nil {
		fmt.Fprintf(c.out, "seed %d breaks %v\n", p.Seed, r.Violation)
	}
	fmt.Fprintf(c.out, "seed %d: hash %016x, %v simulated, %d faults, %+v\n", p.Seed, r.Hash, r.Simulated.Round(time.Millisecond), len(p.Faults), r.Tally)
}

// run runs seeds until one fails, or all are done, or the time is over.
func (c *command) run() (failed bool, err error) {
	begun, worked := time.Now(), cpuTime()
	var sum Tally
	var simulated time.Duration
	ran := uint64(0)
	for seed := c.first; ran < c.seeds && (c.time == 0 || time.Since(begun) < c.time); seed++ {
		p := Plan(seed)
		r := Run(p, nil)
		ran++
		sum.Add(r.Tally)
		simulated += r.Simulated
		if r.Violation != nil {
			c.report(p, r)
			p.Rule = r.Violation.Rule
			if _, err := c.shrink(p); err != nil {
				return true, err
			}
			failed = true
			break
		}
	}
	took, worked := time.Since(begun), cpuTime()-worked
	fmt.Fprintf(c.out, "seeds %d to %d in %v: %.1f seeds/s, %.1f hours simulated; of one core %.1f seeds/s, %.0f times real time\n%+v\n", c.first, c.first+ran-1,
		took.Round(time.Millisecond), float64(ran)/took.Seconds(), simulated.Hours(), float64(ran)/worked.Seconds(), simulated.Seconds()/worked.Seconds(), sum)
	return failed, nil
}

// cpuTime is what this process has had of all cores.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // only bad arguments are an error
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// shrinkTime bounds how long is tried to make a schedule shorter.
const shrinkTime = time.Minute

// shrink cuts a failing schedule down, prints it and keeps it.
func (c *command) shrink(p Schedule) (failed bool, err error) {
	r := Run(p, nil)
	if r.Violation == nil {
		fmt.Fprintf(c.out, "seed %d breaks no rule\n", p.Seed)
		return false, nil
	}
	p.Rule, p.Note = r.Violation.Rule, r.Violation.Text
	end := time.Now().Add(shrinkTime)
	q := Shrink(p, func(q Schedule) (string, bool) {
		r := Run(q, nil)
		if r.Violation == nil {
			return "", time.Now().Before(end)
		}
		return r.Violation.Rule, time.Now().Before(end)
	})
	q.Note = Run(q, nil).Violation.Error()
	fmt.Fprintf(c.out, "shrunk from %d faults in %v to %d in %v: %s\n", len(p.Faults), p.Length, len(q.Faults), q.Length, q.Note)
	for _, f := range q.Faults {
		fmt.Fprintln(c.out, f)
	}
	if c.keep == "" {
		return true, nil
	}
	file := filepath.Join(c.keep, fmt.Sprintf("%s-%d.json", q.Rule, q.Seed))
	if err := os.MkdirAll(c.keep, 0o777); err != nil {
		return true, err
	}
	if err := q.Save(file); err != nil {
		return true, err
	}
	fmt.Fprintf(c.out, "kept as %s; to see its trace: blksim replay %s\n", file, file)
	return true, nil
}

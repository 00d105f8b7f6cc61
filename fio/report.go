package fio

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Report is everything one Run measured. Its JSON form is a contract: fields may be
// added, never changed.
type Report struct {
	Started time.Time `json:"started"`
	Machine string    `json:"machine"` // processor count and kernel
	Rounds  int       `json:"rounds"`
	Targets []Target  `json:"targets"`
	Results []*Result `json:"results"`
}

// Result is one job run by one engine against every target.
type Result struct {
	Job     string          `json:"job"`
	Claim   string          `json:"claim"`
	Engine  Engine          `json:"engine"`
	Flushes bool            `json:"flushes"` // the latencies are those of the flushes
	Targets []*TargetResult `json:"targets"` // in the order of Report.Targets
}

// TargetResult is what one target did in one job.
type TargetResult struct {
	Name    string             `json:"name"`
	Summary map[Metric]Summary `json:"summary"`
	// Ratios compare runs of the same round with the first target's; the first target
	// has none.
	Ratios  map[Metric]Summary `json:"ratios,omitempty"`
	Samples []Sample           `json:"samples"`
}

func newReport(cfg Config) *Report {
	return &Report{Started: time.Now().UTC().Truncate(time.Second), Machine: machine(), Rounds: cfg.Rounds, Targets: cfg.Targets}
}

// machine describes where the load and, mostly, the servers run.
func machine() string {
	var u unix.Utsname
	release := "unknown kernel"
	if unix.Uname(&u) == nil {
		release = "Linux " + unix.ByteSliceToString(u.Release[:])
	}
	return fmt.Sprintf("%d CPUs, %s, %s", runtime.NumCPU(), release, runtime.GOARCH)
}

// rounds is how many runs the last target has: all of a round, or of an aborted one.
func (r *Result) rounds() int {
	if len(r.Targets) == 0 {
		return 0
	}
	return len(r.Targets[len(r.Targets)-1].Samples)
}

// summarize computes medians, spreads and ratios from the samples.
func (r *Result) summarize() {
	for i, t := range r.Targets {
		t.Summary = map[Metric]Summary{}
		for _, m := range Metrics {
			var values []float64
			for _, s := range t.Samples {
				if v, ok := s.Figures[m]; ok {
					values = append(values, v)
				}
			}
			if len(values) > 0 {
				t.Summary[m] = summarize(values)
			}
		}
		if i == 0 {
			continue
		}
		t.Ratios = map[Metric]Summary{}
		for _, m := range Metrics {
			if v := ratios(t.Samples, r.Targets[0].Samples, m); len(v) > 0 {
				t.Ratios[m] = summarize(v)
			}
		}
	}
}

// Find returns the result of a job by an engine, or nil.
func (rep *Report) Find(job string, e Engine) *Result {
	for _, r := range rep.Results {
		if r.Job == job && r.Engine == e {
			return r
		}
	}
	return nil
}

// Target returns the part of a result that belongs to a target, or nil.
func (r *Result) Target(name string) *TargetResult {
	for _, t := range r.Targets {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Ratio compares two targets of a result, round by round; ok is false when one of them
// was not measured.
func (r *Result) Ratio(m Metric, name, over string) (s Summary, ok bool) {
	a, b := r.Target(name), r.Target(over)
	if a == nil || b == nil {
		return s, false
	}
	v := ratios(a.Samples, b.Samples, m)
	return summarize(v), len(v) > 0
}

// JSON writes the report as one indented JSON object.
func (rep *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(rep)
}

// String shows the most telling figures of a run.
func (f Figures) String() string {
	parts := []string{count(f[IOPS]) + " IO/s"}
	if v, ok := f[P50]; ok {
		parts = append(parts, "p50 "+micros(v))
	}
	if v, ok := f[CPU]; ok {
		parts = append(parts, fmt.Sprintf("%.1f µs CPU per I/O", v))
	}
	return strings.Join(parts, ", ")
}

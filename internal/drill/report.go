package drill

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
	"time"
)

// Report is what all drills have shown.
type Report struct {
	Cluster     string    `json:"cluster"`
	Volume      string    `json:"volume"`
	Began       time.Time `json:"began"`
	MTBFSeconds float64   `json:"mtbf_seconds"`
	Passed      bool      `json:"passed"` // none failed, and not all were skipped
	Drills      []*Result `json:"drills"`
}

// Add takes a result in, and says what it costs if it happens once in the mean time
// between failures.
func (r *Report) Add(x *Result) {
	if x.Outcome != Skipped {
		x.Availability, x.Nines = availability(x.StallSeconds, r.MTBFSeconds)
	}
	r.Drills = append(r.Drills, x)
	failed, held := 0, 0
	for _, d := range r.Drills {
		switch d.Outcome {
		case Failed:
			failed++
		case Passed:
			held++
		}
	}
	r.Passed = failed == 0 && held > 0
}

// availability is the part of the time in which there is service, and its nines: three
// are 99.9 %.
func availability(stall, mtbf float64) (part, nines float64) {
	lost := stall / (mtbf + stall)
	return 1 - lost, -math.Log10(max(lost, 1e-12))
}

// WriteText writes the report as a table with what went wrong below.
func (r *Report) WriteText(w io.Writer) {
	fmt.Fprintln(w, strings.Join([]string{"DRILL", "RESULT", "NODE", "DETECTED", "STALL", "RECOVERED", "WRITES", "LOST", "NINES"}, "\t"))
	for _, d := range r.Drills {
		if d.Outcome == Skipped {
			fmt.Fprintf(w, "%s\t%s\t-\t-\t-\t-\t-\t-\t-\n", d.Name, d.Outcome)
			continue
		}
		detected := "-"
		if d.DetectionSeconds != nil {
			detected = seconds(*d.DetectionSeconds)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%.1f\n", d.Name, d.Outcome, d.Node, detected, seconds(d.StallSeconds), seconds(d.RecoverySeconds), d.Writes, d.Lost, d.Nines)
	}
	for _, d := range r.Drills {
		for _, why := range d.Why {
			fmt.Fprintf(w, "! %s %s: %s\n", d.Name, d.Outcome, why)
		}
		if d.Violation != "" {
			fmt.Fprintln(w, d.Violation)
		}
	}
	fmt.Fprintf(w, "Nines: of the service if what a drill does happens once in %s.\n", mtbf(r.MTBFSeconds))
}

func seconds(s float64) string {
	if s < 1 {
		return fmt.Sprintf("%.0f ms", s*1000)
	}
	return fmt.Sprintf("%.1f s", s)
}

func mtbf(s float64) string {
	if s >= 48*3600 {
		return fmt.Sprintf("%.0f days", s/86400)
	}
	return time.Duration(s * float64(time.Second)).String()
}

//go:embed report.html
var page string

// The size of a time line in its page.
const (
	chartWidth  = 900.0
	chartHeight = 120.0
)

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"seconds": seconds, "mtbf": mtbf,
	"percent": func(p float64) string {
		return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.9f", 100*p), "0"), ".")
	},
	"deref": func(p *float64) float64 { return *p },
	"chart": newChart,
}).Parse(page))

// WriteHTML writes the report as a page of its own, with the time line of each drill.
func (r *Report) WriteHTML(w io.Writer) error { return pageTemplate.Execute(w, r) }

// chart is a time line as it is drawn.
type chart struct {
	Width, Height float64
	Bars          []bar
	Marks         []mark
	Most          int // writes in a second, at the highest bar
	Length        string
}

type bar struct {
	X, Y, Width, Height float64
	Broken              bool // a client was disconnected
}

type mark struct {
	X, At float64
	Text  string
}

func newChart(t *Timeline) *chart {
	c := &chart{Width: chartWidth, Height: chartHeight}
	steps := len(t.Writes)
	if steps == 0 {
		return c
	}
	most := 1
	for _, n := range t.Writes {
		most = max(most, n)
	}
	c.Most, c.Length = int(float64(most)/t.StepSeconds), seconds(float64(steps)*t.StepSeconds)
	width := c.Width / float64(steps)
	for i, n := range t.Writes {
		h := c.Height * float64(n) / float64(most)
		b := bar{X: float64(i) * width, Y: c.Height - h, Width: width, Height: h, Broken: i < len(t.Disconnects) && t.Disconnects[i] > 0}
		if b.Broken {
			b.Y, b.Height = 0, c.Height
		}
		c.Bars = append(c.Bars, b)
	}
	for _, x := range t.Changes {
		c.Marks = append(c.Marks, mark{X: min(x.Seconds/t.StepSeconds*width, c.Width), At: x.Seconds, Text: x.Text})
	}
	return c
}

package fio

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Table writes the report for a reader: one block per job, one line per target.
func (rep *Report) Table(w io.Writer) error {
	fmt.Fprintf(w, "%s · %s · median of %d rounds, run in turns · ± is half the spread\n", rep.Started.Format("2006-01-02"), rep.Machine, rep.Rounds)
	for _, r := range rep.Results {
		if err := r.table(w); err != nil {
			return err
		}
	}
	return nil
}

func (r *Result) table(w io.Writer) error {
	what := ""
	if r.Flushes {
		what = ", latency of the flushes"
	}
	fmt.Fprintf(w, "\n%s (%s%s)\n", r.Job, r.Engine, what)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "SERVER\tIO/s\t±\tMB/s\tP50\tP99\tP99.9\tCPU/IO\tWRITTEN\tDISK\tIO/s ×\tSPREAD\tP50 ×\tCPU ×\t")
	for _, t := range r.Targets {
		s := t.Summary
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", t.Name,
			show(s, IOPS, count), spread(s, IOPS), show(s, MBps, plain),
			show(s, P50, micros), show(s, P99, micros), show(s, P999, micros),
			show(s, CPU, micros), show(s, WriteAmp, times), show(s, DiskAmp, times),
			show(t.Ratios, IOPS, times), bounds(t.Ratios, IOPS), show(t.Ratios, P50, times), show(t.Ratios, CPU, times))
	}
	return tw.Flush()
}

// show formats a metric's median, or a dash when it was not measured.
func show(s map[Metric]Summary, m Metric, format func(float64) string) string {
	v, ok := s[m]
	if !ok {
		return "–"
	}
	return format(v.Median)
}

// spread is half the distance between the best and the worst round, in percent.
func spread(s map[Metric]Summary, m Metric) string {
	v, ok := s[m]
	if !ok || v.Median == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f%%", (v.Max-v.Min)/2/v.Median*100)
}

// bounds is the smallest and the largest value of any round.
func bounds(s map[Metric]Summary, m Metric) string {
	v, ok := s[m]
	if !ok {
		return "–"
	}
	return fmt.Sprintf("%.2f–%.2f", v.Min, v.Max)
}

// count formats a rate.
func count(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1fk", v/1e3)
	case v >= 1e3:
		return fmt.Sprintf("%.2fk", v/1e3)
	}
	return fmt.Sprintf("%.0f", v)
}

// micros formats microseconds.
func micros(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2f s", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%.1f ms", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f µs", v)
	}
	return fmt.Sprintf("%.1f µs", v)
}

func plain(v float64) string { return fmt.Sprintf("%.0f", v) }

func times(v float64) string { return fmt.Sprintf("%.2f", v) }

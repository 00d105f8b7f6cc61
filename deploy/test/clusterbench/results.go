package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

var names = [2]string{"blkd", "etcd"}

// results are the times of every round.
type results struct {
	order  []string
	rounds map[string]*[2][][]time.Duration // by what was measured: for each side, the times of each round
}

func newResults() *results { return &results{rounds: map[string]*[2][][]time.Duration{}} }

// add takes in one round of one side.
func (r *results) add(what string, side int, times []time.Duration) {
	if r.rounds[what] == nil {
		r.rounds[what] = new([2][][]time.Duration)
		r.order = append(r.order, what)
	}
	slices.Sort(times)
	r.rounds[what][side] = append(r.rounds[what][side], times)
}

// quantile is a time that a part of the sorted times does not exceed.
func quantile(times []time.Duration, part float64) time.Duration {
	return times[min(int(part*float64(len(times))), len(times)-1)]
}

// print writes a table: for each quantile the median of the rounds of each side,
// and of the ratios of the rounds, with the least and the greatest of them.
func (r *results) print(w io.Writer) {
	fmt.Fprintf(w, "| %-33s | %-6s | %9s | %9s | %-21s |\n", "one change", "", "blkd", "etcd", "blkd ÷ etcd")
	fmt.Fprintln(w, "| --- | --- | --- | --- | --- |")
	for _, what := range r.order {
		rounds := r.rounds[what]
		parts := []struct {
			name string
			part float64
		}{{"p50", 0.5}, {"p99", 0.99}}
		if what == recovery {
			parts[1].name, parts[1].part = "max", 1
		}
		for _, p := range parts {
			var at [2][]time.Duration
			var ratios []float64
			for i := range rounds[0] {
				ours, theirs := quantile(rounds[0][i], p.part), quantile(rounds[1][i], p.part)
				at[0], at[1] = append(at[0], ours), append(at[1], theirs)
				ratios = append(ratios, float64(ours)/float64(theirs))
			}
			slices.Sort(at[0])
			slices.Sort(at[1])
			slices.Sort(ratios)
			middle := len(ratios) / 2
			fmt.Fprintf(w, "| %-33s | %-6s | %9s | %9s | %.2f (%.2f to %.2f) |\n", what, p.name,
				millis(at[0][middle]), millis(at[1][middle]), ratios[middle], ratios[0], ratios[len(ratios)-1])
		}
	}
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}

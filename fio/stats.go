package fio

import "slices"

// Summary is what several rounds say about one figure.
type Summary struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Rounds int     `json:"rounds"`
}

// summarize returns the median and the spread of the values; none gives the zero Summary.
func summarize(values []float64) Summary {
	if len(values) == 0 {
		return Summary{}
	}
	v := slices.Sorted(slices.Values(values))
	mid := len(v) / 2
	s := Summary{Median: v[mid], Min: v[0], Max: v[len(v)-1], Rounds: len(v)}
	if len(v)%2 == 0 {
		s.Median = (v[mid-1] + v[mid]) / 2
	}
	return s
}

// Metric names one figure of a run.
type Metric string

// The figures of a run. A run has only those that could be measured.
const (
	IOPS     Metric = "iops"                     // requests per second, reads and writes
	MBps     Metric = "mb_per_s"                 // 10^6 bytes per second
	P50      Metric = "p50_us"                   // latency in microseconds: median,
	P99      Metric = "p99_us"                   // 99th
	P999     Metric = "p999_us"                  // and 99.9th percentile
	CPU      Metric = "cpu_us_per_io"            // server CPU microseconds per request
	WriteAmp Metric = "write_amplification"      // bytes the server dirtied per byte written to it
	DiskAmp  Metric = "disk_write_amplification" // bytes that reached the disk per byte written
)

// Metrics lists every Metric in the order they are shown.
var Metrics = []Metric{IOPS, MBps, P50, P99, P999, CPU, WriteAmp, DiskAmp}

// Figures are the results of one run.
type Figures map[Metric]float64

// ratios returns a[i]/b[i] of metric m for the rounds in which both have it.
func ratios(a, b []Sample, m Metric) []float64 {
	var out []float64
	for i := range min(len(a), len(b)) {
		x, okX := a[i].Figures[m]
		y, okY := b[i].Figures[m]
		if okX && okY && y != 0 {
			out = append(out, x/y)
		}
	}
	return out
}

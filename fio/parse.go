package fio

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fioOutput is the part of fio's JSON (--output-format=json+) that is used.
type fioOutput struct {
	Version string   `json:"fio version"`
	Jobs    []fioJob `json:"jobs"`
}

type fioJob struct {
	Name  string       `json:"jobname"`
	Error int          `json:"error"` // an errno
	Read  fioDirection `json:"read"`
	Write fioDirection `json:"write"`
	Sync  fioSync      `json:"sync"`
}

type fioDirection struct {
	Bytes     int64      `json:"io_bytes"`
	IOs       int64      `json:"total_ios"`
	RuntimeMs int64      `json:"runtime"`
	Latency   fioLatency `json:"lat_ns"`
}

type fioSync struct {
	IOs     int64      `json:"total_ios"`
	Latency fioLatency `json:"lat_ns"`
}

type fioLatency struct {
	Bins map[string]int64 `json:"bins"`
}

// parseOutput reads fio's JSON. fio prints lines of text before it, and may print some
// after it.
func parseOutput(out []byte) (*fioOutput, error) {
	start := bytes.IndexByte(out, '{')
	if start < 0 {
		return nil, fmt.Errorf("fio printed no JSON, but %q", clip(string(out)))
	}
	var o fioOutput
	if err := json.NewDecoder(bytes.NewReader(out[start:])).Decode(&o); err != nil {
		return nil, fmt.Errorf("reading fio's JSON: %w (it begins %q)", err, clip(string(out[start:])))
	}
	if len(o.Jobs) == 0 {
		return nil, fmt.Errorf("fio's JSON has no job in it")
	}
	return &o, nil
}

// sample turns fio's output for one job into figures.
func (o *fioOutput) sample(flushes bool) (Sample, error) {
	s := Sample{Latency: Histogram{}}
	var total, runtimeMs int64
	for _, j := range o.Jobs {
		if j.Error != 0 {
			return s, fmt.Errorf("fio's job %s ended with errno %d", j.Name, j.Error)
		}
		s.ios += j.Read.IOs + j.Write.IOs
		s.wrote += j.Write.Bytes
		total += j.Read.Bytes + j.Write.Bytes
		runtimeMs = max(runtimeMs, elapsedMs(j))
		latencies := []fioLatency{j.Read.Latency, j.Write.Latency}
		if flushes {
			latencies = []fioLatency{j.Sync.Latency}
		}
		for _, l := range latencies {
			if err := s.Latency.addBins(l.Bins); err != nil {
				return s, err
			}
		}
	}
	if s.ios == 0 {
		return s, fmt.Errorf("fio did no I/O")
	}
	s.fill(total, time.Duration(runtimeMs)*time.Millisecond)
	return s, nil
}

// elapsedMs is how long a job ran. Reads and writes of a mixed job run at the same
// time; a verifying job first writes and then reads.
func elapsedMs(j fioJob) int64 {
	if strings.HasPrefix(j.Name, "verify") {
		return j.Read.RuntimeMs + j.Write.RuntimeMs
	}
	return max(j.Read.RuntimeMs, j.Write.RuntimeMs)
}

// addBins adds fio's latency bins: nanoseconds, as JSON keys, to counts.
func (h Histogram) addBins(bins map[string]int64) error {
	for key, n := range bins {
		ns, err := strconv.ParseInt(key, 10, 64)
		if err != nil {
			return fmt.Errorf("fio's latency bin %q is not a number", key)
		}
		h[ns] += n
	}
	return nil
}

// parseIOPSLog reads one fio IOPS log: "ms, iops, direction, size, offset" a line, one
// log per process of a job. It adds to sum: time slot (of width) to rate.
func parseIOPSLog(text []byte, width time.Duration, sum map[int64]float64) error {
	for line := range strings.Lines(string(text)) {
		f := strings.Split(line, ",")
		if len(f) < 2 {
			return fmt.Errorf("fio's log line %q has no two columns", strings.TrimSpace(line))
		}
		ms, err1 := strconv.ParseInt(strings.TrimSpace(f[0]), 10, 64)
		iops, err2 := strconv.ParseFloat(strings.TrimSpace(f[1]), 64)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("fio's log line %q is not two numbers", strings.TrimSpace(line))
		}
		// A slot's line is written when the slot ends, or a little later.
		slot := (ms + width.Milliseconds()/2) / width.Milliseconds()
		sum[slot] += iops
	}
	return nil
}

// series turns slots into points in time order.
func series(sum map[int64]float64, width time.Duration) []Point {
	var points []Point
	for slot, iops := range sum {
		points = append(points, Point{At: time.Duration(slot) * width, IOPS: iops})
	}
	slices.SortFunc(points, func(a, b Point) int { return int(a.At - b.At) })
	return points
}

// clip shortens text for an error message.
func clip(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 300 {
		s = s[:300] + " …"
	}
	return s
}

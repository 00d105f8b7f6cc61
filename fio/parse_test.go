package fio

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func readSample(t *testing.T, job string, flushes bool) Sample {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", job+".json"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := parseOutput(text)
	if err != nil {
		t.Fatal(err)
	}
	s, err := out.sample(flushes)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The numbers are those of testdata/*.json, which fio 3.33 printed.
func TestParseFioOutput(t *testing.T) {
	for _, c := range []struct {
		job                 string
		flushes             bool
		ios, wrote, latency int64 // latency: how many were counted
		took                time.Duration
	}{
		{"randwrite-4k-qd32", false, 493, 493 * 4096, 493, 24 * time.Millisecond},
		{"fsync1-4k-qd1", true, 127, 127 * 4096, 126, 21 * time.Millisecond},
		{"mixed-70-30-4k-qd32", false, 226, 70 * 4096, 226, 21 * time.Millisecond},
		{"verify-crc32c", false, 512, 256 * 4096, 512, 20 * time.Millisecond},
	} {
		s := readSample(t, c.job, c.flushes)
		if s.ios != c.ios || s.wrote != c.wrote || s.Latency.Count() != c.latency {
			t.Errorf("%s: %d I/Os, %d bytes written, %d latencies, want %d, %d, %d",
				c.job, s.ios, s.wrote, s.Latency.Count(), c.ios, c.wrote, c.latency)
		}
		if want := float64(c.ios) / c.took.Seconds(); math.Abs(s.Figures[IOPS]-want) > 1e-6 {
			t.Errorf("%s: %v IO/s, want %v", c.job, s.Figures[IOPS], want)
		}
		if f := s.Figures; !(f[P50] > 0 && f[P50] <= f[P99] && f[P99] <= f[P999]) {
			t.Errorf("%s: percentiles %v, %v, %v do not rise", c.job, f[P50], f[P99], f[P999])
		}
	}
}

// Our percentiles, from fio's bins, must be the ones fio computed itself.
func TestPercentilesAgreeWithFio(t *testing.T) {
	text, err := os.ReadFile("testdata/randwrite-4k-qd32.json")
	if err != nil {
		t.Fatal(err)
	}
	s := readSample(t, "randwrite-4k-qd32", false)
	for metric, key := range map[Metric]string{P50: `"50.000000" : `, P99: `"99.000000" : `} {
		_, rest, _ := strings.Cut(string(text), key)
		want, _, _ := strings.Cut(rest, ",")
		ns, err := time.ParseDuration(want + "ns")
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Figures[metric] * 1e3; math.Abs(got-float64(ns)) > 1 {
			t.Errorf("%s is %v ns, fio says %s", metric, got, want)
		}
	}
}

func TestParseFioRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":   "",
		"text only": "fio: failed parsing uri\n",
		"cut off":   `fio: x` + "\n" + `{"jobs":[{"jobname":"a"`,
		"no job":    `{"jobs":[]}`,
	} {
		if _, err := parseOutput([]byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, text := range map[string]string{
		"errno":   `{"jobs":[{"jobname":"a","error":5,"read":{"total_ios":1}}]}`,
		"no I/O":  `{"jobs":[{"jobname":"a"}]}`,
		"bad bin": `{"jobs":[{"jobname":"a","read":{"total_ios":1,"lat_ns":{"bins":{"x":1}}}}]}`,
	} {
		out, err := parseOutput([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.sample(false); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParseIOPSLog(t *testing.T) {
	sum := map[int64]float64{}
	// Two processes of one job; the second is a little late.
	for _, text := range []string{"251, 100, 1, 0, 0\n500, 200, 1, 0, 0\n", "260, 10, 1, 0, 0\n512, 20, 1, 0, 0\n"} {
		if err := parseIOPSLog([]byte(text), 250*time.Millisecond, sum); err != nil {
			t.Fatal(err)
		}
	}
	got := series(sum, 250*time.Millisecond)
	if len(got) != 2 || got[0] != (Point{250 * time.Millisecond, 110}) || got[1] != (Point{500 * time.Millisecond, 220}) {
		t.Errorf("got %v", got)
	}
	for _, bad := range []string{"x\n", "a, b\n"} {
		if err := parseIOPSLog([]byte(bad), time.Second, sum); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

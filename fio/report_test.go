package fio

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
)

// madeUpReport compares two servers in two jobs; the second is twice as fast.
func madeUpReport(t *testing.T) *Report {
	t.Helper()
	rep := &Report{
		Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Machine: "1 CPU", Rounds: 2,
		Targets: []Target{{Name: "a<b", URI: "nbd://h/a?x=1&y"}, {Name: "c", URI: "nbd://h/c"}},
	}
	for _, job := range []string{"one", "two"} {
		r := &Result{Job: job, Claim: "Fast & <safe>.", Engine: EngineFio}
		for i, name := range []string{"a<b", "c"} {
			tr := &TargetResult{Name: name}
			for round := 1; round <= 2; round++ {
				s := Sample{Round: round, Latency: Histogram{}, ios: int64(1000 * (i + 1))}
				for n := range int64(1000) {
					s.Latency.Add((n + 50) * 1000 / int64(i+1))
				}
				s.fill(s.ios*4096, time.Second)
				s.Figures[CPU] = 10
				for at := 1; at <= 4; at++ {
					s.Series = append(s.Series, Point{time.Duration(at) * seriesWidth, float64(1000*(i+1) + 10*round)})
				}
				tr.Samples = append(tr.Samples, s)
			}
			r.Targets = append(r.Targets, tr)
		}
		r.summarize()
		rep.Results = append(rep.Results, r)
	}
	return rep
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	if err := madeUpReport(t).Table(&b); err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`(?m)^ +c +2\.00k +0% .* 10\.0 µs +– +– +2\.00 +2\.00–2\.00 +0\.50 +1\.00$`)
	if len(row.FindAllString(b.String(), -1)) != 2 {
		t.Errorf("no row for c with ratio 2 in each job:\n%s", b.String())
	}
}

func TestJSONIsStable(t *testing.T) {
	var b bytes.Buffer
	if err := madeUpReport(t).JSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Started string
		Results []struct {
			Job, Engine string
			Targets     []struct {
				Name    string
				Summary map[string]struct{ Median, Min, Max, Rounds float64 }
				Ratios  map[string]struct{ Median float64 }
				Samples []struct {
					Round   int
					Figures map[string]float64
				}
			}
		}
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	c := got.Results[1].Targets[1]
	if got.Started != "2026-01-02T03:04:05Z" || c.Name != "c" || c.Summary["iops"].Median != 2000 || c.Summary["iops"].Rounds != 2 ||
		c.Ratios["iops"].Median != 2 || c.Samples[1].Round != 2 || c.Samples[1].Figures["cpu_us_per_io"] != 10 {
		t.Errorf("unexpected JSON:\n%s", b.String())
	}
}

// The page must stand alone: nothing loaded from elsewhere, every picture well formed,
// names escaped.
func TestHTMLStandsAlone(t *testing.T) {
	var b bytes.Buffer
	if err := madeUpReport(t).HTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, outside := range []string{"src=", "href=", "url(", "@import", "<script", "http:", "https:"} {
		if strings.Contains(page, outside) {
			t.Errorf("the page contains %s", outside)
		}
	}
	if strings.Contains(page, "a<b") || strings.Contains(page, "<safe>") || strings.Contains(page, "NaN") {
		t.Error("the page contains an unescaped name or NaN")
	}
	pictures := regexp.MustCompile(`(?s)<svg .*?</svg>`).FindAllString(page, -1)
	if len(pictures) != 2+2*2 {
		t.Errorf("%d pictures, want ratios of rate and CPU, and latency and time of two jobs", len(pictures))
	}
	for _, p := range pictures {
		if strings.Count(p, "<path")+strings.Count(p, "<rect") < 2 {
			t.Errorf("a picture shows fewer than two series:\n%s", p)
		}
		for d := xml.NewDecoder(strings.NewReader(p)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%v in\n%s", err, p)
			}
		}
	}
}

func TestScalesHoldTheirValues(t *testing.T) {
	for _, hi := range []float64{0, 0.3, 1, 7, 99, 100, 12345, 8e6} {
		s, ticks := linearScale(hi, 0, 100)
		if s.hi < hi || len(ticks) < 2 || len(ticks) > 8 {
			t.Errorf("0 to %v: scale to %v with ticks %v", hi, s.hi, ticks)
		}
	}
	for _, r := range [][2]float64{{1, 1}, {0.5, 2}, {3, 4}, {0.1, 5e6}, {20, 30000}} {
		s, ticks := logScale(r[0], r[1], 0, 100)
		if s.lo > r[0] || s.hi < r[1] || len(ticks) < 2 || len(ticks) > 9 {
			t.Errorf("%v: scale %v to %v with ticks %v", r, s.lo, s.hi, ticks)
		}
		if s.at(s.lo) != 0 || s.at(s.hi) < 99.9 {
			t.Errorf("%v: ends map to %v and %v", r, s.at(s.lo), s.at(s.hi))
		}
	}
}

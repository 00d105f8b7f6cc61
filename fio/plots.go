package fio

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strconv"
)

// latencyPlot draws latency against percentile, with the tail stretched: each step to
// the right is ten times rarer.
func (r *Result) latencyPlot() template.HTML {
	type curve struct {
		name string
		bins []bin
		n    int64
	}
	var curves []curve
	lo, hi, rarest := math.Inf(1), 0.0, 10.0
	for _, t := range r.Targets {
		h := Histogram{}
		for _, s := range t.Samples {
			h.Merge(s.Latency)
		}
		bins, n := h.sorted(), h.Count()
		if n == 0 {
			curves = append(curves, curve{name: t.Name})
			continue
		}
		curves = append(curves, curve{t.Name, bins, n})
		lo, hi = min(lo, float64(bins[0].ns)/1e3), max(hi, float64(bins[len(bins)-1].ns)/1e3)
		rarest = max(rarest, float64(n))
	}
	if hi == 0 {
		return ""
	}
	rarest = math.Pow(10, math.Floor(math.Log10(min(rarest/3, 1e5))))
	x := axis{scale: scale{lo: 1, hi: rarest, from: plotLeft, to: plotRight, log: true}, title: "percentile", format: percentile}
	for v := 1.0; v <= rarest; v *= 10 {
		x.ticks = append(x.ticks, v)
	}
	y := axis{format: microsTick}
	y.scale, y.ticks = logScale(max(lo, 0.1), hi, plotBottom, plotTop)
	var d drawing
	d.frame(x, y)
	for i, c := range curves {
		var points []point
		var below int64
		for _, b := range c.bins {
			rarity := float64(c.n) / float64(c.n-below) // of requests at least this slow
			if rarity > rarest {
				break
			}
			points = append(points, point{x.scale.at(rarity), y.scale.at(float64(b.ns) / 1e3)})
			below += b.count
		}
		if len(points) > 0 {
			d.line(i, points, c.name)
		}
	}
	return d.svg(plotWidth, plotHeight, "latency by percentile, "+r.Job)
}

// percentile names a rarity: 1 in 10 is the 90th percentile.
func percentile(rarity float64) string {
	if rarity <= 1 {
		return "min"
	}
	return "p" + strconv.FormatFloat(100-100/rarity, 'f', -1, 64)
}

// microsTick formats microseconds that are a round number.
func microsTick(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'g', 3, 64) + " s"
	case v >= 1e3:
		return strconv.FormatFloat(v/1e3, 'g', 3, 64) + " ms"
	}
	return strconv.FormatFloat(v, 'g', 3, 64) + " µs"
}

// countTick formats a rate that is a round number.
func countTick(v float64) string {
	if v >= 1e3 {
		return strconv.FormatFloat(v/1e3, 'g', 4, 64) + "k"
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// timePlot draws throughput over the time of a run: the median of the rounds as a
// line, the best and the worst as a band.
func (r *Result) timePlot() template.HTML {
	var curves []map[float64]Summary
	hi, last := 0.0, 0.0
	for _, t := range r.Targets {
		curve := overRounds(t.Samples)
		curves = append(curves, curve)
		for at, s := range curve {
			hi, last = max(hi, s.Max), max(last, at)
		}
	}
	if hi == 0 {
		return ""
	}
	x := axis{format: func(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) + " s" }, title: "time in the run"}
	x.scale, x.ticks = linearScale(last, plotLeft, plotRight)
	x.scale.hi = last
	x.ticks = slices.DeleteFunc(x.ticks, func(v float64) bool { return v > last })
	y := axis{format: countTick}
	y.scale, y.ticks = linearScale(hi, plotBottom, plotTop)
	var d drawing
	d.frame(x, y)
	for i, curve := range curves {
		var low, mid, high []point
		for _, at := range sortedKeys(curve) {
			s := curve[at]
			low = append(low, point{x.scale.at(at), y.scale.at(s.Min)})
			mid = append(mid, point{x.scale.at(at), y.scale.at(s.Median)})
			high = append(high, point{x.scale.at(at), y.scale.at(s.Max)})
		}
		if len(mid) > 0 {
			d.band(i, low, high)
			d.line(i, mid, r.Targets[i].Name)
		}
	}
	return d.svg(plotWidth, plotHeight, "throughput over time, "+r.Job)
}

// overRounds gives, for each moment (seconds) that all rounds reached, the spread of the rate.
func overRounds(samples []Sample) map[float64]Summary {
	values := map[float64][]float64{}
	for _, s := range samples {
		for _, p := range s.Series {
			values[p.At.Seconds()] = append(values[p.At.Seconds()], p.IOPS)
		}
	}
	out := map[float64]Summary{}
	for at, v := range values {
		if len(v) == len(samples) {
			out[at] = summarize(v)
		}
	}
	return out
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// ratioPlot draws, for every job and every target but the first, how a metric compares
// with the first target: a bar from 1 to the median ratio, a whisker over the rounds.
func (rep *Report) ratioPlot(m Metric) template.HTML {
	lo, hi, rows := 1.0, 1.0, 0
	for _, r := range rep.Results {
		for _, t := range r.Targets {
			if s, ok := t.Ratios[m]; ok && s.Min > 0 {
				lo, hi, rows = min(lo, s.Min), max(hi, s.Max), rows+1
			}
		}
	}
	if rows == 0 {
		return ""
	}
	x := axis{format: func(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) + "×" }}
	x.scale, x.ticks = logScale(min(lo, 0.5), max(hi, 2), barsLeft, barsRight)
	var d drawing
	y := 22.0
	for _, r := range rep.Results {
		top, any := y, false
		for i, t := range r.Targets {
			s, ok := t.Ratios[m]
			if !ok || s.Min <= 0 {
				continue
			}
			any = true
			d.ratioBar(x.scale, i, y, s, fmt.Sprintf("%s, %s: %.2f× (%.2f to %.2f)", r.Job, t.Name, s.Median, s.Min, s.Max))
			y += barHeight + 2
		}
		if any {
			d.text(barLabel, (top+y)/2+3, "tick end", r.label())
			y += barGap
		}
	}
	var grid drawing
	for _, v := range x.ticks {
		px := x.scale.at(v)
		class := "grid"
		if v == 1 {
			class = "one"
		}
		grid.add(`<line x1="%.1f" x2="%.1f" y1="16" y2="%.1f" class="%s"/>`, px, px, y, class)
		grid.text(px, 11, "tick mid", x.format(v))
	}
	grid.b.WriteString(d.b.String())
	return grid.svg(barsWidth, y+4, fmt.Sprintf("%s relative to %s", m, rep.Targets[0].Name))
}

// ratioBar draws one bar with its whisker and its number.
func (d *drawing) ratioBar(x scale, n int, y float64, s Summary, name string) {
	from, to := x.at(1), x.at(s.Median)
	d.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="bar c%d"><title>%s</title></rect>`,
		min(from, to), y, max(math.Abs(to-from), 1), barHeight, n%seriesClasses, template.HTMLEscapeString(name))
	mid := y + barHeight/2
	d.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" class="whisker"/>`, x.at(s.Min), x.at(s.Max), mid, mid)
	d.text(max(x.at(s.Max), from)+6, mid+4, "value", fmt.Sprintf("%.2f×", s.Median))
}

// label names a job in a plot; the engine only when it is not fio.
func (r *Result) label() string {
	if r.Engine == EngineFio {
		return r.Job
	}
	return r.Job + ", " + string(r.Engine)
}

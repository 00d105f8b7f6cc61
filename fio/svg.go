package fio

import (
	"fmt"
	"html"
	"html/template"
	"strings"
)

// The size of a plot and the room around it, in SVG units.
const (
	plotWidth, plotHeight          = 520.0, 260.0
	marginLeft, marginRight        = 62.0, 30.0
	marginTop, marginBottom        = 14.0, 40.0
	barHeight, barGap, barLabel    = 16.0, 8.0, 190.0
	plotLeft, plotRight            = marginLeft, plotWidth - marginRight
	plotTop, plotBottom            = marginTop, plotHeight - marginBottom
	barsWidth, barsLeft, barsRight = 1080.0, barLabel + 12, 1080.0 - 70
	seriesClasses                  = 6 // c0 to c5 in the style sheet
)

// drawing collects the elements of one SVG picture.
type drawing struct{ b strings.Builder }

func (d *drawing) add(format string, args ...any) { fmt.Fprintf(&d.b, format+"\n", args...) }

func (d *drawing) text(x, y float64, class, s string) {
	d.add(`<text x="%.1f" y="%.1f" class="%s">%s</text>`, x, y, class, html.EscapeString(s))
}

// svg closes the picture. The label is read to those who cannot see it.
func (d *drawing) svg(w, h float64, label string) template.HTML {
	return template.HTML(fmt.Sprintf("<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"%s\">\n%s</svg>",
		w, h, html.EscapeString(label), d.b.String()))
}

// axis is one labelled axis of a plot.
type axis struct {
	scale  scale
	ticks  []float64
	format func(float64) string
	title  string
}

// frame draws the grid, the tick labels and the titles of a plot.
func (d *drawing) frame(x, y axis) {
	for _, v := range y.ticks {
		py := y.scale.at(v)
		d.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" class="grid"/>`, plotLeft, plotRight, py, py)
		d.text(plotLeft-6, py+4, "tick end", y.format(v))
	}
	for _, v := range x.ticks {
		px := x.scale.at(v)
		d.add(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" class="grid"/>`, px, px, plotTop, plotBottom)
		d.text(px, plotBottom+16, "tick mid", x.format(v))
	}
	d.text((plotLeft+plotRight)/2, plotHeight-6, "axis mid", x.title)
}

// point is a place in a picture.
type point struct{ x, y float64 }

func pathOf(points []point) string {
	var b strings.Builder
	for i, p := range points {
		c := 'L'
		if i == 0 {
			c = 'M'
		}
		fmt.Fprintf(&b, "%c%.1f %.1f", c, p.x, p.y)
	}
	return b.String()
}

// line draws one series; what it is shows when the pointer rests on it.
func (d *drawing) line(n int, points []point, name string) {
	d.add(`<path d="%s" class="line c%d"><title>%s</title></path>`, pathOf(points), n%seriesClasses, html.EscapeString(name))
}

// band fills the room between two lines over the same x.
func (d *drawing) band(n int, low, high []point) {
	outline := append([]point(nil), high...)
	for i := len(low) - 1; i >= 0; i-- {
		outline = append(outline, low[i])
	}
	d.add(`<path d="%sZ" class="band c%d"/>`, pathOf(outline), n%seriesClasses)
}

package fio

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
)

//go:embed report.html.tmpl
var reportPage string

var reportTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"class": func(i int) string { return fmt.Sprintf("c%d", i%seriesClasses) },
}).Parse(reportPage))

// htmlReport is what the page's template sees.
type htmlReport struct {
	*Report
	First                 string
	RateRatios, CPURatios template.HTML
	Results               []htmlResult
}

type htmlResult struct {
	*Result
	Label         string
	HasRatios     bool
	Rows          []htmlRow
	Latency, Time template.HTML
}

type htmlRow struct {
	Name  string
	Cells []string
}

// HTML writes the report as one page with its plots inside and nothing outside.
func (rep *Report) HTML(w io.Writer) error {
	page := htmlReport{
		Report: rep, First: rep.Targets[0].Name,
		RateRatios: rep.ratioPlot(IOPS), CPURatios: rep.ratioPlot(CPU),
	}
	for _, r := range rep.Results {
		h := htmlResult{Result: r, Label: r.label(), HasRatios: len(r.Targets) > 1, Latency: r.latencyPlot(), Time: r.timePlot()}
		for _, t := range r.Targets {
			h.Rows = append(h.Rows, htmlRow{t.Name, t.cells(h.HasRatios)})
		}
		page.Results = append(page.Results, h)
	}
	return reportTemplate.Execute(w, page)
}

// cells formats a target's figures in the order of the table's columns.
func (t *TargetResult) cells(ratios bool) []string {
	s := t.Summary
	c := []string{
		show(s, IOPS, count), spread(s, IOPS), show(s, MBps, plain),
		show(s, P50, micros), show(s, P99, micros), show(s, P999, micros),
		show(s, CPU, micros), show(s, WriteAmp, times), show(s, DiskAmp, times),
	}
	if ratios {
		c = append(c, show(t.Ratios, IOPS, times), bounds(t.Ratios, IOPS), show(t.Ratios, P50, times), show(t.Ratios, CPU, times))
	}
	return c
}

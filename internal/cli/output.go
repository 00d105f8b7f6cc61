package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"go.yaml.in/yaml/v3"
)

// Output formats of -o.
const (
	formatTable = "table"
	formatWide  = "wide"
	formatJSON  = "json"
	formatYAML  = "yaml"
	formatName  = "name"
)

var formats = []string{formatTable, formatWide, formatJSON, formatYAML, formatName}

// result is what a command has to show: data for programs, and how people like
// to see it.
type result struct {
	data  any                          // JSON and YAML
	table func(w io.Writer, wide bool) // tab-separated columns
	names []string                     // -o name
}

// show prints a result in the format that was asked for.
func show(w io.Writer, format string, r result) error {
	switch format {
	case formatJSON:
		text, err := json.MarshalIndent(r.data, "", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\n", text)
	case formatYAML:
		text, err := toYAML(r.data)
		if err != nil {
			return err
		}
		w.Write(text)
	case formatName:
		for _, n := range r.names {
			fmt.Fprintln(w, n)
		}
	default:
		tabs := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		r.table(tabs, format == formatWide)
		return tabs.Flush()
	}
	return nil
}

// toYAML goes through JSON, so that both have the same names and order.
func toYAML(data any) ([]byte, error) {
	text, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil { // JSON is YAML
		return nil, err
	}
	blockStyle(&node)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&node); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// blockStyle makes braces and quotes go away where YAML does not need them.
func blockStyle(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		blockStyle(c)
	}
}

func checkFormat(format string) error {
	if slices.Contains(formats, format) {
		return nil
	}
	return &Error{Code: Usage, Text: fmt.Sprintf("output format %q is none of %s", format, strings.Join(formats, ", "))}
}

// row prints cells as one line of a table.
func row(w io.Writer, cells ...string) {
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

package cli

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestManualPage: docs/manual/blkctl.md is what the help texts say; go test
// -rewrite writes it anew.
func TestManualPage(t *testing.T) {
	const file = "../../docs/manual/blkctl.md"
	var page bytes.Buffer
	manual(&page, New(Streams{}))
	if *rewrite {
		if err := os.WriteFile(file, page.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, page.Bytes()) {
		t.Errorf("%s is not what --help says (go test ./internal/cli -rewrite writes it anew), %v", file, err)
	}
}

// manual writes the page of all commands.
func manual(w *bytes.Buffer, root *cobra.Command) {
	fmt.Fprintf(w, "# blkctl\n\nThis page is made of the help texts (`blkctl COMMAND --help`). What `-o json` prints, and what the exit codes mean: [json.md](../json.md).\n\n")
	fmt.Fprintf(w, "```text\n%s\n```\n\n", strings.TrimSpace(root.Long))
	fmt.Fprintf(w, "Flags of all commands:\n\n")
	flagTable(w, root.PersistentFlags())
	for _, c := range commands(root) {
		if !c.Runnable() || c.HasSubCommands() || c.Hidden {
			continue
		}
		page(w, c)
	}
}

func page(w *bytes.Buffer, c *cobra.Command) {
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	path, _, _ := strings.Cut(c.CommandPath(), " ")
	fmt.Fprintf(w, "\n## %s\n\n`%s`\n\n%s\n", strings.TrimPrefix(c.CommandPath(), path+" "), c.UseLine(), strings.TrimSpace(text))
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.AddFlagSet(c.LocalFlags())
	if c.HasParent() { // those of a group are shown with each of its commands
		flags.AddFlagSet(c.Parent().PersistentFlags())
	}
	own := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && c.Root().PersistentFlags().Lookup(f.Name) == nil {
			own.AddFlag(f)
		}
	})
	if own.HasFlags() {
		fmt.Fprintln(w)
		flagTable(w, own)
	}
	if c.Example != "" {
		fmt.Fprintf(w, "\n```sh\n%s\n```\n", strings.ReplaceAll(strings.TrimSpace(c.Example), "\n  ", "\n"))
	}
}

func flagTable(w *bytes.Buffer, flags *pflag.FlagSet) {
	fmt.Fprintf(w, "| flag | |\n|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if value != "" && f.Value.Type() != "bool" {
			name += " " + value
		}
		if d := f.DefValue; d != "" && d != "false" && d != "[]" && d != "0" {
			usage += " (default " + d + ")"
		}
		fmt.Fprintf(w, "| `%s` | %s |\n", name, strings.ReplaceAll(usage, "|", "\\|"))
	})
}

package cli

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
)

// Why is the result of why.
type Why struct {
	Subjects []Subject `json:"subjects"`
}

// Subject is something that may wait, and what for.
type Subject struct {
	Type     string    `json:"type"` // cluster, node or volume
	Name     string    `json:"name"`
	State    string    `json:"state"`
	Problems []Problem `json:"problems"`
	Branches []string  `json:"branches,omitempty"` // of a volume: what forced promotions have left
	Survives []string  `json:"survives,omitzero"`  // of a volume whose nodes tell: what may fail now without loss of service
}

func (a *app) whyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "why [NODE|VOLUME]",
		Short: "Says what something waits for, and the command that helps",
		Long: `Says what a node or a volume waits for, or why a node is held back, and the one
command that helps. Without a name, of everything that waits. Any node answers,
without a quorum too.`,
		Args:              arguments(0, 1),
		ValidArgsFunction: a.completeAny,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.why(cmd.Context(), args)
		},
	}
}

func (a *app) why(ctx context.Context, args []string) error {
	s, err := a.getStatus(ctx, "")
	if err != nil {
		return err
	}
	w := newWhy(s)
	if len(args) > 0 {
		if w = w.only(args[0]); len(w.Subjects) == 0 {
			return &Error{Code: NotFound, Text: fmt.Sprintf("there is no node and no volume %q", args[0]), Node: s.Node, Advice: "blkctl status"}
		}
	} else {
		w = w.waiting()
	}
	var names []string
	for _, x := range w.Subjects {
		names = append(names, x.Name)
	}
	return show(a.Out, a.output, result{data: w, names: names, table: whyTable(w, s)})
}

// newWhy lists everything that could wait.
func newWhy(s Status) Why {
	var w Why
	add := func(kind, name, state string, problems []Problem) {
		w.Subjects = append(w.Subjects, Subject{Type: kind, Name: name, State: state, Problems: problems})
	}
	own := s.Problems
	if s.Cluster == nil {
		add("node", s.Node, s.State, own)
	} else {
		add("cluster", s.Cluster.Name, s.Cluster.State, s.Cluster.Problems)
		for _, n := range s.Nodes {
			problems := n.Problems
			if n.Name == s.Node {
				problems = append(slices.Clone(own), problems...)
				own = nil
			}
			add("node", n.Name, n.Health, problems)
		}
		if len(own) > 0 { // a node that is not, or not yet, in the record
			add("node", s.Node, s.State, own)
		}
	}
	for _, v := range s.Volumes {
		add("volume", v.Name, v.State, v.Problems)
		x := &w.Subjects[len(w.Subjects)-1]
		for _, b := range v.Branches {
			x.Branches = append(x.Branches, b.Name)
		}
		if v.Runtime != nil {
			x.Survives = v.Runtime.Survives
		}
	}
	return w
}

func (w Why) only(name string) Why { return w.filter(func(s Subject) bool { return s.Name == name }) }

func (w Why) waiting() Why {
	return w.filter(func(s Subject) bool { return len(s.Problems) > 0 })
}

func (w Why) filter(keep func(Subject) bool) Why {
	out := Why{Subjects: []Subject{}}
	for _, s := range w.Subjects {
		if keep(s) {
			out.Subjects = append(out.Subjects, s)
		}
	}
	return out
}

// whyTable prints each subject with its reasons.
func whyTable(why Why, s Status) func(io.Writer, bool) {
	return func(w io.Writer, _ bool) { whyText(w, why, s) }
}

func whyText(w io.Writer, why Why, s Status) {
	if len(why.Subjects) == 0 {
		fmt.Fprintln(w, "nothing waits")
	}
	for _, x := range why.Subjects {
		fmt.Fprintf(w, "%s %s: %s\n", x.Type, x.Name, x.State)
		if x.Type == "volume" && x.State == "recorded" {
			fmt.Fprintf(w, "  %s\n", notServed)
		}
		printProblems(w, "", x.Problems)
		if len(x.Problems) == 0 && x.State != "recorded" {
			fmt.Fprintln(w, "  it waits for nothing")
		}
		if x.Survives != nil {
			fmt.Fprintf(w, "  it survives %s\n", survived(x.Survives))
		}
		for _, b := range x.Branches {
			fmt.Fprintf(w, "  a forced promotion has left branch %s: blkctl branch compare %s\n", b, b)
		}
	}
	if s.Cluster != nil && s.Cluster.Stale && (len(why.Subjects) == 0 || why.Subjects[0].Type != "cluster") {
		printProblems(w, "", s.Cluster.Problems)
	}
}

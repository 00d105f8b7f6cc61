package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/units"
)

// Branch is what a replica held when a forced promotion went on without it.
type Branch struct {
	Name           string    `json:"name"`
	Volume         string    `json:"volume"`
	VolumeID       uint64    `json:"volume_id"`
	Node           string    `json:"node"`
	Generation     uint64    `json:"generation"` // the last in which the replica took part
	End            *LogEnd   `json:"end"`        // of its log; null: it cannot be opened
	SizeBytes      int64     `json:"size_bytes"`
	AllocatedBytes int64     `json:"allocated_bytes"`
	URIs           []string  `json:"uris"`
	Problems       []Problem `json:"problems"`
}

// BranchList is the result of branch list.
type BranchList struct {
	Branches []Branch `json:"branches"`
	Silent   []string `json:"silent"` // nodes that do not answer, and may keep others
}

func newBranches(in []*api.Branch) []Branch {
	out := make([]Branch, 0, len(in))
	for _, b := range in {
		x := Branch{Name: b.Name, Volume: b.Volume, VolumeID: b.VolumeId, Node: b.Node, Generation: b.Generation,
			SizeBytes: b.SizeBytes, AllocatedBytes: b.AllocatedBytes, URIs: some(b.Uris), Problems: newProblems(b.Problems)}
		if len(b.Problems) == 0 {
			x.End = newLogEnd(b.End)
		}
		out = append(out, x)
	}
	return out
}

func (a *app) branchCommand() *cobra.Command {
	return group("branch", "Manages what forced promotions have left", a.branchListCommand(), a.branchCompareCommand(), a.branchDropCommand())
}

func (a *app) branchListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list [VOLUME]",
		Short: "Lists what forced promotions have left",
		Long: `Lists what forced promotions have left: for each replica that was not taken, all that
it held, as a read-only volume VOLUME@GENERATION-NODE, which its node exports over
NBD. Copy it with any client, as in "nbdcopy URI FILE".`,
		Args:              arguments(0, 1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				answer, err := n.volumes.ListBranches(ctx, &api.ListBranchesRequest{Volume: argument(args, 0)})
				if err != nil {
					return called(err)
				}
				list := BranchList{Branches: newBranches(answer.Branches), Silent: some(answer.Silent)}
				var names []string
				for _, b := range list.Branches {
					names = append(names, b.Name)
				}
				return show(a.Out, a.output, result{data: list, names: names, table: func(w io.Writer, _ bool) { branchTable(w, list) }})
			})
		},
	}
}

func branchTable(w io.Writer, list BranchList) {
	if len(list.Branches) > 0 {
		row(w, "BRANCH", "NODE", "SIZE", "ALLOCATED", "LOG END", "URI")
	}
	for _, b := range list.Branches {
		end := "-"
		if b.End != nil {
			end = b.End.words()
		}
		row(w, b.Name, b.Node, units.Size(b.SizeBytes), units.Size(b.AllocatedBytes), end, firstURI(b.URIs))
	}
	for _, b := range list.Branches {
		printProblems(w, b.Name+": ", b.Problems)
	}
	if len(list.Branches) == 0 {
		fmt.Fprintln(w, "no branches are kept")
	}
	if len(list.Silent) > 0 {
		fmt.Fprintf(w, "! %s did not answer and may keep others\n", strings.Join(list.Silent, ", "))
	}
}

func (a *app) branchCompareCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "compare BRANCH",
		Short: "Says where a branch differs from its volume",
		Long: `Reads a branch and the volume that it was left from, as it is now and while it is in
use, and says which ranges differ. Exit code 1 if one does. --timeout counts only if
it is given.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeBranch,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("timeout") {
				a.timeout = 0 // it may take hours
			}
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				stream, err := n.volumes.CompareBranch(ctx, &api.CompareBranchRequest{Name: args[0]})
				if err != nil {
					return called(err)
				}
				p, err := a.follow(args[0], stream)
				if err != nil {
					return err
				}
				c := newCompared(args[0], p)
				err = show(a.Out, a.output, result{data: c, names: []string{c.Name}, table: func(w io.Writer, _ bool) { branchDifferences(w, c) }})
				if err != nil || c.OK {
					return err
				}
				return &Error{Code: Failed, Text: fmt.Sprintf("branch %s is not like its volume in %s of %s", c.Name, units.Size(c.DifferentBytes), units.Size(c.CheckedBytes)),
					Advice: "copy what is wanted from its export, then: blkctl branch drop " + c.Name}
			})
		},
	}
}

func branchDifferences(w io.Writer, c Compared) {
	if c.OK {
		fmt.Fprintf(w, "branch %s: %s compared, all the same\n", c.Name, units.Size(c.CheckedBytes))
		return
	}
	row(w, "OFFSET", "LENGTH")
	for _, d := range c.Differences {
		row(w, fmt.Sprint(d.Offset), fmt.Sprint(d.Length))
	}
}

func (a *app) branchDropCommand() *cobra.Command {
	var yes bool
	var reason string
	cmd := &cobra.Command{
		Use:   "drop BRANCH",
		Short: "Destroys a branch and its data",
		Long: `Destroys a branch and its data, after you have typed its name. What only it has of
acknowledged writes is lost for good then.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeBranch,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if !yes {
				fmt.Fprintf(a.Err, "Branch %s and its data will be destroyed.\nType its name to go on: ", name)
				if err := a.confirm(cmd.Context(), name); err != nil {
					return err
				}
			}
			req := &api.DropBranchRequest{Name: name, Request: newRequest(reason)}
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				if _, err := n.volumes.DropBranch(ctx, req); err != nil {
					return called(err)
				}
				return show(a.Out, a.output, result{data: Deleted{Name: name, Deleted: true}, names: []string{name},
					table: func(w io.Writer, _ bool) { fmt.Fprintf(w, "branch %s dropped\n", name) }})
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	reasonFlag(cmd, &reason)
	return cmd
}

func (a *app) completeBranch(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFirst(cmd, args, func(ctx context.Context, n *node) (out []string, err error) {
		list, err := n.volumes.ListBranches(ctx, &api.ListBranchesRequest{})
		for _, b := range list.GetBranches() {
			out = append(out, b.Name)
		}
		return out, called(err)
	})
}

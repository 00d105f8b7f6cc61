package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/units"
)

func (a *app) nodeCommand() *cobra.Command {
	return group("node", "Manages the nodes of a cluster",
		a.nodeListCommand(), a.nodeShowCommand(), a.nodeAddCommand(), a.nodeRemoveCommand(),
		a.nodeReplaceCommand(), a.nodeDrainCommand(), a.nodeUndrainCommand(), a.nodeFenceCommand())
}

func (a *app) nodeListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists the nodes",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				list, err := n.cluster.ListNodes(ctx, &api.ListNodesRequest{})
				if err != nil {
					return called(err)
				}
				nodes := newNodes(list.Nodes)
				return show(a.Out, a.output, result{
					data:  NodeList{Nodes: nodes},
					names: nodeNames(nodes),
					table: func(w io.Writer, wide bool) { nodeTable(w, nodes, wide, time.Now()) },
				})
			})
		},
	}
}

func (a *app) nodeShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NODE",
		Short:             "Shows one node in full",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				return a.showNode(n.cluster.ShowNode(ctx, &api.ShowNodeRequest{Name: args[0]}))
			})
		},
	}
}

// showNode prints the node that a call answered with.
func (a *app) showNode(in *api.ClusterNode, err error) error {
	if err != nil {
		return called(err)
	}
	return show(a.Out, a.output, nodeResult(newNode(in), time.Now()))
}

func nodeResult(n Node, now time.Time) result {
	return result{data: n, names: []string{n.Name}, table: func(w io.Writer, _ bool) { nodeSheet(w, n, now) }}
}

func nodeNames(nodes []Node) []string {
	out := make([]string, len(nodes))
	for i, n := range nodes {
		out[i] = n.Name
	}
	return out
}

// nodeTable prints a line for each node and, below, what needs attention.
func nodeTable(w io.Writer, nodes []Node, wide bool, now time.Time) {
	head := []string{"NODE", "ADDRESS", "QUORUM", "HEALTH", "SINCE", "REPLICAS", "PRIMARIES", "FREE", "NOTES"}
	if wide {
		head = append(head, "ID", "LABELS", "NBD", "BUILD", "DISK", "INCARNATION")
	}
	row(w, head...)
	for _, n := range nodes {
		cells := []string{n.Name, n.Address, n.Role, n.Health, ago(n.HealthSince, now), fmt.Sprint(n.Members), fmt.Sprint(n.Primaries),
			n.free(), n.notes(now)}
		if wide {
			cells = append(cells, fmt.Sprint(n.ID), orDash(labelWords(n.Labels)), orDash(strings.Join(n.NBD, ",")), orDash(n.Build), n.Disk, n.Incarnation)
		}
		row(w, cells...)
	}
}

// nodeSheet prints all about one node.
func nodeSheet(w io.Writer, n Node, now time.Time) {
	row(w, "name", n.Name)
	row(w, "address", n.Address)
	row(w, "quorum", fmt.Sprintf("%s, Raft id %d", n.Role, n.ID))
	health := n.Health
	if n.HealthSince != nil {
		health += " for " + ago(n.HealthSince, now)
	}
	if n.HealthText != "" {
		health += ": " + n.HealthText
	}
	row(w, "health", health)
	row(w, "notes", n.notes(now))
	row(w, "labels", orDash(labelWords(n.Labels)))
	row(w, "nbd", orDash(strings.Join(n.NBD, "  ")))
	row(w, "space", fmt.Sprintf("%s free of %s", n.free(), units.Size(n.CapacityBytes)))
	row(w, "replicas", fmt.Sprintf("%d, primary of %d", n.Members, n.Primaries))
	row(w, "build", orDash(n.Build))
	row(w, "disk", n.Disk)
	row(w, "incarnation", n.Incarnation)
	printProblems(w, "", n.Problems)
}

// free is the space that is left; a node that never registered has told nothing.
func (n *Node) free() string {
	if n.Registered == nil {
		return "-"
	}
	return units.Size(n.FreeBytes)
}

// notes are what is special about a node.
func (n *Node) notes(now time.Time) string {
	var words []string
	if n.Witness {
		words = append(words, "witness")
	}
	if n.Drained {
		words = append(words, "drained")
	}
	if n.HeldUntil != nil && n.HeldUntil.After(now) {
		words = append(words, "held back for "+age(n.HeldUntil.Sub(now)))
	}
	return orDash(strings.Join(words, ", "))
}

// labelWords is "rack=a,zone=1", sorted.
func labelWords(labels map[string]string) string {
	words := make([]string, 0, len(labels))
	for k, v := range labels {
		words = append(words, k+"="+v)
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

// ago is how long ago t was, in its largest unit.
func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	return age(now.Sub(*t))
}

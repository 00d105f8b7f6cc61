package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

func (a *app) nodeAddCommand() *cobra.Command {
	var add metapb.AddNode
	var reason string
	cmd := &cobra.Command{
		Use:   "add NODE --address HOST:PORT",
		Short: "Makes a node known, so that it may join",
		Long: `Makes a node known to the cluster. It joins when blkd is started there with an
empty data directory, its name, its address and the cluster's list of nodes.`,
		Example: `  blkctl node add n4 --address 10.0.0.4:7400
  blkctl node add w1 --address 10.0.0.9:7400 --witness`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if add.Address == "" {
				return fmt.Errorf("--address is missing: where do the other nodes reach %s?", args[0])
			}
			add.Name = args[0]
			req := &api.AddNodeRequest{Request: newRequest(reason), Node: &add}
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error { return a.showNode(n.cluster.AddNode(ctx, req)) })
		},
	}
	cmd.Flags().StringVar(&add.Address, "address", "", "where the other nodes reach it, as `HOST:PORT`")
	cmd.Flags().BoolVar(&add.Witness, "witness", false, "it votes and holds no data")
	reasonFlag(cmd, &reason)
	return cmd
}

func (a *app) nodeRemoveCommand() *cobra.Command {
	var force bool
	var reason string
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "Forgets a node",
		Long: `Forgets a node. It refuses (exit code 6) while volumes have replicas on it or it
is needed as a voter. The node itself is refused by the others from then on.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &api.RemoveNodeRequest{Request: newRequest(reason), Node: &metapb.RemoveNode{Name: args[0], Force: force}}
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				if _, err := n.cluster.RemoveNode(ctx, req); err != nil {
					return called(err)
				}
				return show(a.Out, a.output, result{data: Deleted{Name: args[0], Deleted: true}, names: []string{args[0]},
					table: func(w io.Writer, _ bool) { fmt.Fprintf(w, "node %s removed\n", args[0]) }})
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "even so; replicas on it are lost")
	reasonFlag(cmd, &reason)
	return cmd
}

func (a *app) nodeReplaceCommand() *cobra.Command {
	var address, reason string
	cmd := &cobra.Command{
		Use:   "replace NODE",
		Short: "Lets a node join again with an empty data directory",
		Long: `Lets a node join again with an empty data directory, after it has lost its disk
or shows an old copy of it. What its old disk held counts no more.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &api.ReplaceNodeRequest{Request: newRequest(reason), Node: &metapb.ReplaceNode{Name: args[0], Address: address}}
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error { return a.showNode(n.cluster.ReplaceNode(ctx, req)) })
		},
	}
	cmd.Flags().StringVar(&address, "address", "", "where the other nodes reach it now, as `HOST:PORT` (default as before)")
	reasonFlag(cmd, &reason)
	return cmd
}

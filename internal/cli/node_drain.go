package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

func (a *app) nodeDrainCommand() *cobra.Command {
	drain := &metapb.DrainNode{}
	var reason string
	var noWait bool
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Moves what a node has to other nodes",
		Long: `Asks that nothing be placed on a node, that other nodes serve its volumes, and that
its replicas be moved to nodes that can take them; then waits until that is done. What
it waits for that does not come by itself it says, with what helps. With
--keep-replicas the replicas stay: for a node that is only off for a while. --timeout
counts only if it is given; when the command ends early, the drain goes on.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("timeout") {
				a.timeout = 0 // it may take hours
			}
			drain.Name = args[0]
			req := &api.DrainNodeRequest{Request: newRequest(reason), Node: drain}
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				state, err := n.cluster.DrainNode(ctx, req)
				if err != nil || noWait {
					return a.showNode(state, err)
				}
				if state, err = a.awaitDrained(ctx, n, drain); err != nil {
					return err
				}
				return a.showNode(state, nil)
			})
		},
	}
	cmd.Flags().BoolVar(&drain.KeepReplicas, "keep-replicas", false, "its replicas stay; others only serve its volumes")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until it is done")
	reasonFlag(cmd, &reason)
	return cmd
}

// drainLook is how often the progress of a drain is looked at.
const drainLook = 200 * time.Millisecond

// awaitDrained shows how far a drain is, and what it waits for, until it is done.
func (a *app) awaitDrained(ctx context.Context, n *node, drain *metapb.DrainNode) (*api.ClusterNode, error) {
	line := statusLine{w: a.Err, on: isTerminal(a.Err)}
	defer line.end()
	var told []string
	text := "drain " + drain.Name
	for {
		now, err := n.cluster.ShowNode(ctx, &api.ShowNodeRequest{Name: drain.Name})
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return nil, &Error{Code: TimedOut, Text: text + "; the drain goes on", Advice: "blkctl node show " + drain.Name}
		case err != nil:
			return nil, called(err)
		case !now.Record.Drained:
			return nil, &Error{Code: Conflict, Text: "the drain of node " + drain.Name + " was taken back", Advice: "blkctl events"}
		case now.Primaries == 0 && (drain.KeepReplicas || now.Members == 0):
			return now, nil
		}
		text = fmt.Sprintf("drain %s: %s to hand over", drain.Name, plural(int(now.Primaries), "volume", "volumes"))
		if !drain.KeepReplicas {
			text += fmt.Sprintf(", %s to move", plural(int(now.Members), "replica", "replicas"))
		}
		line.set(text)
		for _, p := range now.Problems {
			if p.Code == "drain_waits" && !slices.Contains(told, p.Text) {
				line.end()
				told = append(told, p.Text)
				printProblems(a.Err, "", newProblems([]*api.Problem{p}))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(drainLook):
		}
	}
}

func (a *app) nodeUndrainCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "undrain NODE",
		Short: "Takes a drain back",
		Long: `Takes a drain back: the node is used again. A replica that is being moved off goes
on; what was moved stays where it is.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &api.DrainNodeRequest{Request: newRequest(reason), Node: &metapb.DrainNode{Name: args[0], Undo: true}}
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error { return a.showNode(n.cluster.DrainNode(ctx, req)) })
		},
	}
	reasonFlag(cmd, &reason)
	return cmd
}

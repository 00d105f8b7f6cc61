package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
)

func (a *app) clusterCommand() *cobra.Command {
	return group("cluster", "Shows and manages the cluster",
		a.clusterStatusCommand(), a.clusterTransferCommand(),
		group("snapshot", "Saves the metadata of the cluster, and makes a new cluster of it",
			a.snapshotSaveCommand(), a.snapshotRestoreCommand()))
}

func (a *app) clusterStatusCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Shows the quorum, the nodes, the volumes, and what needs attention",
		Long: `Shows the quorum, the nodes, the volumes, and what needs attention. Any node
answers, without a quorum too: then it tells what it last knew and who is missing.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				answer, err := n.cluster.Status(ctx, &api.ClusterStatusRequest{})
				if err != nil {
					return called(err)
				}
				c := newCluster(answer)
				if err := show(a.Out, a.output, clusterResult(c, time.Now())); err != nil {
					return err
				}
				if check && c.State != "ok" {
					return &Error{Code: Degraded, Text: c.State, Node: c.Node, quiet: true}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "exit with code 10 unless all is well")
	return cmd
}

func clusterResult(c Cluster, now time.Time) result {
	return result{data: c, names: nodeNames(c.Nodes), table: func(w io.Writer, wide bool) {
		clusterHead(w, c)
		nodeTable(w, c.Nodes, wide, now)
		if len(c.Volumes) > 0 {
			fmt.Fprintln(w)
			volumeTable(w, c.Volumes, wide)
		}
		clusterProblems(w, c)
	}}
}

// clusterTable is the short form, without the nodes.
func clusterTable(w io.Writer, c Cluster, wide bool) {
	clusterHead(w, c)
	if len(c.Volumes) > 0 {
		volumeTable(w, c.Volumes, wide)
	}
	clusterProblems(w, c)
}

// clusterHead is the headline: does it decide, who leads, how are the volumes.
func clusterHead(w io.Writer, c Cluster) {
	q := c.Quorum
	quorum := fmt.Sprintf("quorum %d/%d", q.Have, q.Voters)
	if c.Stale {
		quorum = fmt.Sprintf("NO QUORUM: %d of %d voters, %d needed", q.Have, q.Voters, q.Need)
	}
	leader := "no metadata leader"
	if q.Leader != "" {
		leader = fmt.Sprintf("metadata leader %s (term %d)", q.Leader, q.Term)
	}
	fmt.Fprintf(w, "cluster %s   %s   %s   %s\n", orDash(c.Name), quorum, leader, summary(c.Volumes))
	if c.Stale {
		fmt.Fprintf(w, "what follows is what node %s last knew\n", c.Node)
	}
}

// clusterProblems prints what needs attention, the cluster's first.
func clusterProblems(w io.Writer, c Cluster) {
	recorded := false
	for _, v := range c.Volumes {
		recorded = recorded || v.State == "recorded"
	}
	if recorded {
		fmt.Fprintf(w, "recorded: %s\n", notServed)
	}
	printProblems(w, "", c.Problems)
	for _, n := range c.Nodes {
		printProblems(w, "node "+n.Name+": ", n.Problems)
	}
	for _, v := range c.Volumes {
		printProblems(w, v.Name+": ", v.Problems)
	}
}

func (a *app) clusterTransferCommand() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "transfer",
		Short: "Hands the lead of the metadata quorum to another voter",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				answer, err := n.cluster.TransferLeadership(ctx, &api.TransferLeadershipRequest{To: to})
				if err != nil {
					return called(err)
				}
				t := Transferred{From: answer.From, Leader: answer.Leader, Term: answer.Term}
				return show(a.Out, a.output, result{data: t, names: []string{t.Leader}, table: func(w io.Writer, _ bool) {
					fmt.Fprintf(w, "node %s leads the metadata quorum (term %d), before it was %s\n", t.Leader, t.Term, orDash(t.From))
				}})
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the `NODE` that shall lead (default: the one that is furthest)")
	cmd.RegisterFlagCompletionFunc("to", a.completeNodeFlag)
	return cmd
}

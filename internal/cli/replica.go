package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/units"
)

func (a *app) replicaCommand() *cobra.Command {
	return group("replica", "Manages the replicas of a volume",
		a.replicaListCommand(), a.replicaAddCommand(), a.replicaRemoveCommand(), a.replicaMoveCommand(),
		a.replicaInvalidateCommand(), a.replicaVerifyCommand())
}

// ReplicaList is the result of replica list.
type ReplicaList struct {
	Name     string    `json:"name"`
	Serving  string    `json:"serving"`
	Replicas []Replica `json:"replicas"`
}

func (a *app) replicaListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list VOLUME",
		Short: "Lists the replicas of a volume, and how far each is",
		Long: `Lists the replicas of a volume and how far each is: the last entry of its log, how
many entries it lacks, what is being copied, and when its content was last compared
with that of the others.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				answer, err := n.volumes.Show(ctx, &api.ShowVolumeRequest{Name: args[0]})
				if err != nil {
					return called(err)
				}
				if answer.Record == nil {
					return &Error{Code: Failed, Text: "this blkd stands alone: its volumes have no replicas", Advice: "blkctl volume show " + args[0]}
				}
				return show(a.Out, a.output, replicaResult(newVolume(answer)))
			})
		},
	}
}

func replicaResult(v Volume) result {
	list := ReplicaList{Name: v.Name, Replicas: v.replicas()}
	if v.Runtime != nil {
		list.Serving = v.Runtime.Serving
	}
	names := make([]string, len(list.Replicas))
	for i, r := range list.Replicas {
		names[i] = r.Node
	}
	return result{data: list, names: names, table: func(w io.Writer, wide bool) { replicaTable(w, v, wide) }}
}

// replicas are those of the record, each with what is known of it right now.
func (v *Volume) replicas() []Replica {
	out := make([]Replica, 0, len(v.Record.Members))
	for _, m := range v.Record.Members {
		r := Replica{Node: m.Node, State: m.State, Problems: []Problem{}}
		if now := v.Runtime.replica(m.Node); now != nil {
			r = *now
		}
		out = append(out, r)
	}
	return out
}

func replicaTable(w io.Writer, v Volume, wide bool) {
	head := []string{"NODE", "ROLE", "STATE", "CONNECTED", "LOG END", "BEHIND", "RESYNC", "COMPARED"}
	if wide {
		head = append(head, "DURABLE", "SPEED", "SHARD")
	}
	row(w, head...)
	for i, r := range v.replicas() {
		m := v.Record.Members[i]
		end, behind, durable, connected := "-", "-", "-", "-"
		if v.Runtime.replica(r.Node) != nil {
			end, behind, durable, connected = fmt.Sprint(r.HeldSeq), fmt.Sprint(r.BehindEntries), fmt.Sprint(r.DurableSeq), yesNo(r.Connected)
		}
		cells := []string{r.Node, v.role(r.Node), memberState(m), connected, end, behind, orDash(r.Resync.words()), when(r.Compared)}
		if wide {
			cells = append(cells, durable, r.Resync.speed(), fmt.Sprint(m.Shard))
		}
		row(w, cells...)
	}
	for _, r := range v.replicas() {
		printProblems(w, "replica "+r.Node+": ", r.Problems)
	}
	printProblems(w, "", v.Problems)
}

func (r *Resync) speed() string {
	if r == nil {
		return "-"
	}
	return units.Size(r.BytesPerSecond) + "/s"
}

func (a *app) replicaAddCommand() *cobra.Command {
	req := &api.AddReplicaRequest{}
	var reason string
	cmd := &cobra.Command{
		Use:   "add VOLUME [NODE]",
		Short: "Gives a volume one more replica",
		Long: `Gives a mirrored volume one more replica, on a node that is named or that the cluster
chooses; --dry-run only says which, and why. It is done when that is recorded. The
replica is then brought level while the volume is in use: follow that with
"blkctl replica list", or wait for it with "blkctl wait VOLUME --for=uptodate".`,
		Args:              arguments(1, 2),
		ValidArgsFunction: a.completeVolumeThenNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name, req.Node, req.Request = args[0], argument(args, 1), newRequest(reason)
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				v, err := n.volumes.AddReplica(ctx, req)
				if err != nil {
					return called(err)
				}
				return a.showCreated(v, req.DryRun)
			})
		},
	}
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "only say what would be done, and why")
	reasonFlag(cmd, &reason)
	return cmd
}

func (a *app) replicaRemoveCommand() *cobra.Command {
	req := &api.RemoveReplicaRequest{}
	var reason string
	cmd := &cobra.Command{
		Use:   "remove VOLUME NODE",
		Short: "Takes a replica of a volume away, and its data",
		Long: `Takes a replica of a volume away, and its data. It refuses (exit code 6) if that is
the primary, the last good copy, or one that min-copies needs. An erasure-coded volume
needs each of its shards: only one that a move has not completed can be removed.`,
		Args:              arguments(2, 2),
		ValidArgsFunction: a.completeVolumeThenNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name, req.Node, req.Request = args[0], args[1], newRequest(reason)
			return a.changeVolume(cmd.Context(), func(ctx context.Context, n *node) (*api.Volume, error) { return n.volumes.RemoveReplica(ctx, req) })
		},
	}
	cmd.Flags().BoolVar(&req.Force, "force", false, "even if its node does not answer; its data is destroyed when it returns")
	reasonFlag(cmd, &reason)
	return cmd
}

func (a *app) replicaMoveCommand() *cobra.Command {
	req := &api.MoveReplicaRequest{}
	var reason string
	cmd := &cobra.Command{
		Use:   "move VOLUME FROM [TO]",
		Short: "Moves a replica of a volume to another node",
		Long: `Moves a replica of a volume to another node, which is named or which the cluster
chooses. The new replica is brought level first, while the volume is in use, and
only then the old one is removed. It is done when the new one is recorded; the rest
happens by itself. A shard of an erasure-coded volume is copied from the old one, or
rebuilt from the others if that does not answer; to give that up, remove the new one.`,
		Args:              arguments(2, 3),
		ValidArgsFunction: a.completeVolumeThenNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name, req.From, req.To, req.Request = args[0], args[1], argument(args, 2), newRequest(reason)
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				v, err := n.volumes.MoveReplica(ctx, req)
				if err != nil {
					return called(err)
				}
				return a.showCreated(v, req.DryRun)
			})
		},
	}
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "only say what would be done, and why")
	reasonFlag(cmd, &reason)
	return cmd
}

func (a *app) replicaInvalidateCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "invalidate VOLUME NODE",
		Short: "Declares a replica's content worthless: it is copied again as a whole",
		Long: `Declares the content of a replica worthless, so that all of it is copied again from
the others. It refuses (exit code 6) where "replica remove" would.`,
		Args:              arguments(2, 2),
		ValidArgsFunction: a.completeVolumeThenNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			req := &api.InvalidateReplicaRequest{Name: args[0], Node: args[1], Request: newRequest(reason)}
			return a.changeVolume(cmd.Context(), func(ctx context.Context, n *node) (*api.Volume, error) { return n.volumes.InvalidateReplica(ctx, req) })
		},
	}
	reasonFlag(cmd, &reason)
	return cmd
}

// changeVolume makes a call that answers with the volume, and prints it.
func (a *app) changeVolume(ctx context.Context, do func(context.Context, *node) (*api.Volume, error)) error {
	return a.call(ctx, func(ctx context.Context, n *node) error {
		v, err := do(ctx, n)
		if err != nil {
			return called(err)
		}
		return a.showVolume(v)
	})
}

// argument is one that may be left out.
func argument(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

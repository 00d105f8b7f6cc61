package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/units"
)

func (a *app) statusCommand() *cobra.Command {
	var check bool
	var watch string
	cmd := &cobra.Command{
		Use:   "status [VOLUME]",
		Short: "Shows the node or cluster, the volumes, and what needs attention",
		Long: `Shows the node or the cluster it belongs to, the volumes, and what needs
attention: a line with ! says what is wrong, and what to do about it. With
VOLUME, only that one counts. Without a quorum it shows what the node last knew.`,
		Example: `  blkctl status
  blkctl status --watch=5
  blkctl status demo --check >/dev/null || page-someone`,
		Args:              arguments(0, 1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			volume := ""
			if len(args) > 0 {
				volume = args[0]
			}
			if watch == "" {
				return a.status(cmd.Context(), volume, check)
			}
			seconds, err := strconv.ParseFloat(watch, 64)
			if err != nil || seconds < 0.1 || seconds > 86400 {
				return fmt.Errorf("--watch=%s: write a number of seconds, from 0.1", watch)
			}
			return a.watchStatus(cmd.Context(), volume, time.Duration(seconds*float64(time.Second)))
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "exit with code 10 unless all is well")
	cmd.Flags().StringVarP(&watch, "watch", "w", "", "show it again every `SECONDS`")
	cmd.Flags().Lookup("watch").NoOptDefVal = "2"
	cmd.MarkFlagsMutuallyExclusive("check", "watch")
	return cmd
}

// modeCluster is the mode of a node that belongs to a cluster.
const modeCluster = "cluster"

func (a *app) getStatus(ctx context.Context, volume string) (s Status, err error) {
	err = a.call(ctx, func(ctx context.Context, n *node) error {
		answer, err := n.node.Status(ctx, &api.StatusRequest{Volume: volume})
		if err != nil {
			return called(err)
		}
		s = newStatus(answer)
		if s.Mode != modeCluster {
			return nil
		}
		cluster, err := n.cluster.Status(ctx, &api.ClusterStatusRequest{Volume: volume})
		if err != nil {
			return called(err)
		}
		s.setCluster(newCluster(cluster))
		return nil
	})
	return s, err
}

// status shows the status once.
func (a *app) status(ctx context.Context, volume string, check bool) error {
	s, err := a.getStatus(ctx, volume)
	if err != nil {
		return err
	}
	if err := show(a.Out, a.output, statusResult(s)); err != nil {
		return err
	}
	if check && s.State != "ok" {
		return &Error{Code: Degraded, Text: s.State, Node: s.Node, quiet: true}
	}
	return nil
}

func statusResult(s Status) result {
	return result{data: s, names: names(s.Volumes), table: func(w io.Writer, wide bool) { statusTable(w, s, wide) }}
}

// watchStatus shows the status again and again until it is interrupted. A node
// that does not answer is shown as such and asked again.
func (a *app) watchStatus(ctx context.Context, volume string, every time.Duration) error {
	const home = "\x1b[H\x1b[J" // to the top, clear what follows
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		s, err := a.getStatus(ctx, volume)
		if ctx.Err() != nil {
			return &Error{Code: Interrupted, quiet: true}
		}
		if isTerminal(a.Out) {
			fmt.Fprint(a.Out, home)
		}
		switch {
		case err != nil:
			explain(ctx, err).print(a.Err, a.output == formatJSON)
		case a.output == formatJSON: // one object a line
			if err := json.NewEncoder(a.Out).Encode(s); err != nil {
				return err
			}
		default:
			if err := show(a.Out, a.output, statusResult(s)); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return &Error{Code: Interrupted, quiet: true}
		case <-tick.C:
		}
	}
}

// statusTable prints a headline, a line for each volume, and the problems.
func statusTable(w io.Writer, s Status, wide bool) {
	if s.Cluster != nil {
		clusterTable(w, Cluster{ClusterInfo: *s.Cluster, Nodes: s.Nodes, Volumes: s.Volumes}, wide)
		printProblems(w, "node "+s.Node+": ", s.Problems)
		return
	}
	fmt.Fprintf(w, "node %s   %s   blkd %s   up %s   disk %s free of %s   %s\n", s.Node, s.Mode, s.Version.Version,
		age(time.Since(s.Started)), units.Size(s.DiskFreeBytes), units.Size(s.DiskSizeBytes), summary(s.Volumes))
	if len(s.Volumes) > 0 {
		volumeTable(w, s.Volumes, wide)
	}
	printProblems(w, "node "+s.Node+": ", s.Problems)
	for _, v := range s.Volumes {
		printProblems(w, v.Name+": ", v.Problems)
	}
}

// summary counts the volumes in each state: "3 volumes: 2 ok, 1 degraded".
func summary(volumes []Volume) string {
	if len(volumes) == 0 {
		return "no volumes"
	}
	counts := map[string]int{}
	for _, v := range volumes {
		counts[v.State]++
	}
	var words []string
	for _, state := range []string{"ok", "recorded", "degraded", "waiting", "failed", "unknown"} {
		if counts[state] > 0 {
			words = append(words, fmt.Sprintf("%d %s", counts[state], state))
		}
	}
	total := plural(len(volumes), "volume", "volumes")
	if len(counts) == 1 {
		return total + " " + volumes[0].State
	}
	return total + ": " + strings.Join(words, ", ")
}

// age is a duration in its largest unit: "3m", "2d".
func age(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	default:
		return fmt.Sprintf("%ds", max(d, 0)/time.Second)
	}
}

package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
)

// conditions are the words of wait --for.
var conditions = map[string]api.WaitCondition{
	"quorum":   api.WaitCondition_WAIT_CONDITION_QUORUM,
	"exists":   api.WaitCondition_WAIT_CONDITION_EXISTS,
	"deleted":  api.WaitCondition_WAIT_CONDITION_DELETED,
	"primary":  api.WaitCondition_WAIT_CONDITION_PRIMARY,
	"uptodate": api.WaitCondition_WAIT_CONDITION_UP_TO_DATE,
}

var conditionWords = []string{"quorum", "exists", "deleted", "primary", "uptodate"}

func (a *app) waitCommand() *cobra.Command {
	var condition string
	cmd := &cobra.Command{
		Use:   "wait VOLUME|cluster --for=CONDITION",
		Short: "Waits until something is so",
		Long: `Waits until something is so: "cluster --for=quorum" until the metadata quorum can
decide, or a volume until it exists, is deleted, has a primary, or has all
replicas of its layout up to date, as the quorum records it. While no node
answers or no quorum decides, it goes on waiting. Exit code 4 after --timeout.`,
		Example: `  blkctl wait cluster --for=quorum --timeout 10s
  blkctl wait pgdata --for=uptodate --timeout 1h`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeWait,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := choice("for", condition, conditions, strings.Join(conditionWords, ", "))
			if err != nil {
				return err
			}
			req := &api.WaitRequest{Condition: c, Volume: args[0]}
			if c == api.WaitCondition_WAIT_CONDITION_QUORUM {
				if args[0] != "cluster" {
					return fmt.Errorf("it is the cluster that has a quorum; write: blkctl wait cluster --for=quorum")
				}
				req.Volume = ""
			}
			return a.wait(cmd.Context(), condition, args[0], req)
		},
	}
	cmd.Flags().StringVar(&condition, "for", "exists", "the `CONDITION`: "+strings.Join(conditionWords, ", "))
	cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(conditionWords, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// completeWait offers "cluster" and volumes.
func (a *app) completeWait(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	volumes, _ := a.completeVolume(cmd, args, typed) // a node that does not answer may be what is waited for
	return append([]string{"cluster"}, volumes...), cobra.ShellCompDirectiveNoFileComp
}

// waitPause is between two attempts to reach a node that can answer.
const waitPause = 200 * time.Millisecond

// wait asks again while the nodes do not answer or have no quorum: both may be
// what it waits for to end.
func (a *app) wait(ctx context.Context, condition, name string, req *api.WaitRequest) error {
	parent := ctx
	if a.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
	}
	var last *Error // that was not the end of the time
	for {
		err := a.call(ctx, func(ctx context.Context, n *node) error {
			answer, err := n.cluster.Wait(ctx, req)
			if err != nil {
				return called(err)
			}
			w := Waited{Name: name, Condition: condition}
			if answer.Volume != nil {
				v := newVolume(answer.Volume)
				w.Volume = &v
			}
			return show(a.Out, a.output, result{data: w, names: []string{name},
				table: func(w io.Writer, _ bool) { fmt.Fprintf(w, "%s: %s\n", name, condition) }})
		})
		if err == nil {
			return nil
		}
		e := explain(parent, err)
		if e.Code != TimedOut {
			last = e
		}
		switch {
		case parent.Err() != nil:
			return &Error{Code: Interrupted, Text: "interrupted"}
		case ctx.Err() != nil:
			timeout := &Error{Code: TimedOut, Text: fmt.Sprintf("%s: not %q within %s", name, condition, a.timeout), Advice: strings.TrimSpace("blkctl why " + req.Volume)}
			if last != nil {
				timeout.Text, timeout.Node = timeout.Text+"; at last: "+last.Text, last.Node
			}
			return timeout
		case !mayPass(err, e):
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(waitPause):
		}
	}
}

// mayPass tells whether a failure is one that time may heal.
func mayPass(err error, e *Error) bool { return another(err) || e.Code == NoQuorum || e.unreached }

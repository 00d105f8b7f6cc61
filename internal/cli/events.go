package cli

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
)

func (a *app) eventsCommand() *cobra.Command {
	var follow, now bool
	var after int64
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Shows what there is, and what changes",
		Long: `Shows every object as it is ("exists") and then "sync"; with --follow also every
change from then on, in order and without gaps, until it is interrupted. With -o
json each line is one object; docs/json.md describes them.

Each change has a number. --after N begins with the change after N instead of the
dump, as far back as changes are kept; if that one is no longer kept, it says so
("gap") and shows the dump. --after 0 begins with the oldest. With --follow it
survives the loss of the node it talks to, if --node names others.`,
		Example: `  blkctl events
  blkctl events --follow -o json
  blkctl events --after 1234 --follow -o json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if now && (follow || after >= 0) {
				return errors.New("--now is what there is now; take --follow and --after away")
			}
			if !cmd.Flags().Changed("timeout") {
				a.timeout = 0
			}
			req := &api.EventsRequest{Follow: follow}
			if after >= 0 {
				req.Resume, req.After = true, uint64(after)
			}
			return a.events(cmd.Context(), req)
		},
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with what changes, until interrupted")
	cmd.Flags().BoolVar(&now, "now", false, "only what there is now; this is the default")
	cmd.Flags().Int64Var(&after, "after", -1, "begin with the change after `NUMBER`")
	cmd.Flags().Lookup("after").DefValue = ""
	return cmd
}

// events prints the stream. When it breaks off while it is followed, it is
// resumed where it was, on another node if there are several.
func (a *app) events(ctx context.Context, req *api.EventsRequest) error {
	print := newEventPrinter(a.Out, a.output)
	for {
		synced := false
		err := a.call(ctx, func(ctx context.Context, n *node) error {
			stream, err := n.cluster.Events(ctx, req)
			if err != nil {
				return called(err)
			}
			for {
				item, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return called(err)
				}
				e := newEvent(item)
				if seq, ok := e.position(); ok {
					req.Resume, req.After, synced = true, seq, true
				}
				if err := print(e); err != nil {
					return err
				}
			}
		})
		switch {
		case ctx.Err() != nil:
			return &Error{Code: Interrupted, quiet: true}
		case err == nil || !req.Follow || !synced || !another(err):
			return err
		}
		explain(ctx, err).print(a.Err, a.output == formatJSON)
		select {
		case <-ctx.Done():
		case <-time.After(waitPause):
		}
	}
}

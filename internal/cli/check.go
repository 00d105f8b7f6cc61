package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/drill"
)

func (a *app) checkCommand() *cobra.Command {
	var t trialFlags
	var d time.Duration
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Checks that what clients of the cluster are told is true",
		Long: `Makes a scratch volume, has clients of all nodes write and read the same blocks of
it for a while, and records what each asked and was told, and when. Then it
checks that every block is strictly linearizable: that there is an order of all
reads and writes that explains every answer, in which nothing that was
acknowledged is lost, no read is of old data, and no write comes to light after
a later generation has begun to serve. Meanwhile you may do to the cluster what
you like; blkctl drill does it for you.

The exit code is 1 if the answers cannot be true.`,
		Example: `  blkctl check --time 1m
  blkctl check -o json`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			return a.onVolume(ctx, &t, func(c *drill.Cluster, volume string) error {
				x, err := c.Check(ctx, volume, d)
				if err != nil {
					return failed(ctx, err)
				}
				err = show(a.Out, a.output, result{data: x, names: []string{volume}, table: func(w io.Writer, _ bool) { checkedText(w, x) }})
				if err == nil && !x.Linearizable {
					err = &Error{Code: Failed, Text: "what clients were told cannot be", quiet: a.output != formatJSON}
				}
				return err
			})
		},
	}
	t.add(cmd)
	cmd.Flags().DurationVar(&d, "time", 10*time.Second, "`TIME` for which the clients work")
	return cmd
}

func checkedText(w io.Writer, x *drill.Checked) {
	fmt.Fprintf(w, "%d operations in %.1f s by clients of %s, which were disconnected %d times: ", x.Operations, x.Seconds, strings.Join(x.Clients, ", "), x.Disconnects)
	if x.Linearizable {
		fmt.Fprintln(w, "strictly linearizable, nothing is lost")
		return
	}
	fmt.Fprintf(w, "what they were told cannot be\n%s\n", x.Violation)
}

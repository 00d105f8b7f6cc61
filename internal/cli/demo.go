package cli

import (
	"context"

	"github.com/spf13/cobra"

	"blkd/internal/demo"
	"blkd/metadata/metapb"
)

func (a *app) demoCommand() *cobra.Command {
	layout := ""
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Shows on this machine how a volume outlives its primary",
		Long: `Starts blkd processes on this machine's loopback, with one volume on all of them, and a client that writes and checks what it reads. Then
it kills the primary, relieves the next one by hand, and freezes the third and
wakes it; each time it shows when what happened, and how long the client waited.
In the end everything that was acknowledged is read back through every node; the
exit code is 1 if anything is missing.

It needs no root and no setup. All that it started and wrote is gone afterwards.`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var parsed *metapb.Layout
			if layout != "" {
				var err error
				if parsed, err = parseLayout(layout); err != nil {
					return &Error{Code: Usage, Text: err.Error()}
				}
			}
			blkd, err := findBlkd()
			if err != nil {
				return err
			}
			return failed(cmd.Context(), demo.Run(cmd.Context(), blkd, parsed, a.Out))
		},
	}
	cmd.Flags().StringVar(&layout, "layout", "", "`LAYOUT` of the volume, \"mirror N\" or \"ec K+M\" (default mirror 3)")
	return cmd
}

// findBlkd is the program that demo and dev run.
func findBlkd() (string, error) {
	path, err := demo.FindBlkd()
	if err != nil {
		return "", &Error{Code: Failed, Text: err.Error(), Advice: "make build, or install blkd; then try again"}
	}
	return path, nil
}

// failed explains why demo or dev did not go on.
func failed(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return &Error{Code: Interrupted, Text: "interrupted"}
	}
	return &Error{Code: Failed, Text: err.Error()}
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/units"
)

func (a *app) volumeVerifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify VOLUME",
		Short: "Reads every allocated block and checks it",
		Long: `Reads every allocated block of a volume and compares it with its recorded
checksum, while the volume stays in use. Exit code 1 if a block is bad.
--timeout counts only if it is given.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("timeout") {
				a.timeout = 0 // it may take hours
			}
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error { return a.verify(ctx, n, args[0]) })
		},
	}
}

func (a *app) verify(ctx context.Context, n *node, name string) error {
	stream, err := n.volumes.Verify(ctx, &api.VerifyVolumeRequest{Name: name})
	if err != nil {
		return called(err)
	}
	line := statusLine{w: a.Err, on: isTerminal(a.Err)}
	for {
		p, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			line.end()
			return &Error{Code: Failed, Text: "blkd ended the verification of " + name + " without a result", Advice: "blkctl status"}
		case err != nil:
			line.end()
			return called(err)
		case !p.Done:
			line.set(fmt.Sprintf("verify %s: %s of %s", name, units.Size(p.CheckedBytes), units.Size(p.TotalBytes)))
		default:
			line.end()
			return a.showVerified(newVerified(name, p))
		}
	}
}

func (a *app) showVerified(v Verified) error {
	err := show(a.Out, a.output, result{data: v, names: []string{v.Name}, table: func(w io.Writer, _ bool) {
		if v.OK {
			fmt.Fprintf(w, "volume %s: %s checked, no bad block\n", v.Name, units.Size(v.CheckedBytes))
			return
		}
		row(w, "OFFSET", "FILE", "FILE-OFFSET")
		for _, b := range v.BadBlocks {
			row(w, fmt.Sprint(b.Offset), b.File, fmt.Sprint(b.FileOffset))
		}
	}})
	if err != nil || v.OK {
		return err
	}
	return &Error{Code: Failed, Text: fmt.Sprintf("volume %s has bad blocks: %d of 4 KiB each, in %s checked", v.Name, v.BadTotal, units.Size(v.CheckedBytes)),
		Advice: "reads of these blocks fail with EIO; write them again from a backup"}
}

package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/units"
)

func (a *app) volumeDeleteCommand() *cobra.Command {
	var yes, force bool
	var reason string
	cmd := &cobra.Command{
		Use:   "delete VOLUME",
		Short: "Destroys a volume and its data",
		Long: `Destroys a volume and its data, after you have typed its name. While clients are
connected, or it is attached, it refuses (exit code 6).`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if !yes {
				if err := a.confirmDelete(cmd.Context(), name); err != nil {
					return err
				}
			}
			req := &api.DeleteVolumeRequest{Name: name, Force: force, Request: newRequest(reason)}
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				answer, err := n.volumes.Delete(ctx, req)
				if err != nil {
					return called(err)
				}
				return show(a.Out, a.output, result{
					data: Deleted{Name: name, Deleted: true, Note: answer.Note}, names: []string{name},
					table: func(w io.Writer, _ bool) {
						fmt.Fprintf(w, "volume %s deleted\n", name)
						if answer.Note != "" {
							fmt.Fprintf(w, "! %s\n", answer.Note)
						}
					},
				})
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "even while clients are connected or it is attached; they are cut off")
	reasonFlag(cmd, &reason)
	return cmd
}

// confirmDelete has the volume's name typed. Waiting for that is not part of the
// command's --timeout.
func (a *app) confirmDelete(ctx context.Context, name string) error {
	err := a.call(ctx, func(ctx context.Context, n *node) error {
		v, err := n.volumes.Show(ctx, &api.ShowVolumeRequest{Name: name})
		if err != nil {
			return called(err)
		}
		what := units.Size(v.AllocatedBytes) + " allocated"
		if v.Record != nil {
			what = newRecord(v.Record).place()
		}
		fmt.Fprintf(a.Err, "Volume %s (%s, %s) and its data will be destroyed.\nType its name to go on: ", name, units.Size(v.SizeBytes), what)
		return nil
	})
	if err != nil {
		return err
	}
	return a.confirm(ctx, name)
}

// confirm has a name typed, which was asked for.
func (a *app) confirm(ctx context.Context, name string) error {
	typed := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.In).ReadString('\n')
		typed <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(a.Err)
		return &Error{Code: Interrupted, Text: "interrupted, nothing was deleted"}
	case line := <-typed:
		if line != name {
			return &Error{Code: Usage, Text: "not confirmed, nothing was deleted", Advice: "type the name of what is to be destroyed, or add --yes"}
		}
		return nil
	}
}

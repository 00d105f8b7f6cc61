package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/version"
)

func (a *app) versionCommand() *cobra.Command {
	var clientOnly bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Shows the version of blkctl and of the blkd it talks to",
		Args:  arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := Versions{Client: version.Get()}
			var asked error
			if !clientOnly {
				asked = a.call(cmd.Context(), func(ctx context.Context, n *node) error {
					answer, err := n.node.Version(ctx, &api.VersionRequest{})
					if err != nil {
						return called(err)
					}
					server := newVersion(answer)
					v.Server = &server
					return nil
				})
			}
			err := show(a.Out, a.output, result{data: v, names: []string{v.Client.Version}, table: func(w io.Writer, _ bool) {
				fmt.Fprintf(w, "blkctl %s\n", v.Client)
				if v.Server != nil {
					fmt.Fprintf(w, "blkd   %s\n", *v.Server)
				}
			}})
			if err != nil {
				return err
			}
			return asked
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "do not ask blkd")
	return cmd
}

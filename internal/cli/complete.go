package cli

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
)

// completeVolume offers the names of existing volumes for the first argument. A
// node that does not answer soon offers nothing: the shell must not hang.
func (a *app) completeVolume(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if err := fromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	a.timeout = time.Second
	var names []string
	err := a.call(cmd.Context(), func(ctx context.Context, n *node) error {
		list, err := n.volumes.List(ctx, &api.ListVolumesRequest{})
		for _, v := range list.GetVolumes() {
			names = append(names, v.Name)
		}
		return err
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

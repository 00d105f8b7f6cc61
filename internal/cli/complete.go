package cli

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
)

// completeVolume offers the names of existing volumes for the first argument.
func (a *app) completeVolume(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFirst(cmd, args, volumeNames)
}

// completeNode offers the names of nodes for the first argument.
func (a *app) completeNode(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFirst(cmd, args, clusterNodes)
}

// completeVolumeThenNodes offers volumes for the first argument and nodes for the
// others.
func (a *app) completeVolumeThenNodes(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.offer(cmd, volumeNames)
	}
	return a.offer(cmd, clusterNodes)
}

// completeAny offers both.
func (a *app) completeAny(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeFirst(cmd, args, volumeNames, clusterNodes)
}

// completeNodeFlag offers the names of nodes for a flag's value.
func (a *app) completeNodeFlag(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.offer(cmd, clusterNodes)
}

func (a *app) completeFirst(cmd *cobra.Command, args []string, lists ...nameList) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.offer(cmd, lists...)
}

// nameList asks a node for names.
type nameList func(context.Context, *node) ([]string, error)

func volumeNames(ctx context.Context, n *node) (out []string, err error) {
	list, err := n.volumes.List(ctx, &api.ListVolumesRequest{})
	for _, v := range list.GetVolumes() {
		out = append(out, v.Name)
	}
	return out, called(err)
}

func clusterNodes(ctx context.Context, n *node) (out []string, err error) {
	list, err := n.cluster.ListNodes(ctx, &api.ListNodesRequest{})
	for _, v := range list.GetNodes() {
		out = append(out, v.GetRecord().GetName())
	}
	return out, called(err)
}

// offer asks for names. A node that does not answer soon offers nothing: the
// shell must not hang.
func (a *app) offer(cmd *cobra.Command, lists ...nameList) ([]string, cobra.ShellCompDirective) {
	if err := fromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	a.timeout = time.Second
	var offered []string
	err := a.call(cmd.Context(), func(ctx context.Context, n *node) error {
		var last error
		offered = nil
		for _, list := range lists {
			names, err := list(ctx, n)
			if err != nil {
				last = err // a node that stands alone has volumes and no nodes
			}
			offered = append(offered, names...)
		}
		if len(offered) == 0 {
			return last
		}
		return nil
	})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return offered, cobra.ShellCompDirectiveNoFileComp
}

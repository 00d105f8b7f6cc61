package cli

import (
	"context"

	"github.com/spf13/cobra"

	"blkd/internal/api"
)

func (a *app) nodeFenceCommand() *cobra.Command {
	req := &api.FenceNodeRequest{}
	var reason string
	cmd := &cobra.Command{
		Use:   "fence NODE",
		Short: "Switches a node's machine off or on, through a fence agent",
		Long: `Has the node that is asked switch the machine of another one off or on, through the
fence agent that is configured for it there (cluster.fencing), and waits until the
agent confirms it. It refuses (exit code 6) to switch off a node that is up. Nothing
depends on it: writes of a node that was promoted past are refused anyway. --timeout
counts only if it is given.`,
		Example:           `  blkctl node fence n3 --reason "it hangs"`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeNode,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("timeout") {
				a.timeout = 0 // agents may take minutes
			}
			req.Name, req.Request = args[0], newRequest(reason)
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error { return a.showNode(n.cluster.FenceNode(ctx, req)) })
		},
	}
	cmd.Flags().StringVar(&req.Action, "action", "off", "`ACTION`: off, on or reboot")
	cmd.Flags().BoolVar(&req.Force, "force", false, "although the node is up")
	cmd.RegisterFlagCompletionFunc("action", cobra.FixedCompletions([]string{"off", "on", "reboot"}, cobra.ShellCompDirectiveNoFileComp))
	reasonFlag(cmd, &reason)
	return cmd
}

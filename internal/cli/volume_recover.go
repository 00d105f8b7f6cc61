package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"blkd/internal/api"
)

func (a *app) volumeRecoverCommand() *cobra.Command {
	req := &api.RecoverVolumeRequest{}
	var reason string
	cmd := &cobra.Command{
		Use:   "recover VOLUME --without NODE",
		Short: "Gives up replicas that the recovery of a volume waits for",
		Long: `Lets the recovery of a volume go on without the replicas of nodes that are lost for
good. A volume is recovered when so many of its replicas may have lost acknowledged
writes, as after a loss of power of all, that the logs of all have to be compared;
that happens by itself when all nodes are back. What only the nodes that are given up
hold of acknowledged writes is lost. It refuses (exit code 6) while one of them is up,
and without --force and --reason. See also: blkctl why.`,
		Example:           `  blkctl volume recover pgdata --without n3 --force --reason "n3 burnt down"`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(req.Without) == 0 {
				return errors.New("--without is missing: which node is lost?")
			}
			req.Name, req.Request = args[0], newRequest(reason)
			return a.changeVolume(cmd.Context(), func(ctx context.Context, n *node) (*api.Volume, error) { return n.volumes.Recover(ctx, req) })
		},
	}
	cmd.Flags().StringSliceVar(&req.Without, "without", nil, "`NODE` whose replica is given up; repeatable")
	cmd.Flags().BoolVar(&req.Force, "force", false, "lose what only they hold")
	cmd.RegisterFlagCompletionFunc("without", a.completeNodeFlag)
	reasonFlag(cmd, &reason)
	return cmd
}

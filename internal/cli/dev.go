package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"blkd/internal/demo"
	"blkd/internal/units"
)

func (a *app) devCommand() *cobra.Command {
	cfg := demo.Cluster{}
	var size string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Keeps a small cluster up on this machine, to try things",
		Long: `Starts blkd processes on this machine's loopback, with a volume that is mirrored
on up to three of them, and says how to reach them with blkctl, fio and others.
It needs no root and no setup. Kill what you like: a node that ends is started
again. Ctrl-C ends all of it.`,
		Example: `  blkctl dev
  blkctl dev --nodes 5 --dir ~/cluster --volume pgdata --size 10GiB`,
		Args: arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			switch cfg.Size, err = units.ParseSize(size); {
			case err != nil:
				return err
			case cfg.Nodes < 3 || cfg.Nodes > 9:
				return errors.New("--nodes: a cluster like this has 3 to 9 nodes")
			}
			blkd, err := findBlkd()
			if err != nil {
				return err
			}
			err = demo.Keep(cmd.Context(), blkd, cfg, a.Out)
			if cmd.Context().Err() != nil {
				return nil // Ctrl-C is its proper end
			}
			return failed(cmd.Context(), err)
		},
	}
	cmd.Flags().IntVar(&cfg.Nodes, "nodes", 3, "`NUMBER` of nodes")
	cmd.Flags().StringVar(&cfg.Dir, "dir", "", "`DIR` that keeps their data for the next time (default: a temporary one)")
	cmd.Flags().StringVar(&cfg.Volume, "volume", "demo", "`NAME` of the volume")
	cmd.Flags().StringVar(&size, "size", "1GiB", "`SIZE` of the volume")
	return cmd
}

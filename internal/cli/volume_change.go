package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"blkd/internal/api"
)

func (a *app) volumeChangeCommand() *cobra.Command {
	var req api.ChangeVolumeRequest
	var ack, durability, failover, reason string
	var shared bool
	cmd := &cobra.Command{
		Use:   "change VOLUME",
		Short: "Changes the policies of a volume of a cluster",
		Long: `Changes the policies of a volume while it is in use; what is not named stays. It is
done when the new ones hold for everything that was acknowledged before. It refuses
(exit code 6) if they cannot.`,
		Example: `  blkctl volume change pgdata --ack majority --min-copies 2
  blkctl volume change pgdata --failover manual --reason "maintenance tonight"`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if req.Ack, err = choice("ack", ack, acks, "all or majority"); err != nil {
				return err
			}
			if req.Durability, err = choice("durability", durability, durabilities, "flush or write"); err != nil {
				return err
			}
			if cmd.Flags().Changed("failover") {
				manual, err := choice("failover", failover, failovers, strings.Join(failoverWords, " or "))
				if err != nil {
					return err
				}
				req.ManualFailover = &manual
			}
			if cmd.Flags().Changed("shared") {
				req.Shared = &shared
			}
			if req.Ack == 0 && req.Durability == 0 && req.MinCopies == 0 && req.Shared == nil && req.ManualFailover == nil {
				return errors.New("nothing to change: name a policy")
			}
			req.Name, req.Request = args[0], newRequest(reason)
			return a.changeVolume(cmd.Context(), func(ctx context.Context, n *node) (*api.Volume, error) { return n.volumes.Change(ctx, &req) })
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&ack, "ack", "", "`POLICY` all or majority: which replicas must hold a write before it is acknowledged")
	fs.Int32Var(&req.MinCopies, "min-copies", 0, "`NUMBER` of replicas below which writes wait")
	fs.Lookup("min-copies").DefValue = ""
	fs.StringVar(&durability, "durability", "", "`MOMENT` flush or write: when a write is on disk")
	fs.StringVar(&failover, "failover", "", "`WHO` automatic or manual: whether another replica takes over by itself when the primary fails")
	fs.BoolVar(&shared, "shared", false, "let several clients write at once; --shared=false ends that")
	reasonFlag(cmd, &reason)
	policyCompletions(cmd)
	return cmd
}

// failovers are the words of --failover: true is manual.
var failovers = map[string]bool{"": false, "automatic": false, "manual": true}

var failoverWords = []string{"automatic", "manual"}

// policyCompletions completes the flags that change and create have in common.
func policyCompletions(cmd *cobra.Command) {
	for flag, words := range map[string][]string{"ack": {"all", "majority"}, "durability": {"flush", "write"}, "failover": failoverWords} {
		cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	}
}

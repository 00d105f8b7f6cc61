package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/units"
)

// createFlags are what volume create takes besides name and size.
type createFlags struct {
	layout, ack, durability, failover string
	minCopies                         int32
	shared, dryRun                    bool
	nodes                             []string
	reason                            string
}

func (a *app) volumeCreateCommand() *cobra.Command {
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create NAME SIZE",
		Short: "Creates a thin volume that reads as zeros",
		Long: `Creates a thin volume that reads as zeros.

In a cluster it records the volume and chooses the nodes of its replicas, spread
over failure domains, waits up to 10 s until clients are served, and says why it
chose so, and what may fail. --dry-run only says that. The command's own flags are
for clusters.`,
		Example: `  blkctl volume create demo 10GiB
  blkctl volume create pgdata 200GiB --layout "mirror 3" --dry-run
  blkctl volume create logs 50GiB --layout "ec 4+2" --reason "ticket 4711"`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req, err := f.request(args[0], args[1])
			if err != nil {
				return err
			}
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				v, err := n.volumes.Create(ctx, req)
				if err != nil {
					return called(err)
				}
				if v.Record != nil && !f.dryRun {
					v = awaitServed(ctx, n, v)
				}
				return a.showCreated(v, f.dryRun)
			})
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.layout, "layout", "", "`LAYOUT` \"mirror N\" or \"ec K+M\" (default mirror 2, or mirror 1 on a single data node)")
	fs.StringVar(&f.ack, "ack", "", "`POLICY` all or majority: which replicas must hold a write before it is acknowledged (default by layout)")
	fs.Int32Var(&f.minCopies, "min-copies", 0, "`NUMBER` of replicas below which writes wait (default by layout)")
	fs.StringVar(&f.durability, "durability", "", "`MOMENT` flush or write: when a write is on disk (default flush)")
	fs.StringVar(&f.failover, "failover", "", "`WHO` automatic or manual: whether another replica takes over by itself when the primary fails (default automatic)")
	fs.BoolVar(&f.shared, "shared", false, "let several clients write at once")
	fs.StringSliceVar(&f.nodes, "on", nil, "keep a replica on `NODE`; repeatable (default: the cluster chooses)")
	fs.BoolVar(&f.dryRun, "dry-run", false, "only say what would be done, and why")
	reasonFlag(cmd, &f.reason)
	cmd.RegisterFlagCompletionFunc("layout", cobra.FixedCompletions([]string{"mirror 1", "mirror 2", "mirror 3", "ec 2+1", "ec 4+2", "ec 8+3"}, cobra.ShellCompDirectiveNoFileComp))
	policyCompletions(cmd)
	cmd.RegisterFlagCompletionFunc("on", a.completeNodeFlag)
	return cmd
}

func (f *createFlags) request(name, size string) (*api.CreateVolumeRequest, error) {
	req := &api.CreateVolumeRequest{Name: name, MinCopies: f.minCopies, Shared: f.shared, Nodes: f.nodes, DryRun: f.dryRun,
		Request: newRequest(f.reason)}
	var err error
	if req.SizeBytes, err = units.ParseSize(size); err != nil {
		return nil, err
	}
	if f.layout != "" {
		if req.Layout, err = parseLayout(f.layout); err != nil {
			return nil, err
		}
	}
	if req.Ack, err = choice("ack", f.ack, acks, "all or majority"); err != nil {
		return nil, err
	}
	if req.Durability, err = choice("durability", f.durability, durabilities, "flush or write"); err != nil {
		return nil, err
	}
	req.ManualFailover, err = choice("failover", f.failover, failovers, strings.Join(failoverWords, " or "))
	return req, err
}

// serveTime is how long the nodes of a new volume may take to make its replicas.
const serveTime = 10 * time.Second

// awaitServed waits until a new volume of a cluster has clients served, for some time:
// it exists whether or not its nodes are well, and what is shown then says so.
func awaitServed(ctx context.Context, n *node, v *api.Volume) *api.Volume {
	ctx, cancel := context.WithTimeout(ctx, serveTime)
	defer cancel()
	if _, err := n.cluster.Wait(ctx, &api.WaitRequest{Volume: v.Name, Condition: api.WaitCondition_WAIT_CONDITION_PRIMARY}); err != nil {
		return v
	}
	served, err := n.volumes.Show(ctx, &api.ShowVolumeRequest{Name: v.Name})
	if err != nil {
		return v
	}
	served.Plan = v.Plan
	return served
}

// showCreated prints a new volume, and in a cluster why it is placed so.
func (a *app) showCreated(in *api.Volume, dryRun bool) error {
	v := newVolume(in)
	v.DryRun = dryRun
	return show(a.Out, a.output, result{data: v, names: []string{v.Name}, table: func(w io.Writer, _ bool) {
		if dryRun {
			fmt.Fprintf(w, "nothing was changed; volume %s would be:\n", v.Name)
		}
		volumeSheet(w, v)
		if v.Plan != nil {
			planSheet(w, v.Plan)
		}
	}})
}

// planSheet prints the reasons of a placement.
func planSheet(w io.Writer, p *Plan) {
	lines(w, "because", p.Reasons)
	lines(w, "rejected", p.Rejected)
	if len(p.Survives) == 0 {
		text := "nothing without writes that wait: min-copies is too high for that"
		if len(p.Members) == 1 {
			text = "nothing: it has one copy"
		}
		row(w, "survives", text)
		return
	}
	row(w, "survives", survived(p.Survives))
	lines(w, "but", p.Lacks)
}

// lines prints each text in a row of its own, the first one with a title.
func lines(w io.Writer, title string, texts []string) {
	for i, text := range texts {
		if i > 0 {
			title = ""
		}
		row(w, title, text)
	}
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/attach"
	"blkd/internal/service"
	"blkd/internal/statefile"
)

func (a *app) serviceCommand() *cobra.Command {
	return group("service", "What runs on the node that holds a volume: a file system, an address, a database",
		a.serviceListCommand(), a.serviceShowCommand(), a.serviceEnableCommand(), a.serviceDisableCommand(),
		a.serviceMoveCommand(), a.serviceCheckCommand(), a.serviceRunCommand())
}

// Service is what the cluster knows of a volume's service, and this machine.
type Service struct {
	Volume     string         `json:"volume"`
	Nodes      []string       `json:"nodes"`      // that may run it, the best first
	Wanted     string         `json:"wanted"`     // where it shall run; empty: nowhere
	Holder     string         `json:"holder"`     // of the volume; empty: nobody
	Attachment uint64         `json:"attachment"` // since which number
	Waits      string         `json:"waits"`      // why the node that is wanted does not hold the volume; empty: it does, or none is
	Here       *service.State `json:"here"`       // null: no manager runs on this machine
}

func newService(v *api.Volume) *Service {
	s := &Service{Volume: v.Name, Nodes: v.Record.GetService().GetNodes(), Wanted: v.Record.GetService().GetWanted(),
		Holder: v.Record.GetAttachment().GetHolder(), Attachment: v.Record.GetAttachment().GetSince()}
	if s.Nodes == nil {
		s.Nodes = []string{}
	}
	if i := slices.IndexFunc(v.Problems, func(p *api.Problem) bool { return p.Code == "service_waits" }); i >= 0 {
		s.Waits = v.Problems[i].Text
	}
	if here, err := service.LoadState(service.DefaultDir, v.Name); err == nil {
		s.Here = here
	}
	return s
}

func (a *app) serviceListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Lists the services of volumes, where they shall run and who holds the volumes",
		Example: `  blkctl service list`,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				answer, err := n.volumes.List(ctx, &api.ListVolumesRequest{})
				if err != nil {
					return called(err)
				}
				list := []*Service{}
				for _, v := range answer.Volumes {
					if v.Record.GetService() != nil {
						list = append(list, newService(v))
					}
				}
				return show(a.Out, a.output, servicesResult(list))
			})
		},
	}
}

func servicesResult(list []*Service) result {
	var names []string
	for _, s := range list {
		names = append(names, s.Volume)
	}
	return result{data: list, names: names, table: func(w io.Writer, _ bool) {
		row(w, "VOLUME", "NODES", "WANTED", "HOLDER", "SINCE", "HERE")
		for _, s := range list {
			here := "-"
			if s.Here != nil {
				here = string(s.Here.Phase)
			}
			row(w, s.Volume, strings.Join(s.Nodes, " "), orDash(s.Wanted), orDash(s.Holder), fmt.Sprint(s.Attachment), here)
		}
	}}
}

func (a *app) serviceShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show VOLUME", Short: "Shows a volume's service, and what its manager on this machine does",
		Example: `  blkctl service show pgdata`,
		Args:    arguments(1, 1), ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				v, err := n.volumes.Show(ctx, &api.ShowVolumeRequest{Name: args[0]})
				if err != nil {
					return called(err)
				}
				if v.Record.GetService() == nil {
					return &Error{Code: NotFound, Text: fmt.Sprintf("volume %s has no service", args[0]), Advice: "blkctl service enable " + args[0] + " --on NODE,NODE"}
				}
				return show(a.Out, a.output, serviceResult(newService(v)))
			})
		},
	}
}

func serviceResult(s *Service) result {
	return result{data: s, names: []string{s.Volume}, table: func(w io.Writer, _ bool) {
		row(w, "volume", s.Volume)
		row(w, "nodes", strings.Join(s.Nodes, " "))
		row(w, "wanted", orDash(s.Wanted))
		row(w, "holder", fmt.Sprintf("%s, since attachment %d", orDash(s.Holder), s.Attachment))
		if s.Waits != "" {
			row(w, "waits", s.Waits)
		}
		if s.Here == nil {
			row(w, "here", "no manager runs (systemctl start blkd-service@"+s.Volume+")")
			return
		}
		row(w, "here", fmt.Sprintf("%s, process %d", s.Here.Phase, s.Here.PID))
		row(w, "started", orDash(strings.Join(s.Here.Started, " ")))
		if s.Here.Error != "" {
			row(w, "because", s.Here.Error)
		}
	}}
}

func (a *app) serviceEnableCommand() *cobra.Command {
	var nodes []string
	var to, reason string
	cmd := &cobra.Command{
		Use:   "enable VOLUME [--on NODE,NODE]",
		Short: "Has a volume's service run on the first of its nodes that may be used",
		Long: `Records which nodes may run a volume's service, the best first, and has it run on the
first of them that may be used; if it is enabled already, it stays where it is. Each of
the nodes needs /etc/blkd/services/VOLUME.toml and blkd-service@VOLUME.service. When the
node has been down for ten seconds, or is drained, the next one runs it.`,
		Example: `  blkctl service enable pgdata --on n1,n2,n3
  blkctl service enable pgdata`,
		Args: arguments(1, 1), ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.setService(cmd.Context(), &api.SetServiceRequest{Request: newRequest(reason), Name: args[0], Nodes: nodes, To: to})
		},
	}
	cmd.Flags().StringSliceVar(&nodes, "on", nil, "`NODES` that may run it, the best first (default: as before)")
	cmd.Flags().StringVar(&to, "to", "", "the `NODE` of them that shall run it now")
	reasonFlag(cmd, &reason)
	cmd.RegisterFlagCompletionFunc("on", a.completeNodeFlag)
	cmd.RegisterFlagCompletionFunc("to", a.completeNodeFlag)
	return cmd
}

func (a *app) serviceDisableCommand() *cobra.Command {
	var forget bool
	var reason string
	cmd := &cobra.Command{
		Use:   "disable VOLUME",
		Short: "Has a volume's service run nowhere",
		Long: `Has a volume's service run nowhere: the node that runs it stops it and gives the volume
up. The nodes that may run it stay recorded, unless they are to be forgotten.`,
		Example: `  blkctl service disable pgdata --reason "fsck by hand"`,
		Args:    arguments(1, 1), ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.setService(cmd.Context(), &api.SetServiceRequest{Request: newRequest(reason), Name: args[0], Stop: !forget, Forget: forget})
		},
	}
	cmd.Flags().BoolVar(&forget, "forget", false, "the volume has no service any more")
	reasonFlag(cmd, &reason)
	return cmd
}

func (a *app) setService(ctx context.Context, req *api.SetServiceRequest) error {
	return a.call(ctx, func(ctx context.Context, n *node) error {
		v, err := n.volumes.SetService(ctx, req)
		if err != nil {
			return called(err)
		}
		return show(a.Out, a.output, serviceResult(newService(v)))
	})
}

func (a *app) serviceMoveCommand() *cobra.Command {
	var to, reason string
	cmd := &cobra.Command{
		Use:   "move VOLUME [--to NODE]",
		Short: "Moves a volume's service to another node, and waits until that holds the volume",
		Long: `Has a volume's service run on another node. The node that runs it stops it, in reverse
order, and gives the volume up; then the other one takes the volume and starts. If the
node does not give it up in time, or is down, the other one takes it over. The command
waits until the other node holds the volume (exit code 4 after --timeout).`,
		Example: `  blkctl service move pgdata --to n2 --reason "kernel update of n1"
  blkctl service move pgdata --timeout 5m`,
		Args: arguments(1, 1), ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.serviceMove(cmd.Context(), &api.SetServiceRequest{Request: newRequest(reason), Name: args[0], To: to, Away: to == ""})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the `NODE` that shall run it (default: the first other one that may be used)")
	reasonFlag(cmd, &reason)
	cmd.RegisterFlagCompletionFunc("to", a.completeNodeFlag)
	return cmd
}

func (a *app) serviceMove(ctx context.Context, req *api.SetServiceRequest) error {
	return a.call(ctx, func(ctx context.Context, n *node) error {
		v, err := n.volumes.SetService(ctx, req)
		if err != nil {
			return called(err)
		}
		to := v.Record.GetService().GetWanted()
		for v.Record.GetAttachment().GetHolder() != service.Holder(to) {
			select {
			case <-ctx.Done():
				return &Error{Code: TimedOut, Text: fmt.Sprintf("%s shall run the service of volume %s, but %s holds the volume still", to, req.Name, orNobody(v.Record.GetAttachment().GetHolder())),
					Advice: "on " + to + " and on the other node: systemctl status blkd-service@" + req.Name}
			case <-time.After(pollPause):
			}
			if now, err := n.volumes.Show(ctx, &api.ShowVolumeRequest{Name: req.Name}); err == nil {
				v = now
			}
		}
		return show(a.Out, a.output, serviceResult(newService(v)))
	})
}

func orNobody(name string) string {
	if name == "" {
		return "nobody"
	}
	return name
}

func (a *app) serviceCheckCommand() *cobra.Command {
	var attachment uint64
	var holder string
	cmd := &cobra.Command{
		Use:   "check VOLUME",
		Short: "Refuses, with exit code 6, unless this machine holds the volume still",
		Long: `Asks the quorum whether an attachment is still good: its holder has the volume, and
nobody has had it in between. Holder and number are those of the environment (BLKD_HOLDER,
BLKD_ATTACHMENT), else of the service that runs on this machine, or of what was attached
to it. What must not start on stale data asks first:

  ExecStartPre=/usr/bin/blkctl service check pgdata`,
		Example: `  blkctl service check pgdata
  blkctl service check pgdata --holder service@n1 --attachment 17`,
		Args: arguments(1, 1), ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := serviceVariables(args[0], &holder, &attachment); err != nil {
				return err
			}
			return a.serviceCheck(cmd.Context(), args[0], holder, attachment)
		},
	}
	cmd.Flags().Uint64Var(&attachment, "attachment", 0, "the `NUMBER` since which the holder has the volume")
	cmd.Flags().StringVar(&holder, "holder", "", "the `HOLDER` of the volume")
	return cmd
}

// serviceVariables fills in what the command line leaves open, from the environment, from
// the service that runs here, or from what was attached here without one.
func serviceVariables(volume string, holder *string, attachment *uint64) error {
	env := os.Environ()
	if statefile.Variable(env, statefile.Volume) != volume {
		var err error
		env, err = service.LoadEnv(service.DefaultDir, volume)
		if errors.Is(err, fs.ErrNotExist) {
			env, err = statefile.LoadEnv(attach.EnvFile(attach.DefaultDir, volume))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if *holder == "" {
		*holder = statefile.Variable(env, statefile.Holder)
	}
	if *attachment == 0 {
		*attachment, _ = strconv.ParseUint(statefile.Variable(env, statefile.Attachment), 10, 64)
	}
	if *holder == "" || *attachment == 0 {
		return &Error{Code: Refused, Text: fmt.Sprintf("this machine does not hold volume %s", volume), Advice: "blkctl attachments"}
	}
	return nil
}

func (a *app) serviceCheck(ctx context.Context, volume, holder string, attachment uint64) error {
	return a.call(ctx, func(ctx context.Context, n *node) error {
		v, err := n.volumes.Show(ctx, &api.ShowVolumeRequest{Name: volume})
		if err != nil {
			return called(err)
		}
		now := v.Record.GetAttachment()
		if now.GetHolder() != holder || now.GetSince() > attachment {
			return &Error{Code: Refused, Text: fmt.Sprintf("attachment %d of %s is over: %s holds volume %s since %d", attachment, holder, orNobody(now.GetHolder()), volume, now.GetSince()),
				Advice: "blkctl history " + volume}
		}
		fmt.Fprintf(a.Out, "%s: %s holds it since attachment %d\n", volume, holder, now.GetSince())
		return nil
	})
}

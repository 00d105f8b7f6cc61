package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/internal/drill"
)

// drillFlags are how drill does what it does.
type drillFlags struct {
	trialFlags
	dev      string
	template string
	actions  map[drill.Action]*string
	mtbf     time.Duration
	stall    time.Duration
	html     string
	wait     time.Duration
}

// trialFlags are what check and drill have in common.
type trialFlags struct {
	overwrite string
	tls       bool
}

func (t *trialFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.overwrite, "overwrite", "", "use `VOLUME`, which must be --shared, and overwrite its first MiB, instead of making a scratch volume")
	cmd.Flags().BoolVar(&t.tls, "nbd-tls", false, "connect to NBD with TLS")
}

// drillCommands are what is done to a node of systemd's.
var drillCommands = []struct {
	action  drill.Action
	command string
}{
	{drill.Kill, "systemctl kill --signal=SIGKILL blkd"},
	{drill.Pause, "systemctl kill --signal=SIGSTOP blkd"},
	{drill.Resume, "systemctl kill --signal=SIGCONT blkd"},
	{drill.Isolate, ""},
	{drill.Heal, ""},
}

func (a *app) drillCommand() *cobra.Command {
	f := drillFlags{actions: map[drill.Action]*string{}}
	var names []string
	for _, d := range drill.Drills {
		names = append(names, d.Name)
	}
	cmd := &cobra.Command{
		Use:   "drill all|NAME...",
		Short: "Disturbs the cluster on purpose, and shows what clients notice",
		Long: `Holds drills: it kills, stops or isolates a node, or hands a volume over, while
clients of all nodes write and read a scratch volume; then it checks that
everything the clients were told is true (as blkctl check does), and compares
what they noticed with what is expected. The exit code is 1 if a drill failed.

` + drillList() + `
A drill disturbs whole nodes, and so all volumes on them. It begins only when
every node is up and every replica of every volume is up to date, and refuses
(exit code 6) if that does not come about within --wait.

How a node is disturbed: --dev DIR is the directory of a blkctl dev on this
machine, whose processes get signals. On a real cluster, --exec is a command of
a shell, with {node} for the node's name and {command} for what is to be done
there. The commands are those of a systemd service blkd, and can be replaced;
nodes can be isolated only if you say how. A node that is killed must be started
again by something, as systemd and blkctl dev do.`,
		Example: `  blkctl dev --dir ~/cluster                        # in another terminal
  blkctl drill all --dev ~/cluster --html report.html
  blkctl drill kill-primary pause-primary --exec 'ssh root@{node} {command}' --mtbf 2000h
  blkctl drill isolate --exec 'ssh root@{node} {command}' \
    --isolate 'nft add table ip drill { chain in { type filter hook input priority 0; tcp dport != 22 drop; }; }' \
    --heal 'nft delete table ip drill'`,
		Args: arguments(1, len(names)),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return append([]string{"all"}, names...), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			drills, err := chosenDrills(args, f.stall)
			if err != nil {
				return err
			}
			hands, err := f.hands()
			if err != nil {
				return err
			}
			return a.drill(cmd.Context(), &f, drills, hands)
		},
	}
	f.add(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.dev, "dev", "", "`DIR` of the blkctl dev whose nodes are disturbed")
	fs.StringVar(&f.template, "exec", "", "shell `COMMAND` that disturbs a node; {node} and {command} are replaced")
	for _, c := range drillCommands {
		f.actions[c.action] = fs.String(string(c.action), c.command, "with --exec: `COMMAND` to "+string(c.action)+" a node")
	}
	fs.DurationVar(&f.mtbf, "mtbf", 30*24*time.Hour, "mean `TIME` between failures of a kind, for the nines")
	fs.DurationVar(&f.stall, "max-stall", 0, "let clients wait this `TIME` at the most, instead of what each drill expects")
	fs.DurationVar(&f.wait, "wait", time.Minute, "`TIME` to wait until the cluster is sound before each drill")
	fs.StringVar(&f.html, "html", "", "write the report with its time lines to `FILE`, for a browser")
	return cmd
}

func drillList() string {
	var b strings.Builder
	for _, d := range drill.Drills {
		fmt.Fprintf(&b, "  %-14s %s\n", d.Name, d.Text)
	}
	return b.String()
}

// chosenDrills are those that were named. A stall above 0 replaces theirs.
func chosenDrills(names []string, stall time.Duration) (list []*drill.Drill, err error) {
	for _, d := range drill.Drills {
		if slices.Contains(names, d.Name) || slices.Contains(names, "all") {
			chosen := *d
			if stall > 0 {
				chosen.Stall = stall
			}
			list = append(list, &chosen)
		}
	}
	for _, name := range names {
		if name != "all" && !slices.ContainsFunc(drill.Drills, func(d *drill.Drill) bool { return d.Name == name }) {
			return nil, fmt.Errorf("there is no drill %q; there are:\n%s", name, drillList())
		}
	}
	return list, nil
}

func (f *drillFlags) hands() (drill.Hands, error) {
	switch {
	case f.dev != "" && f.template != "":
		return nil, errors.New("--dev and --exec are two ways to disturb a node: give one")
	case f.mtbf <= 0:
		return nil, errors.New("--mtbf: it must be above 0")
	case f.dev != "":
		return drill.Dev{Dir: f.dev}, nil
	}
	c := drill.Commands{Template: f.template, Actions: map[drill.Action]string{}}
	if f.template != "" {
		for action, command := range f.actions {
			c.Actions[action] = *command
		}
	}
	return c, nil
}

// drill holds drills one after the other.
func (a *app) drill(ctx context.Context, f *drillFlags, drills []*drill.Drill, hands drill.Hands) error {
	return a.onVolume(ctx, &f.trialFlags, func(c *drill.Cluster, volume string) error {
		r := &drill.Report{Cluster: c.Name, Volume: volume, Began: time.Now(), MTBFSeconds: f.mtbf.Seconds(), Drills: []*drill.Result{}}
		for _, d := range drills {
			if err := c.Sound(ctx, f.wait); err != nil {
				return refusedDrill(ctx, err)
			}
			fmt.Fprintf(a.Err, "drill %s: %s\n", d.Name, d.Text)
			x, err := c.Run(ctx, d, hands, volume)
			if err != nil {
				return failed(ctx, err)
			}
			fmt.Fprintf(a.Err, "  %s\n", strings.Join(append([]string{x.Outcome}, x.Why...), ": "))
			r.Add(x)
		}
		return a.report(f, r)
	})
}

func refusedDrill(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return failed(ctx, err)
	}
	return &Error{Code: Refused, Text: "redundancy is short, so a drill might do harm: " + err.Error(), Advice: "blkctl status"}
}

// report shows and writes what drills have shown.
func (a *app) report(f *drillFlags, r *drill.Report) error {
	if f.html != "" {
		file, err := os.Create(f.html)
		if err != nil {
			return &Error{Code: Failed, Text: err.Error()}
		}
		if err := errors.Join(r.WriteHTML(file), file.Close()); err != nil {
			return &Error{Code: Failed, Text: err.Error()}
		}
	}
	var names []string
	for _, d := range r.Drills {
		names = append(names, d.Name)
	}
	err := show(a.Out, a.output, result{data: r, names: names, table: func(w io.Writer, _ bool) { r.WriteText(w) }})
	if err == nil && !r.Passed {
		err = &Error{Code: Failed, Text: "not everything went as expected", quiet: a.output != formatJSON}
	}
	return err
}

// onVolume finds the nodes of the cluster, and does something with a volume that may be
// overwritten.
func (a *app) onVolume(ctx context.Context, t *trialFlags, do func(*drill.Cluster, string) error) (err error) {
	c, err := a.drillCluster(ctx, t)
	if err != nil {
		return err
	}
	defer func() {
		for _, n := range c.Nodes {
			n.Conn.Close()
		}
	}()
	volume := t.overwrite
	if volume == "" {
		var remove func() error
		if volume, remove, err = c.Scratch(ctx); err != nil {
			return failed(ctx, err)
		}
		defer func() {
			if e := remove(); e != nil && err == nil {
				err = &Error{Code: Failed, Text: e.Error(), Advice: "blkctl volume delete " + volume}
			}
		}()
	} else if shared, err := c.Shared(ctx, volume); err != nil || !shared {
		if err != nil {
			return failed(ctx, err)
		}
		return &Error{Code: Refused, Text: "volume " + volume + " is for one client at a time, and this needs clients of all nodes",
			Advice: "leave --overwrite out, or name a volume that was created with --shared"}
	}
	return do(c, volume)
}

// drillCluster connects to every node.
func (a *app) drillCluster(ctx context.Context, t *trialFlags) (*drill.Cluster, error) {
	creds, err := a.credentials()
	if err != nil {
		return nil, err
	}
	c := &drill.Cluster{By: whoami(), TLS: t.tls}
	err = a.call(ctx, func(ctx context.Context, n *node) error {
		s, err := n.cluster.Status(ctx, &api.ClusterStatusRequest{})
		if err != nil {
			return called(err)
		}
		c.Name, c.Nodes = s.Name, nil
		for _, x := range s.Nodes {
			conn, err := api.DialNode(x.Record.GetAddress(), creds)
			if err != nil {
				return err
			}
			member := &drill.Node{Name: x.Record.GetName(), Conn: conn}
			if nbd := x.Record.GetNbd(); len(nbd) > 0 && !strings.HasPrefix(nbd[0], "unix:") {
				member.NBD = nbd[0]
			}
			c.Nodes = append(c.Nodes, member)
		}
		return nil
	})
	return c, err
}

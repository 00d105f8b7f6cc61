package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"blkd/internal/suggest"
)

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// app is what all commands of one run share: streams and global flags.
type app struct {
	Streams
	socket  string
	dataDir string
	nodes   []string // HOST:PORT; empty: through the socket
	tls     tlsFiles
	timeout time.Duration
	output  string
}

// Main runs blkctl with the process's arguments and returns its exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills
	return int(Run(ctx, os.Args[1:], Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}

// Run runs one command line and returns its exit code.
func Run(ctx context.Context, args []string, s Streams) Code {
	a := &app{Streams: s}
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return OK
	}
	e := explain(ctx, err)
	if e.Code == Usage && e.Advice == "" && e.Node == "" {
		e.Advice = cmd.CommandPath() + " --help"
	}
	e.print(s.Err, a.output == formatJSON)
	return e.Code
}

// New makes the command tree, for completion, documentation and tests.
func New(s Streams) *cobra.Command { return (&app{Streams: s}).root() }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "blkctl",
		Short: "Asks and tells a running blkd",
		Long: `blkctl asks and tells a running blkd, through its control socket, or with --node
any node of a cluster. Which node is asked makes no difference.

` + exitCodes() + `
Every flag is also an environment variable: --socket is BLKCTL_SOCKET. A flag
counts more.`,
		Example: `  blkctl status
  blkctl volume create demo 10GiB
  blkctl volume list -o json
  blkctl --node 10.0.0.1:7400,10.0.0.2:7400 node list`,
		Args:          knownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := fromEnvironment(cmd.Flags(), os.LookupEnv); err != nil {
				return err
			}
			return checkFormat(a.output)
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return suggest.Flag(cmd.Flags(), err) })
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetIn(a.In)
	fs := root.PersistentFlags()
	fs.StringVar(&a.socket, "socket", "", "`PATH` of blkd's control socket (default DATA-DIR/blkd.sock)")
	fs.StringVar(&a.dataDir, "data-dir", "", "data `DIR` of the blkd to talk to (default as blkd's own)")
	fs.StringSliceVar(&a.nodes, "node", nil, "ask the node at `HOST:PORT` instead; repeatable: the next one is asked when one does not answer")
	fs.StringVar(&a.tls.cert, "tls-cert", "", "with --node: `FILE` with the certificate that blkctl shows, PEM")
	fs.StringVar(&a.tls.key, "tls-key", "", "with --node: `FILE` with its private key, PEM")
	fs.StringVar(&a.tls.ca, "tls-ca", "", "with --node: `FILE` with the CA that signed the nodes' certificates, PEM")
	fs.StringVar(&a.tls.dir, "tls-dir", "", "with --node: `DIR` with these three files, as blkctl pki issue fills it")
	fs.BoolVar(&a.tls.insecure, "insecure", false, "with --node: plain text to other machines too")
	fs.DurationVar(&a.timeout, "timeout", 30*time.Second, "give up after this `TIME`; 0 is never")
	fs.StringVarP(&a.output, "output", "o", formatTable, "output `FORMAT`: table, wide, json, yaml or name")
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(a.statusCommand(), a.whyCommand(), a.volumeCommand(), a.promoteCommand(), a.roleCommand(), a.primaryCommand(), a.secondaryCommand(),
		a.attachCommand(), a.detachCommand(), a.attachmentsCommand(), a.serviceCommand(), a.replicaCommand(), a.branchCommand(), a.historyCommand(), a.eventsCommand(), a.waitCommand(),
		a.nodeCommand(), a.clusterCommand(), a.pkiCommand(), a.benchCommand(), a.checkCommand(), a.drillCommand(),
		a.demoCommand(), a.devCommand(), a.versionCommand())
	return root
}

// exitCodes is the part of the help that lists them.
func exitCodes() string {
	var b strings.Builder
	b.WriteString("Exit codes:\n")
	for _, x := range exitHelp {
		fmt.Fprintf(&b, "  %3d  %s\n", x.code, x.text)
	}
	b.WriteString("Treat any other code as a failure.\n")
	return b.String()
}

// fromEnvironment sets each flag that the command line leaves out from its
// variable, if that is set.
func fromEnvironment(fs *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" {
			return
		}
		name := envName(f.Name)
		if value, ok := lookup(name); ok {
			if err := fs.Set(f.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
			}
		}
	})
	return errors.Join(errs...)
}

// envName is the environment variable of a flag.
func envName(flag string) string {
	return "BLKCTL_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// group makes a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	g.AddCommand(commands...)
	return g
}

// knownCommand refuses an unknown subcommand; cobra by itself does so only for
// the root and prints the help for others, with success.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var known []string
	for _, c := range cmd.Commands() {
		known = append(known, c.Name())
	}
	text := fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0])
	if near, ok := suggest.Nearest(args[0], known); ok {
		text += "; did you mean " + near + "?"
	}
	return &Error{Code: Usage, Text: text}
}

// arguments checks the number of arguments and shows how the command is written.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		return &Error{Code: Usage, Text: fmt.Sprintf("wrong number of arguments (%d); write: %s", len(args), cmd.UseLine())}
	}
}

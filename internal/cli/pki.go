package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/pki"
)

// pkiFlags are what the commands of pki have in common.
type pkiFlags struct {
	dir   string
	days  int
	hosts []string
}

func (a *app) pkiCommand() *cobra.Command {
	var f pkiFlags
	g := group("pki", "Makes and renews the certificates of a cluster",
		a.pkiInitCommand(&f), a.pkiIssueCommand(&f), a.pkiListCommand(&f), a.pkiRotateCommand(&f))
	g.Long = `Makes and renews the certificates of a cluster, in a directory that no node needs:
keep it where its private keys are safe. It talks to no blkd; what was made has to
be copied to where it is used, and every command says what goes where.`
	g.PersistentFlags().StringVar(&f.dir, "dir", "pki", "`DIR` with the CA and what it has issued")
	return g
}

func (f *pkiFlags) lifetimeFlag(cmd *cobra.Command, usage string) {
	cmd.Flags().IntVar(&f.days, "days", 0, usage)
	cmd.Flags().Lookup("days").DefValue = ""
}

func (f *pkiFlags) hostsFlag(cmd *cobra.Command, usage string) {
	cmd.Flags().StringSliceVar(&f.hosts, "host", nil, usage)
}

// lifetime is --days, or what is usual.
func (f *pkiFlags) lifetime(usual time.Duration) time.Duration {
	if f.days == 0 {
		return usual
	}
	const most = int(100 * pki.CertificateLifetime / (24 * time.Hour)) // more is refused; much more would overflow
	return time.Duration(min(f.days, most+1)) * 24 * time.Hour
}

func (a *app) pkiInitCommand(f *pkiFlags) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Makes the CA of a new cluster",
		Args:  arguments(0, 0),
		Example: `  blkctl pki init
  blkctl pki init --name prod --dir /root/prod-pki`,
		RunE: func(*cobra.Command, []string) error {
			ca, err := pki.Init(f.dir, name, f.lifetime(pki.CALifetime))
			if err != nil {
				return pkiError(err)
			}
			defer ca.Close()
			return a.showPKI(ca, "made the CA of cluster "+ca.Cluster(), nil, afterInit(ca))
		},
	}
	cmd.Flags().StringVar(&name, "name", "blkd", "`NAME` of the cluster, for people")
	f.lifetimeFlag(cmd, "valid for `DAYS` (default 3650)")
	return cmd
}

func (a *app) pkiIssueCommand(f *pkiFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "issue node|admin|client NAME",
		Short: "Makes a certificate, and its key, for a node, an operator or an NBD client",
		Long: `Makes a certificate and its private key: for a node, under the name that it has in
the cluster; for an admin, who may use blkctl from another machine; or for a client
of NBD. They are written to DIR/NAME, which is what that holder needs and all that
it needs.

Nodes know each other by name. --host is for NBD clients, which look at the address
that they connect to.`,
		Example: `  blkctl pki issue node n1 --host n1.example --host 10.0.0.1
  blkctl pki issue admin alice
  blkctl pki issue client db1 --days 90`,
		Args: arguments(2, 2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return roleWords(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			role := pki.Role(args[0])
			if !slices.Contains(pki.Roles, role) {
				return fmt.Errorf("%q is none of %s", args[0], strings.Join(roleWords(), ", "))
			}
			ca, err := pki.Open(f.dir)
			if err != nil {
				return pkiError(err)
			}
			defer ca.Close()
			c, err := ca.Issue(pki.Request{Role: role, Name: args[1], Hosts: f.hosts, Lifetime: f.lifetime(pki.CertificateLifetime)})
			if err != nil {
				return pkiError(err)
			}
			return a.showPKI(ca, fmt.Sprintf("issued to %s: %s", c.Identity, c.Dir), []*pki.Certificate{c}, afterIssue(c))
		},
	}
	f.hostsFlag(cmd, "node only: host name or `ADDRESS` that NBD clients connect to; repeatable")
	f.lifetimeFlag(cmd, "valid for `DAYS` (default 365), but not longer than the CA")
	return cmd
}

func (a *app) pkiListCommand(f *pkiFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Lists the CA and what it has issued, and what ends soon",
		Args:  arguments(0, 0),
		RunE: func(*cobra.Command, []string) error {
			ca, err := pki.Open(f.dir)
			if err != nil {
				return pkiError(err)
			}
			defer ca.Close()
			list, err := ca.List()
			if err != nil {
				return pkiError(err)
			}
			var next []string
			if ca.Changing() {
				if next, err = changeSteps(ca); err != nil {
					return pkiError(err)
				}
			}
			return a.showPKI(ca, "", list, next)
		},
	}
}

func roleWords() []string {
	words := make([]string, len(pki.Roles))
	for i, r := range pki.Roles {
		words[i] = string(r)
	}
	return words
}

// pkiError gives an error of package pki its exit code and its advice.
func pkiError(err error) error {
	e := &Error{Code: Failed, Text: err.Error()}
	var p *pki.Error
	if !errors.As(err, &p) {
		return e
	}
	e.Text, e.Advice = p.Text, p.Next
	switch p.Reason {
	case pki.ErrInvalid:
		e.Code = Usage
	case pki.ErrNotFound:
		e.Code = NotFound
	case pki.ErrExists:
		e.Code = Conflict
	case pki.ErrInUse:
		e.Code = Refused
	}
	return e
}

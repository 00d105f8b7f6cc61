package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"blkd/internal/pki"
)

func (a *app) pkiRotateCommand(f *pkiFlags) *cobra.Command {
	var all, ca, drop bool
	cmd := &cobra.Command{
		Use:   "rotate NAME…|--all|--ca",
		Short: "Issues certificates again, or changes the CA",
		Long: `Issues certificates again, each with a new key: of the names given, or with --all
of everyone. Role and hosts stay.

--ca changes the CA without an interruption, in three steps, and says each time
where the change stands and what is next: a new CA beside the old one, which
everybody has to trust; new certificates from it, for everyone; and with
--drop-old the end of the old CA.`,
		Example: `  blkctl pki rotate n1
  blkctl pki rotate --all --days 365
  blkctl pki rotate --ca`,
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case ca && (all || len(args) > 0 || len(f.hosts) > 0):
				return errors.New("--ca changes the CA alone; take the rest away")
			case drop && !ca:
				return errors.New("--drop-old ends a change of the CA; write: blkctl pki rotate --ca --drop-old")
			case !ca && all == (len(args) > 0):
				return errors.New("whose certificate? name its holders, or write --all")
			case len(f.hosts) > 0 && len(args) != 1:
				return errors.New("--host is for one node; name it")
			}
			authority, err := pki.Open(f.dir)
			if err != nil {
				return pkiError(err)
			}
			defer authority.Close()
			if ca {
				return a.rotateCA(authority, f, drop)
			}
			return a.rotate(authority, f, args)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "the certificates of everyone")
	cmd.Flags().BoolVar(&ca, "ca", false, "begin a change of the CA, or say where it stands")
	cmd.Flags().BoolVar(&drop, "drop-old", false, "with --ca: end the change; refused (exit code 6) while the old CA is needed")
	f.hostsFlag(cmd, "host name or `ADDRESS` that NBD clients connect to, instead of those so far; repeatable")
	f.lifetimeFlag(cmd, "valid for `DAYS` (default 365; a CA 3650)")
	return cmd
}

// rotate issues the certificates of the names again; without any, of everyone.
func (a *app) rotate(ca *pki.Authority, f *pkiFlags, names []string) error {
	if len(names) == 0 {
		list, err := ca.List()
		if err != nil {
			return pkiError(err)
		}
		for _, c := range list {
			if c.Role != "" { // a directory of something else
				names = append(names, c.Name)
			}
		}
	}
	var done []*pki.Certificate
	for _, name := range names {
		c, err := ca.Rotate(name, f.hosts, f.lifetime(pki.CertificateLifetime))
		if err != nil {
			if e := pkiError(err).(*Error); len(done) > 0 {
				e.Text = fmt.Sprintf("%s; before that, %s issued again", e.Text, were(done))
				return e
			}
			return pkiError(err)
		}
		done = append(done, c)
	}
	next := afterRotate(done)
	if ca.Changing() {
		steps, err := changeSteps(ca)
		if err != nil {
			return pkiError(err)
		}
		next = append(next, steps...)
	}
	return a.showPKI(ca, "issued again to "+holders(done), done, next)
}

// rotateCA goes on with the change of the CA.
func (a *app) rotateCA(ca *pki.Authority, f *pkiFlags, drop bool) error {
	title := "a new CA stands beside the old one"
	var err error
	switch {
	case drop && ca.Changing():
		title = "the old CA is gone"
		err = ca.DropCA()
	case drop:
		title = "no change of the CA is under way"
		err = ca.DropCA() // repeats the copies, should they have been interrupted
	case ca.Changing():
		title = "a change of the CA is under way"
		err = ca.AddCA(f.lifetime(pki.CALifetime))
	default:
		err = ca.AddCA(f.lifetime(pki.CALifetime))
	}
	if err != nil {
		return pkiError(err)
	}
	next, err := changeSteps(ca)
	if err != nil {
		return pkiError(err)
	}
	return a.showPKI(ca, title, nil, next)
}

// holders names who the certificates are of: "node n1, admin alice".
func holders(list []*pki.Certificate) string {
	if len(list) == 0 {
		return "nobody"
	}
	words := make([]string, len(list))
	for i, c := range list {
		words[i] = c.Identity.String()
	}
	return strings.Join(words, ", ")
}

func were(list []*pki.Certificate) string {
	if len(list) == 1 {
		return holders(list) + " was"
	}
	return holders(list) + " were"
}

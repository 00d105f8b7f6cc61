package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"blkd/internal/pki"
)

// PKI is the result of the commands of pki.
type PKI struct {
	Dir          string              `json:"dir"`
	Cluster      string              `json:"cluster"`
	Changing     bool                `json:"changing"` // the CA is being changed
	CAs          []IssuedCertificate `json:"cas"`      // newest first
	Certificates []IssuedCertificate `json:"certificates"`
	Next         []string            `json:"next"` // what is to be done now, in this order
}

// IssuedCertificate is a CA, or what was issued to somebody.
type IssuedCertificate struct {
	Role      string    `json:"role"` // node, admin or client; empty: a CA, or files that cannot be read
	Name      string    `json:"name"` // of a CA: the cluster's
	CA        string    `json:"ca"`   // id of the CA that signed it; of a CA: its own
	Serial    string    `json:"serial"`
	Hosts     []string  `json:"hosts"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	DaysLeft  int       `json:"days_left"`
	Dir       string    `json:"dir"`
	Problem   string    `json:"problem"`
	Advice    string    `json:"advice"`
}

func newCertificates(in []*pki.Certificate, now time.Time) []IssuedCertificate {
	out := make([]IssuedCertificate, 0, len(in))
	for _, c := range in {
		out = append(out, IssuedCertificate{Role: string(c.Role), Name: c.Name, CA: c.CA, Serial: c.Serial, Hosts: some(c.Hosts),
			NotBefore: c.NotBefore, NotAfter: c.NotAfter, DaysLeft: c.DaysLeft(now), Dir: c.Dir, Problem: c.Problem, Advice: c.Advice})
	}
	return out
}

// showPKI prints what a command did, the certificates concerned, and what is next.
func (a *app) showPKI(ca *pki.Authority, title string, list []*pki.Certificate, next []string) error {
	now := time.Now()
	p := PKI{Dir: ca.Dir(), Cluster: ca.Cluster(), Changing: ca.Changing(), CAs: newCertificates(ca.CAs(), now),
		Certificates: newCertificates(list, now), Next: some(next)}
	return show(a.Out, a.output, pkiResult(p, title))
}

func pkiResult(p PKI, title string) result {
	names := make([]string, len(p.Certificates))
	for i, c := range p.Certificates {
		names[i] = c.Name
	}
	return result{data: p, names: names, table: func(w io.Writer, wide bool) { pkiTable(w, p, title, wide) }}
}

func pkiTable(w io.Writer, p PKI, title string, wide bool) {
	if title != "" {
		fmt.Fprintln(w, title)
	}
	head := []string{"ROLE", "NAME", "ENDS", "DAYS LEFT", "HOSTS"}
	if wide {
		head = append(head, "CA", "SERIAL", "DIR")
	}
	row(w, head...)
	all := append(append([]IssuedCertificate{}, p.CAs...), p.Certificates...)
	for i, c := range all {
		role, name := orUnknown(c.Role), c.Name
		if i < len(p.CAs) {
			role, name = "CA", c.Name+"/"+c.CA
		}
		ends, left := "-", "-"
		if !c.NotAfter.IsZero() {
			ends, left = c.NotAfter.Format(time.DateOnly), fmt.Sprint(c.DaysLeft)
		}
		cells := []string{role, name, ends, left, orDash(strings.Join(c.Hosts, ","))}
		if wide {
			cells = append(cells, orDash(c.CA), orDash(c.Serial), c.Dir)
		}
		row(w, cells...)
	}
	for i, c := range all {
		who := c.Name
		if i < len(p.CAs) {
			who = "CA " + c.Name + "/" + c.CA
		}
		if c.Problem != "" {
			fmt.Fprintf(w, "! %s: %s\n  %s\n", who, c.Problem, c.Advice)
		}
	}
	steps(w, p.Next)
}

// steps prints what is to be done now.
func steps(w io.Writer, next []string) {
	if len(next) > 0 {
		fmt.Fprintln(w, "next:")
	}
	for i, step := range next {
		fmt.Fprintf(w, "  %d. %s\n", i+1, step)
	}
}

// orUnknown stands for the role of files that cannot be read.
func orUnknown(role string) string {
	if role == "" {
		return "?"
	}
	return role
}

// tlsDir is where the examples keep a node's files.
const tlsDir = "/etc/blkd/tls"

// reload is how a node reads its files again.
const reload = "systemctl reload blkd (SIGHUP)"

func afterInit(ca *pki.Authority) []string {
	return []string{
		fmt.Sprintf("keep %s/ safe and backed up: whoever has %s is believed to be any node or operator", ca.Dir(), filepath.Join(ca.Dir(), "ca.key")),
		"for each node: blkctl pki issue node NAME --host ADDRESS" + dirFlag(ca),
		"for each operator: blkctl pki issue admin NAME" + dirFlag(ca),
	}
}

// dirFlag repeats --dir where it is not the default.
func dirFlag(ca *pki.Authority) string {
	if ca.Dir() == "pki" {
		return ""
	}
	return " --dir " + ca.Dir()
}

func afterIssue(c *pki.Certificate) []string {
	switch c.Role {
	case pki.Node:
		return []string{copyNode(c),
			fmt.Sprintf("start blkd there with --node-name %s --tls-dir %s (in blkd.toml: [cluster] tls_dir)", c.Name, tlsDir),
			fmt.Sprintf("delete %s here, if you like: it is not needed to issue again", filepath.Join(c.Dir, c.Name+".key"))}
	case pki.Admin:
		return []string{"copy " + filesOf(c) + " to a directory of the operator's, mode 0700",
			"blkctl --tls-dir DIRECTORY --node HOST:7400 status (or set BLKCTL_TLS_DIR and BLKCTL_NODE)"}
	default:
		return []string{fmt.Sprintf("copy %s/ to the client with its links (cp -a, rsync -a), readable only for its user", c.Dir),
			"QEMU: -object tls-creds-x509,id=tls0,endpoint=client,dir=DIRECTORY; libnbd: nbds://HOST/VOLUME?tls-certificates=DIRECTORY"}
	}
}

func afterRotate(list []*pki.Certificate) []string {
	var steps []string
	for _, c := range list {
		switch c.Role {
		case pki.Node:
			steps = append(steps, copyNode(c)+"; there: "+reload)
		case pki.Admin:
			steps = append(steps, "copy "+filesOf(c)+" to operator "+c.Name)
		default:
			steps = append(steps, fmt.Sprintf("copy %s/ to client %s, which connects again with it", c.Dir, c.Name))
		}
	}
	return steps
}

// filesOf is what the holder needs.
func filesOf(c *pki.Certificate) string {
	return fmt.Sprintf("%s %s %s", filepath.Join(c.Dir, c.Name+".crt"), filepath.Join(c.Dir, c.Name+".key"), filepath.Join(c.Dir, "ca.crt"))
}

func copyNode(c *pki.Certificate) string {
	return fmt.Sprintf("copy %s to node %s, into %s (mode 0700, of the user that runs blkd)", filesOf(c), c.Name, tlsDir)
}

// changeSteps is what is next in a change of the CA; see [pki.Authority.AddCA].
func changeSteps(ca *pki.Authority) ([]string, error) {
	trust := fmt.Sprintf("copy %s to every holder, in place of its ca.crt; on each node: %s", filepath.Join(ca.Dir(), "ca.crt"), reload)
	if !ca.Changing() {
		return []string{trust}, nil
	}
	old, err := ca.SignedByOld()
	if err != nil {
		return nil, err
	}
	drop := "when everybody uses its new files: blkctl pki rotate --ca --drop-old" + dirFlag(ca)
	if len(old) == 0 {
		return []string{drop}, nil
	}
	return []string{trust,
		"when everybody has it: blkctl pki rotate --all" + dirFlag(ca) + " (still of the old CA: " + strings.Join(old, ", ") + ")", drop}, nil
}

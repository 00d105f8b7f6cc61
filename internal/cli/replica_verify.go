package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"blkd/internal/api"
	"blkd/internal/units"
)

// Compared is the result of replica verify.
type Compared struct {
	Name           string       `json:"name"`
	Nodes          []string     `json:"nodes"` // compared, the primary first
	CheckedBytes   int64        `json:"checked_bytes"`
	OK             bool         `json:"ok"` // they are the same, or were made so
	DifferentBytes int64        `json:"different_bytes"`
	RepairedBytes  int64        `json:"repaired_bytes"`
	Differences    []Difference `json:"differences"` // the first of them
}

// Difference is where a replica is not like the primary.
type Difference struct {
	Node       string `json:"node"`
	Offset     int64  `json:"offset"`
	Length     int64  `json:"length"`
	Unreadable bool   `json:"unreadable"` // it failed its checksum, rather than being different
}

func newCompared(name string, p *api.VerifyReplicasProgress) Compared {
	out := Compared{Name: name, Nodes: some(p.Nodes), CheckedBytes: p.CheckedBytes, OK: p.RepairedBytes >= p.DifferentBytes,
		DifferentBytes: p.DifferentBytes, RepairedBytes: p.RepairedBytes, Differences: []Difference{}}
	for _, d := range p.Differences {
		out.Differences = append(out.Differences, Difference{Node: d.Node, Offset: d.Offset, Length: d.Length, Unreadable: d.Unreadable})
	}
	return out
}

func (a *app) replicaVerifyCommand() *cobra.Command {
	req := &api.VerifyReplicasRequest{}
	cmd := &cobra.Command{
		Use:   "verify VOLUME [NODE]",
		Short: "Compares the replicas of a volume, block by block",
		Long: `Compares the replicas of a volume with the primary's, block by block, while it is in
use; with NODE only that one. Exit code 1 if one differs. --repair writes what
differs again. --timeout counts only if it is given.`,
		Args:              arguments(1, 2),
		ValidArgsFunction: a.completeVolumeThenNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("timeout") {
				a.timeout = 0 // it may take hours
			}
			req.Name, req.Node = args[0], argument(args, 1)
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error { return a.compare(ctx, n, req) })
		},
	}
	cmd.Flags().BoolVar(&req.Repair, "repair", false, "write what differs again, from the primary")
	return cmd
}

func (a *app) compare(ctx context.Context, n *node, req *api.VerifyReplicasRequest) error {
	stream, err := n.volumes.VerifyReplicas(ctx, req)
	if err != nil {
		return called(err)
	}
	p, err := a.follow(req.Name, stream)
	if err != nil {
		return err
	}
	return a.showCompared(newCompared(req.Name, p))
}

// follow shows how far a comparison is, and waits for its result.
func (a *app) follow(name string, stream grpc.ServerStreamingClient[api.VerifyReplicasProgress]) (*api.VerifyReplicasProgress, error) {
	line := statusLine{w: a.Err, on: isTerminal(a.Err)}
	defer line.end()
	for {
		p, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil, &Error{Code: Failed, Text: "blkd ended the comparison of " + name + " without a result", Advice: "blkctl status"}
		case err != nil:
			return nil, called(err)
		case !p.Done:
			line.set(fmt.Sprintf("compare %s: %s of %s", name, units.Size(p.CheckedBytes), units.Size(p.TotalBytes)))
		default:
			return p, nil
		}
	}
}

func (a *app) showCompared(c Compared) error {
	err := show(a.Out, a.output, result{data: c, names: []string{c.Name}, table: func(w io.Writer, _ bool) { comparedTable(w, c) }})
	if err != nil || c.OK {
		return err
	}
	return &Error{Code: Failed, Text: fmt.Sprintf("the replicas of volume %s differ: %s of %s", c.Name, units.Size(c.DifferentBytes), units.Size(c.CheckedBytes)),
		Advice: fmt.Sprintf("blkctl replica verify %s --repair; if it comes back, look at the disks", c.Name)}
}

func comparedTable(w io.Writer, c Compared) {
	if len(c.Differences) > 0 {
		row(w, "NODE", "OFFSET", "LENGTH", "WHAT")
		for _, d := range c.Differences {
			what := "different"
			if d.Unreadable {
				what = "unreadable"
			}
			row(w, d.Node, fmt.Sprint(d.Offset), fmt.Sprint(d.Length), what)
		}
	}
	switch {
	case c.DifferentBytes == 0:
		fmt.Fprintf(w, "volume %s: %s compared on %s, all the same\n", c.Name, units.Size(c.CheckedBytes), plural(len(c.Nodes), "node", "nodes"))
	case c.OK:
		fmt.Fprintf(w, "volume %s: %s compared, %s written again\n", c.Name, units.Size(c.CheckedBytes), units.Size(c.RepairedBytes))
	}
}

package cli

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// VolumeRole is what the node of this machine is to a volume.
type VolumeRole struct {
	Volume     string `json:"volume"`
	Node       string `json:"node"`
	Role       string `json:"role"`       // Primary or Secondary
	Lease      bool   `json:"lease"`      // it is Primary and no other node can be, right now
	State      string `json:"state"`      // of its replica; Diskless: it has none
	Primary    string `json:"primary"`    // as recorded; empty: none
	Generation uint64 `json:"generation"` // as recorded
}

func (a *app) roleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "role VOLUME",
		Short: "Tells what this machine's node is to a volume, without asking others",
		Long: `Prints two words: Primary, if the node of this machine serves the volume, else
Secondary; and the state of its replica, or Diskless if it has none. The node answers
alone, also without a quorum, from what it knows: it is for programs that look often,
as cluster managers do.`,
		Example: `  blkctl role pgdata
  blkctl role pgdata -o json`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeVolume,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.role(cmd.Context(), args[0]) },
	}
}

func (a *app) role(ctx context.Context, volume string) error {
	return a.call(ctx, func(ctx context.Context, n *node) error {
		here, err := n.node.Status(ctx, &api.StatusRequest{Volume: volume})
		if err != nil {
			return called(err)
		}
		known, err := n.volumes.Follow(ctx, &api.FollowRequest{Name: volume})
		if err != nil {
			return called(err)
		}
		if known.Record == nil {
			return &Error{Code: NotFound, Text: fmt.Sprintf("there is no volume %q", volume), Node: here.Node, Advice: "blkctl volume list"}
		}
		served, err := n.volumes.List(ctx, &api.ListVolumesRequest{Local: true})
		if err != nil {
			return called(err)
		}
		r := newRole(here.Node, known.Record, served.Volumes)
		return show(a.Out, a.output, result{data: r, names: []string{r.Role}, table: func(w io.Writer, _ bool) {
			fmt.Fprintln(w, r.Role, r.State)
		}})
	})
}

// newRole is the role of a node that serves some volumes.
func newRole(node string, record *metapb.Volume, serves []*api.Volume) *VolumeRole {
	r := &VolumeRole{Volume: record.Name, Node: node, Role: "Secondary", State: "Diskless", Primary: record.Primary, Generation: record.Generation}
	if i := slices.IndexFunc(record.Members, func(m *metapb.Member) bool { return m.Node == node }); i >= 0 {
		r.State = metapb.StateWord(record.Members[i].State)
	}
	if i := slices.IndexFunc(serves, func(v *api.Volume) bool { return v.Name == record.Name }); i >= 0 {
		r.Role, r.Lease = "Primary", serves[i].GetLease().GetHeld()
	}
	return r
}

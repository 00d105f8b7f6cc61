package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// History is the result of history.
type History struct {
	Name    string         `json:"name"`
	Deleted bool           `json:"deleted"`
	Dropped uint64         `json:"dropped"` // older entries that are not kept
	Entries []HistoryEntry `json:"entries"` // oldest first
}

// HistoryEntry is one change of a volume's record.
type HistoryEntry struct {
	Generation uint64     `json:"generation"`
	Number     uint64     `json:"number"`
	What       string     `json:"what"`
	By         string     `json:"by"`
	Node       string     `json:"node"`
	Reason     string     `json:"reason"`
	Time       *time.Time `json:"time"` // null: unknown
	Index      uint64     `json:"index"`
	// Certificate is, of a promotion, on what it rests: once the new primary serves.
	Certificate *Certificate `json:"certificate,omitempty"`
}

func newHistory(h *metapb.History) History {
	out := History{Name: h.Name, Deleted: h.Deleted, Dropped: h.Dropped, Entries: []HistoryEntry{}}
	for _, e := range h.Entries {
		out.Entries = append(out.Entries, HistoryEntry{Generation: e.Generation, Number: e.Number, What: e.What,
			By: e.By, Node: e.Node, Reason: e.Reason, Time: moment(e.Time), Index: e.Index, Certificate: newCertificate(e.Certificate)})
	}
	return out
}

func (a *app) historyCommand() *cobra.Command {
	var certificates bool
	cmd := &cobra.Command{
		Use:   "history VOLUME",
		Short: "Shows who changed a volume's record, when and why",
		Long: `Shows every change of a volume's record, oldest first: its generation, what was
changed, who asked, through which node, and why. Deleted volumes have one too.
--certificates adds, to each promotion, the proof that it lost nothing.`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				answer, err := n.cluster.History(ctx, &api.HistoryRequest{Volume: args[0]})
				if err != nil {
					return called(err)
				}
				return show(a.Out, a.output, historyResult(newHistory(answer), certificates))
			})
		},
	}
	cmd.Flags().BoolVar(&certificates, "certificates", false, "show the certificates of promotions")
	return cmd
}

func historyResult(h History, certificates bool) result {
	return result{data: h, names: []string{h.Name}, table: func(w io.Writer, wide bool) {
		historyTable(w, h, wide)
		for _, e := range h.Entries {
			if certificates && e.Certificate != nil {
				fmt.Fprintf(w, "\ngeneration %d: %s\n", e.Generation, e.What)
				certificateSheet(w, e.Certificate)
			}
		}
	}}
}

func historyTable(w io.Writer, h History, wide bool) {
	head := []string{"GEN", "NUMBER", "TIME", "WHAT", "BY", "REASON"}
	if wide {
		head = append(head, "NODE", "INDEX")
	}
	row(w, head...)
	for _, e := range h.Entries {
		cells := []string{fmt.Sprint(e.Generation), fmt.Sprint(e.Number), when(e.Time), e.What, orDash(e.By), orDash(e.Reason)}
		if wide {
			cells = append(cells, orDash(e.Node), fmt.Sprint(e.Index))
		}
		row(w, cells...)
	}
	if h.Dropped > 0 {
		fmt.Fprintf(w, "%d older entries are no longer kept\n", h.Dropped)
	}
	if h.Deleted {
		fmt.Fprintf(w, "volume %s is deleted\n", h.Name)
	}
}

package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// timeline shows what happens from a moment on.
type timeline struct {
	out   io.Writer
	began time.Time
	after uint64 // events up to this one came before
}

func (t *timeline) title(format string, args ...any) {
	fmt.Fprintf(t.out, "\n"+format+"\n", args...)
}

func (t *timeline) line(at time.Time, format string, args ...any) {
	fmt.Fprintf(t.out, "  %9s  %s\n", roughly(at.Sub(t.began)), fmt.Sprintf(format, args...))
}

// explain tells what the cluster did since, up to a moment, as its records say.
func (s *story) explain(ctx context.Context, t *timeline, old *node, until time.Time) error {
	events, err := s.events(ctx, s.client, t.after)
	if err != nil {
		return err
	}
	if at, why := noticed(events, old); why != "" {
		t.line(at, "the others find out: %s is %s", old.name, why)
	}
	e, err := s.promotion(ctx)
	if err != nil {
		return err
	}
	c := e.Certificate
	t.line(time.Unix(0, e.Time), "the quorum makes %s primary, in generation %d", c.NewPrimary, e.Generation)
	sealed := 0
	for _, m := range c.Members {
		if m.Sealed {
			sealed++
		}
	}
	t.line(c.Serving.AsTime(), "%s serves: %d of %d members refuse everything older now, and the best of their logs is taken", c.NewPrimary, sealed, len(c.Members))
	return nil
}

// noticed finds the first event that says that a node does not work, and how it
// calls that.
func noticed(events []*metapb.Event, n *node) (time.Time, string) {
	for _, e := range events {
		if n == nil || e.Type != "node" || e.Name != n.name {
			continue
		}
		for _, c := range e.Changes {
			if c.Field == "health" && c.New != "up" {
				return time.Unix(0, e.Time), c.New
			}
		}
	}
	return time.Time{}, ""
}

// promotion waits for the certificate of the latest generation.
func (s *story) promotion(ctx context.Context) (*metapb.HistoryEntry, error) {
	var found *metapb.HistoryEntry
	err := s.await(ctx, s.client, func(ctx context.Context, n *node) error {
		h, err := n.cluster().History(ctx, &api.HistoryRequest{Volume: volume})
		if err != nil {
			return said(err)
		}
		found = latest(h)
		if found == nil {
			return fmt.Errorf("the promotion of volume %s has no certificate", volume)
		}
		return nil
	})
	return found, err
}

// latest is the entry that began the latest generation, with the certificate of the
// one that says that it is served; nil: none says so.
func latest(h *metapb.History) *metapb.HistoryEntry {
	if len(h.Entries) == 0 {
		return nil
	}
	generation := h.Entries[len(h.Entries)-1].Generation
	var found *metapb.HistoryEntry
	for _, e := range slices.Backward(h.Entries) {
		if e.Generation != generation {
			break
		}
		if c := e.Certificate; c != nil && (found == nil || found.Certificate == nil) {
			found = &metapb.HistoryEntry{Certificate: c}
		}
		if found != nil {
			found.Generation, found.Time = e.Generation, e.Time
		}
	}
	return found
}

// agree checks that all nodes tell the same history, in which each generation has
// one primary, and that by their own logs no other node ever served it. It returns
// the number of generations.
func (s *story) agree(ctx context.Context) (int, error) {
	served := map[uint64]string{} // the node that served, by generation
	for _, n := range s.nodes {
		generations, err := servedBy(n)
		if err != nil {
			return 0, err
		}
		for _, g := range generations {
			if other := served[g]; other != "" && other != n.name {
				return 0, fmt.Errorf("generation %d was served by %s and by %s", g, other, n.name)
			}
			served[g] = n.name
		}
	}
	for _, n := range s.nodes {
		h, err := n.cluster().History(ctx, &api.HistoryRequest{Volume: volume})
		if err != nil {
			return 0, said(err)
		}
		recorded := map[uint64]string{}
		for _, e := range h.Entries {
			if c := e.Certificate; c != nil {
				recorded[e.Generation] = c.NewPrimary
			}
		}
		for g, name := range served {
			if recorded[g] != name {
				return 0, fmt.Errorf("generation %d was served by %s, and %s has recorded %q", g, name, n.name, recorded[g])
			}
		}
	}
	if len(served) == 0 {
		return 0, fmt.Errorf("no node's log says that it served volume %s", volume)
	}
	return len(served), nil
}

// servedBy are the generations that a node says in its log to have served.
func servedBy(n *node) ([]uint64, error) {
	text, err := os.ReadFile(n.logFile())
	if err != nil {
		return nil, err
	}
	var generations []uint64
	for line := range strings.Lines(string(text)) {
		var said struct {
			Msg, Volume string
			Generation  uint64
		}
		if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "this node serves the volume" && said.Volume == volume {
			generations = append(generations, said.Generation)
		}
	}
	return generations, nil
}

// roughly is a length of time in three digits.
func roughly(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}

// grouped is a number with a comma between thousands.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// Event is one line of events.
type Event struct {
	Seq     uint64       `json:"seq,omitempty"`     // of a change and of sync: resume after it
	Time    *time.Time   `json:"time,omitempty"`    // of a change
	Type    string       `json:"type"`              // cluster, node, volume or voters; sync; gap
	Action  string       `json:"action,omitempty"`  // exists; create, change or destroy
	Name    string       `json:"name,omitempty"`    // of the object
	Cluster *ClusterInfo `json:"cluster,omitempty"` // exists
	Node    *Node        `json:"node,omitempty"`    // exists
	Volume  *Volume      `json:"volume,omitempty"`  // exists
	Changes []Change     `json:"changes,omitempty"`
	By      string       `json:"by,omitempty"`
	Reason  string       `json:"reason,omitempty"`
	Index   uint64       `json:"index,omitempty"`
	After   *uint64      `json:"after,omitempty"` // gap: events after this one are missing
}

// Change is a field's old and new value.
type Change struct {
	Field string `json:"field"`
	Old   string `json:"old"`
	New   string `json:"new"`
}

func newEvent(in *api.Event) Event {
	switch item := in.Item.(type) {
	case *api.Event_Cluster:
		c := newCluster(item.Cluster).ClusterInfo
		return Event{Type: "cluster", Action: "exists", Name: c.Name, Cluster: &c}
	case *api.Event_Node:
		n := newNode(item.Node)
		return Event{Type: "node", Action: "exists", Name: n.Name, Node: &n}
	case *api.Event_Volume:
		v := newVolume(item.Volume)
		return Event{Type: "volume", Action: "exists", Name: v.Name, Volume: &v}
	case *api.Event_Sync:
		return Event{Type: "sync", Seq: item.Sync.Seq}
	case *api.Event_Gap:
		return Event{Type: "gap", After: &item.Gap.After}
	case *api.Event_Change:
		c := item.Change
		e := Event{Seq: c.Seq, Time: moment(c.Time), Type: c.Type, Action: c.Action, Name: c.Name, By: c.By, Reason: c.Reason, Index: c.Index}
		for _, f := range c.Changes {
			e.Changes = append(e.Changes, newChange(f))
		}
		return e
	default: // of a newer node
		return Event{Type: "unknown"}
	}
}

// times are the fields of records that hold Unix nanoseconds.
var times = []string{"created", "registered", "health_since", "held_until"}

// newChange writes times as the rest of the contract does.
func newChange(c *metapb.Change) Change {
	out := Change{Field: c.Field, Old: c.Old, New: c.New}
	if slices.Contains(times, c.Field) {
		for _, value := range []*string{&out.Old, &out.New} {
			if n, err := strconv.ParseInt(*value, 10, 64); err == nil {
				*value = at(n).Format(time.RFC3339Nano)
			}
		}
	}
	return out
}

// position is the event after which the stream can be resumed.
func (e *Event) position() (uint64, bool) {
	return e.Seq, e.Type == "sync" || e.Action != "" && e.Action != "exists"
}

// newEventPrinter returns what prints events, each as soon as it is there.
func newEventPrinter(w io.Writer, format string) func(Event) error {
	switch format {
	case formatJSON:
		lines := json.NewEncoder(w)
		return func(e Event) error { return lines.Encode(e) }
	case formatYAML:
		return func(e Event) error {
			text, err := toYAML(e)
			if err == nil {
				_, err = fmt.Fprintf(w, "---\n%s", text)
			}
			return err
		}
	case formatName:
		return func(e Event) error { return line(w, e.Name) }
	default:
		return func(e Event) error { return line(w, e.words(format == formatWide)) }
	}
}

func line(w io.Writer, text string) error {
	if text == "" {
		return nil
	}
	_, err := fmt.Fprintln(w, text)
	return err
}

// words is an event for people, in one line.
func (e *Event) words(wide bool) string {
	switch {
	case e.Type == "sync":
		return fmt.Sprintf("sync: that is all there is, as of change %d", e.Seq)
	case e.Type == "gap":
		return fmt.Sprintf("gap: the changes after %d are no longer kept; what there is now:", *e.After)
	case e.Cluster != nil:
		return fmt.Sprintf("exists   cluster %s   id %s   quorum %d/%d", e.Name, e.Cluster.ID, e.Cluster.Quorum.Have, e.Cluster.Quorum.Voters)
	case e.Node != nil:
		return fmt.Sprintf("exists   node %s   %s   %s   %s", e.Name, e.Node.Address, e.Node.Role, e.Node.Health)
	case e.Volume != nil && e.Volume.Record != nil:
		return fmt.Sprintf("exists   volume %s   generation %d   primary %s   %s", e.Name, e.Volume.Record.Generation,
			orDash(e.Volume.Record.Primary), e.Volume.replicaWords())
	}
	words := []string{fmt.Sprint(e.Seq)}
	if e.Time != nil {
		words = append(words, e.Time.Format(time.RFC3339))
	}
	words = append(words, e.Action, strings.TrimSpace(e.Type+" "+e.Name))
	for _, c := range e.Changes {
		words = append(words, fmt.Sprintf("%s: %s -> %s", c.Field, orDash(c.Old), orDash(c.New)))
	}
	if e.By != "" {
		words = append(words, "by "+e.By)
	}
	if e.Reason != "" {
		words = append(words, "because "+e.Reason)
	}
	if wide {
		words = append(words, fmt.Sprintf("index %d", e.Index))
	}
	return strings.Join(words, "   ")
}

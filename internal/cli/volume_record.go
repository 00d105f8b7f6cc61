package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"blkd/internal/units"
	"blkd/metadata/metapb"
)

// notServed is what has to be known of a volume in state recorded.
const notServed = "the quorum has its record, and no node serves it: no data is replicated, no NBD export exists"

// recordTable prints a line for each volume of a cluster.
func recordTable(w io.Writer, volumes []Volume, wide bool) {
	head := []string{"VOLUME", "SIZE", "LAYOUT", "PRIMARY", "GEN", "STATE", "REPLICAS", "ATTACHED"}
	if wide {
		head = append(head, "URI", "CLIENTS", "ACK", "MIN-COPIES", "DURABILITY", "SHARED", "FAILOVER", "NUMBER", "LINEAGE")
	}
	row(w, head...)
	for _, v := range volumes {
		r := v.Record
		cells := []string{v.Name, units.Size(v.SizeBytes), r.Layout, v.primary(), fmt.Sprint(r.Generation), v.State,
			v.replicaWords(), orDash(r.holder())}
		if wide {
			cells = append(cells, firstURI(v.URIs), fmt.Sprint(v.Clients), r.Ack, fmt.Sprint(r.MinCopies), r.Durability, yesNo(r.Shared), r.Failover, fmt.Sprint(r.Number), r.Lineage)
		}
		row(w, cells...)
	}
}

// recordSheet prints all about one volume of a cluster.
func recordSheet(w io.Writer, v Volume) {
	r := v.Record
	row(w, "name", v.Name)
	row(w, "size", fmt.Sprintf("%s (%d bytes), in blocks of %d", units.Size(v.SizeBytes), v.SizeBytes, r.BlockBytes))
	row(w, "layout", r.Layout)
	row(w, "acknowledged", fmt.Sprintf("by %s; waits below %s; durable at %s", r.Ack, plural(r.MinCopies, "copy", "copies"), r.Durability))
	row(w, "shared", yesNo(r.Shared))
	row(w, "failover", r.Failover)
	row(w, "primary", v.primary())
	row(w, "generation", fmt.Sprintf("%d, record number %d, lineage %s", r.Generation, r.Number, r.Lineage))
	var members []string
	for _, m := range r.Members {
		members = append(members, m.Node+" "+memberWords(m, v.Runtime.replica(m.Node)))
	}
	lines(w, "replicas", members)
	row(w, "attached", orDash(r.holder()))
	row(w, "state", v.State)
	if v.State == "recorded" {
		row(w, "", notServed)
	}
	if v.Runtime != nil && v.Runtime.Lease != nil {
		row(w, "lease", v.Runtime.Lease.words())
	}
	if v.Runtime != nil {
		row(w, "survives", survived(v.Runtime.Survives))
	}
	if v.IO != nil {
		row(w, "log", fmt.Sprintf("%s of %s used", units.Size(v.IO.LogUsedBytes), units.Size(v.IO.LogSizeBytes)))
	}
	if v.Runtime != nil && v.Runtime.Space != nil {
		row(w, "space", v.Runtime.Space.words())
	}
	if len(v.URIs) > 0 {
		row(w, "clients", fmt.Sprint(v.Clients))
		row(w, "uri", strings.Join(v.URIs, "  "))
	}
	for _, b := range v.Branches {
		row(w, "branch", b.Name+", read-only: blkctl branch list "+v.Name)
	}
	printProblems(w, "", v.Problems)
}

// holder is who may write; empty: nobody.
func (r *Record) holder() string {
	if r.Attachment == nil || metapb.IsClients(r.Attachment.Holder) {
		return ""
	}
	return r.Attachment.Holder
}

// primary is the node that writes, and whether it is ready to.
func (v *Volume) primary() string {
	p := v.Record.Primary
	if p != "" && v.Runtime != nil && v.Runtime.Serving != p {
		return p + " (not serving)"
	}
	return orDash(p)
}

// role is what a replica on that node is.
func (v *Volume) role(node string) string {
	if v.Record.Primary == node {
		return "Primary"
	}
	return "Secondary"
}

// place is the layout and where the replicas are: "mirror 2 on n1, n2".
func (r *Record) place() string {
	names := make([]string, len(r.Members))
	for i, m := range r.Members {
		names[i] = m.Node
	}
	return r.Layout + " on " + strings.Join(names, ", ")
}

// mostNamed is how many replicas are listed by name; of more, those that are up to
// date are counted.
const mostNamed = 4

// replicaWords is the replicas in one cell: "n1 UpToDate · n2 Syncing 63 %, 2m left".
func (v *Volume) replicaWords() string {
	var words []string
	level := 0
	for _, m := range v.Record.Members {
		text := memberWords(m, v.Runtime.replica(m.Node))
		if text == upToDate && len(v.Record.Members) > mostNamed {
			level++
			continue
		}
		words = append(words, m.Node+" "+text)
	}
	if level > 0 {
		words = append([]string{fmt.Sprintf("%d %s", level, upToDate)}, words...)
	}
	return orDash(strings.Join(words, " · "))
}

const upToDate = "UpToDate"

// memberWords is the state of a replica, and how its resync goes.
func memberWords(m Member, now *Replica) string {
	text := memberState(m)
	if now == nil {
		return text
	}
	if now.Resync != nil {
		return text + " " + now.Resync.words()
	}
	if !now.Connected {
		return text + " (not connected)"
	}
	return text
}

func memberState(m Member) string {
	switch {
	case m.Amnesiac:
		return m.State + " (amnesiac)"
	case m.Leaving:
		return m.State + " (leaving)"
	}
	return m.State
}

// words is the progress: "63 %, 2m left"; empty: there is none.
func (r *Resync) words() string {
	if r == nil {
		return ""
	}
	text := "0 %"
	if r.TotalBytes > 0 {
		text = fmt.Sprintf("%d %%", 100*r.SyncedBytes/r.TotalBytes)
	}
	switch {
	case r.Waits != "":
		text += ", waits: " + r.Waits
	case r.LeftSeconds != nil:
		text += ", " + age(time.Duration(*r.LeftSeconds*float64(time.Second))) + " left"
	}
	return text
}

func (l *Lease) words() string {
	switch {
	case l.Confirm:
		return "none is used: each read asks the replicas"
	case !l.Held:
		return "not held: reads wait for it"
	case l.LeftSeconds != nil:
		return "held, " + roughSeconds(*l.LeftSeconds) + " left unless renewed"
	default:
		return "held"
	}
}

// survived is what may fail, in words.
func survived(what []string) string {
	if len(what) == 0 {
		return "no failure now"
	}
	return "the loss of " + strings.Join(what, ", or ")
}

func (s *Space) words() string {
	return fmt.Sprintf("up to %s a replica, and %s of logs: %.1f %% of it is usable", units.Size(s.DataBytes), units.Size(s.LogBytes), 100*s.Usable)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// when is a time, for people; "-" if it is not known.
func when(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

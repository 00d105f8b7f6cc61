package cli

import (
	"fmt"
	"io"
	"strings"

	"blkd/internal/units"
)

// notServed is what has to be known of a volume in state recorded.
const notServed = "this build of blkd records the volumes of a cluster and does not serve them yet: no data is replicated, no NBD export exists"

// recordTable prints a line for each volume of a cluster.
func recordTable(w io.Writer, volumes []Volume, wide bool) {
	head := []string{"VOLUME", "SIZE", "LAYOUT", "PRIMARY", "GEN", "STATE", "REPLICAS AS RECORDED", "ATTACHED"}
	if wide {
		head = append(head, "ACK", "MIN-COPIES", "DURABILITY", "SHARED", "NUMBER", "LINEAGE")
	}
	row(w, head...)
	for _, v := range volumes {
		r := v.Record
		cells := []string{v.Name, units.Size(v.SizeBytes), r.Layout, orDash(r.Primary), fmt.Sprint(r.Generation), v.State,
			replicas(r.Members), orDash(r.holder())}
		if wide {
			cells = append(cells, r.Ack, fmt.Sprint(r.MinCopies), r.Durability, yesNo(r.Shared), fmt.Sprint(r.Number), r.Lineage)
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
	row(w, "primary", orDash(r.Primary))
	row(w, "generation", fmt.Sprintf("%d, record number %d, lineage %s", r.Generation, r.Number, r.Lineage))
	for i, m := range r.Members {
		title := ""
		if i == 0 {
			title = "replicas"
		}
		row(w, title, memberWords(m)+" (as recorded)")
	}
	row(w, "attached", orDash(r.holder()))
	row(w, "state", v.State)
	if v.State == "recorded" {
		row(w, "", notServed)
	}
	printProblems(w, "", v.Problems)
}

// holder is who may write; empty: nobody.
func (r *Record) holder() string {
	if r.Attachment == nil {
		return ""
	}
	return r.Attachment.Holder
}

// place is the layout and where the replicas are: "mirror 2 on n1, n2".
func (r *Record) place() string {
	names := make([]string, len(r.Members))
	for i, m := range r.Members {
		names[i] = m.Node
	}
	return r.Layout + " on " + strings.Join(names, ", ")
}

// replicas is the member list in one cell: "n1 UpToDate · n2 Syncing".
func replicas(members []Member) string {
	if len(members) == 0 {
		return "-"
	}
	words := make([]string, len(members))
	for i, m := range members {
		words[i] = memberWords(m)
	}
	return strings.Join(words, " · ")
}

func memberWords(m Member) string {
	text := m.Node + " " + m.State
	if m.Amnesiac {
		text += " (amnesiac)"
	}
	return text
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
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

package cli

import (
	"fmt"
	"io"
	"time"
)

// generations is the change of generation, for a headline.
func (c *Certificate) generations() string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf(", generation %d -> %d", c.Before.Generation, c.After.Generation)
}

// certificateSheet prints on what a promotion rests.
func certificateSheet(w io.Writer, c *Certificate) {
	row(w, "record", fmt.Sprintf("generation %d, number %d -> generation %d, number %d", c.Before.Generation, c.Before.Number, c.After.Generation, c.After.Number))
	if c.Before.Lineage != c.After.Lineage {
		row(w, "lineage", c.Before.Lineage+" -> "+c.After.Lineage)
	}
	var members []string
	for _, m := range c.Members {
		members = append(members, m.words())
	}
	lines(w, "promises", members)
	row(w, "proof", c.proof())
	row(w, "log", fmt.Sprintf("that of %s, which ends at %s; known to be committed: %s", orDash(c.Chosen), c.ChosenEnd.words(), c.Committed.words()))
	var cut []string
	for _, t := range c.Cut {
		cut = append(cut, fmt.Sprintf("%s: entries %d to %d of generation %d", t.Node, t.FirstSeq, t.LastSeq, t.Generation))
	}
	lines(w, "cut off", cut)
	if c.KeptBranch != "" {
		row(w, "kept", fmt.Sprintf("the losing branch, read-only, as volume %s", c.KeptBranch))
	}
	row(w, "lease", c.leaseWords())
	row(w, "times", c.timeWords())
}

func (m *CertifiedMember) words() string {
	if !m.Sealed {
		return fmt.Sprintf("%s: none, %s", m.Node, orDash(m.Silent))
	}
	text := fmt.Sprintf("%s: log ends at %s, durable to %d, committed to %d", m.Node, m.End.words(), m.DurableSeq, m.CommitSeq)
	if m.Time != nil {
		text += ", at " + clock(*m.Time)
	}
	return text
}

// proof is why nothing acknowledged is missing, or that this is not known.
func (c *Certificate) proof() string {
	sealed := 0
	for _, m := range c.Members {
		if m.Sealed {
			sealed++
		}
	}
	if c.Kind == "forced" || sealed < c.Needed {
		return fmt.Sprintf("NONE: %d of the %d members that are needed promised, so acknowledged writes may be missing", sealed, c.Needed)
	}
	return fmt.Sprintf("what was acknowledged is on %d of %d; %d promised, so at least one of them has it, and the best log was taken", c.Acks, len(c.Members), sealed)
}

func (c *Certificate) leaseWords() string {
	text := "there was none"
	switch c.Lease {
	case "released":
		text = "given up by " + orDash(c.OldPrimary)
	case "expired":
		text = "waited out"
	}
	if c.LeaseEnded != nil {
		text += ", at " + clock(*c.LeaseEnded)
	}
	return text
}

func (c *Certificate) timeWords() string {
	if c.Asked == nil {
		return "-"
	}
	text := "asked at " + clock(*c.Asked)
	if c.Sealed != nil {
		text += ", promised " + roughSeconds(c.Sealed.Sub(*c.Asked).Seconds()) + " later"
	}
	if c.Serving != nil {
		text += ", serving " + roughSeconds(c.Serving.Sub(*c.Asked).Seconds()) + " later"
	}
	return text
}

// clock is a time of day, in UTC as everywhere.
func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

// roughSeconds is a short time in the unit that people would use.
func roughSeconds(s float64) string {
	if s < 1 {
		return fmt.Sprintf("%.0f ms", 1000*s)
	}
	return fmt.Sprintf("%.1f s", s)
}

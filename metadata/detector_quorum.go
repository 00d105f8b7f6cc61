package metadata

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"blkd/metadata/metapb"
)

// Quorum says which voters one node has in reach.
type Quorum struct {
	Present []string
	Missing []Verdict // with why
}

// Quorum looks at voters, named by node, from this node; it counts itself. A
// voter is present when its beats and this node's arrive at each other; whether
// its run is registered does not matter, because Raft comes before that.
func (d *Detector) Quorum(voters []string) Quorum {
	var q Quorum
	for _, name := range voters {
		p := d.peer(name)
		switch {
		case name == d.self:
			q.Present = append(q.Present, name)
		case p == nil:
			q.Missing = append(q.Missing, Verdict{Node: name, Text: "not known to " + d.self})
		case p.strange(d) || p.audible(d) && p.deaf == 0 && !p.refused:
			q.Present = append(q.Present, name)
		default:
			q.Missing = append(q.Missing, Verdict{Node: name, Incarnation: p.incarnation, Health: p.health, Since: p.since, Text: d.text(p)})
		}
	}
	return q
}

// Reached tells whether the voters present are a majority.
func (q Quorum) Reached() bool {
	return len(q.Present) > (len(q.Present)+len(q.Missing))/2
}

// String tells how many voters are missing and why, as in "2 of 3 voters
// missing: n1 (down: …), n2 (…)".
func (q Quorum) String() string {
	all := len(q.Present) + len(q.Missing)
	if len(q.Missing) == 0 {
		return fmt.Sprintf("all %d voters present", all)
	}
	var why []string
	for _, v := range q.Missing {
		text := v.Text
		if word := metapb.HealthWord(v.Health); word != "" {
			text = word + ": " + text
		}
		why = append(why, fmt.Sprintf("%s (%s)", v.Node, text))
	}
	return fmt.Sprintf("%d of %d voters missing: %s", len(q.Missing), all, strings.Join(why, ", "))
}

// Cut is a way between two nodes on which beats are lost.
type Cut struct {
	From, To string        // To does not hear From
	Heard    time.Duration // when it last did; 0: never while this node could tell
}

// Cuts returns the ways that are broken between nodes whose registered runs
// work, as far as this node can tell: by own ears, and by what others say in
// beats that arrive here. It is sorted by To, then From.
func (d *Detector) Cuts() []Cut {
	var cuts []Cut
	for _, p := range d.peers {
		if p.health == metapb.Health_HEALTH_PARTITIONED && !p.audible(d) {
			cuts = append(cuts, Cut{From: p.name, To: d.self, Heard: p.heard})
		}
	}
	for _, to := range d.peers {
		if !to.audible(d) {
			continue
		}
		if to.deaf >= d.config.UpBeats {
			cuts = append(cuts, Cut{From: d.self, To: to.name, Heard: to.hears[d.self].time})
		}
		for _, from := range d.peers {
			if from == to || !from.working() {
				continue
			}
			h := to.hears[from.name]
			if h.incarnation != from.incarnation {
				h = hearing{}
			}
			if to.heard-max(h.time, from.chance, to.chance) >= d.config.SuspectMax {
				cuts = append(cuts, Cut{From: from.name, To: to.name, Heard: h.time})
			}
		}
	}
	slices.SortFunc(cuts, func(a, b Cut) int {
		return cmp.Or(strings.Compare(a.To, b.To), strings.Compare(a.From, b.From))
	})
	return cuts
}

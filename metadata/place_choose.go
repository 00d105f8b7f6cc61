package metadata

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"blkd/metadata/metapb"
)

// domainLabels are the labels that name failure domains, the most general first.
var domainLabels = []string{"zone", "rack", "host"}

// domainsOf returns a node's failure domains, one per label. Each is a path, so
// that rack 1 of two zones are two. A node without the label shares a domain with
// the others of its parent that have none: nobody knows better. Without a host it
// is its own.
func domainsOf(n *metapb.Node) []string {
	domains := make([]string, len(domainLabels))
	path := ""
	for i, label := range domainLabels {
		value := n.Labels[label]
		if value == "" && label == "host" {
			value = n.Name
		}
		path += "/" + value
		domains[i] = path
	}
	return domains
}

// setDomains keeps the levels that tell the candidates apart.
func (p *placement) setDomains() {
	for level, label := range domainLabels {
		apart := make(map[string]bool)
		for _, ch := range p.left {
			apart[domainsOf(ch.node)[level]] = true
		}
		if len(apart) < 2 {
			continue
		}
		p.levels = append(p.levels, label)
		for _, ch := range p.left {
			ch.domains = append(ch.domains, domainsOf(ch.node)[level])
		}
	}
}

// shared counts, level by level, the chosen in the same domain as a candidate.
func (p *placement) shared(ch *candidate) []int {
	counts := make([]int, len(p.levels))
	for level := range p.levels {
		for _, other := range p.chosen {
			if other.domains[level] == ch.domains[level] {
				counts[level]++
			}
		}
	}
	return counts
}

func (p *placement) compare(a, b *candidate) int {
	return cmp.Or(
		slices.Compare(p.shared(a), p.shared(b)),
		cmp.Compare(b.tenths, a.tenths),
		cmp.Compare(a.members, b.members),
		strings.Compare(a.node.Name, b.node.Name))
}

// choose takes the next member: the best that is left, or the first of those that
// were named.
func (p *placement) choose(named bool) {
	best := p.left[0]
	if !named {
		best = slices.MinFunc(p.left, p.compare)
	}
	p.reasons = append(p.reasons, p.reason(best, named))
	p.chosen = append(p.chosen, best)
	p.left = slices.DeleteFunc(p.left, func(ch *candidate) bool { return ch == best })
}

// reason is one line that says why a node was chosen.
func (p *placement) reason(ch *candidate, named bool) string {
	why := []string{}
	if named {
		why = append(why, "it was named")
	}
	for level, n := range p.shared(ch) {
		label := p.levels[level]
		value := ch.domains[level][strings.LastIndexByte(ch.domains[level], '/')+1:]
		switch {
		case value == "":
			why = append(why, "no "+label+" label")
		case n == 0:
			why = append(why, label+" "+value+" has no replica yet")
		default:
			why = append(why, fmt.Sprintf("%s %s has %d", label, value, n))
		}
		if n == 0 {
			break // what is apart here is apart below
		}
	}
	space := "free space unknown"
	if ch.node.CapacityBytes > 0 {
		space = fmt.Sprintf("%d to %d %% free", ch.tenths*10, min(ch.tenths*10+10, 100))
	}
	why = append(why, space, fmt.Sprintf("in %d volumes", ch.members))
	return ch.node.Name + ": " + strings.Join(why, ", ")
}

// primary picks who serves: the first that was named, else of the members that
// keep the log the one that is primary of the fewest volumes.
func (p *placement) primary(logs int, named bool) string {
	best, why := p.chosen[0], "it was named first"
	if !named {
		best = slices.MinFunc(p.chosen[:logs], func(a, b *candidate) int {
			return cmp.Or(cmp.Compare(a.primaries, b.primaries), strings.Compare(a.node.Name, b.node.Name))
		})
		why = fmt.Sprintf("it is primary of %d others", best.primaries)
	}
	p.reasons = append(p.reasons, "primary "+best.node.Name+": "+why)
	return best.node.Name
}

package metadata

import (
	"strings"

	"blkd/metadata/metapb"
)

// membersText lists members for people: "n1 n2(Syncing) n3(amnesiac) n4(leaving)".
func membersText(members []*metapb.Member) string {
	list := make([]string, len(members))
	for i, m := range members {
		list[i] = m.Node
		if m.Amnesiac {
			list[i] += "(amnesiac)"
		} else if !counts(m) {
			list[i] += "(" + metapb.StateWord(m.State) + ")"
		}
		if m.Leaving {
			list[i] += "(leaving)"
		}
	}
	return strings.Join(list, " ")
}

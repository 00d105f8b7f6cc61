package metadata

import (
	"fmt"
	"strings"

	"blkd/metadata/metapb"
)

// StateWord is a replica's state in the words of docs/glossary.md.
func StateWord(s metapb.ReplicaState) string {
	switch s {
	case metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE:
		return "UpToDate"
	case metapb.ReplicaState_REPLICA_STATE_SYNCING:
		return "Syncing"
	case metapb.ReplicaState_REPLICA_STATE_OUTDATED:
		return "Outdated"
	case metapb.ReplicaState_REPLICA_STATE_INCONSISTENT:
		return "Inconsistent"
	}
	return "Unknown"
}

// HealthWord is a node's health in one word; empty before the first verdict.
func HealthWord(h metapb.Health) string { return enumWord(h.String(), "HEALTH_") }

// AckWord is an ack policy in one word: all or majority.
func AckWord(p metapb.AckPolicy) string { return enumWord(p.String(), "ACK_POLICY_") }

// DurabilityWord is when a write is durable, in one word: flush or write.
func DurabilityWord(d metapb.Durability) string { return enumWord(d.String(), "DURABILITY_") }

func enumWord(name, prefix string) string {
	if word := strings.ToLower(strings.TrimPrefix(name, prefix)); word != "unspecified" {
		return word
	}
	return ""
}

// LayoutWord is a layout as operators write it: "mirror 3", "ec 4+2".
func LayoutWord(l *metapb.Layout) string {
	switch l.GetKind() {
	case metapb.LayoutKind_LAYOUT_KIND_MIRROR:
		return fmt.Sprintf("mirror %d", l.Copies)
	case metapb.LayoutKind_LAYOUT_KIND_EC:
		return fmt.Sprintf("ec %d+%d", l.Data, l.Parity)
	}
	return ""
}

// membersText lists members for people: "n1 n2(Syncing) n3(amnesiac) n4(leaving)".
func membersText(members []*metapb.Member) string {
	list := make([]string, len(members))
	for i, m := range members {
		list[i] = m.Node
		if m.Amnesiac {
			list[i] += "(amnesiac)"
		} else if !counts(m) {
			list[i] += "(" + StateWord(m.State) + ")"
		}
		if m.Leaving {
			list[i] += "(leaving)"
		}
	}
	return strings.Join(list, " ")
}

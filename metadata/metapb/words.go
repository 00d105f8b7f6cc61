package metapb

import (
	"fmt"
	"strings"
)

// StateWord is a replica's state in the words of docs/glossary.md.
func StateWord(s ReplicaState) string {
	switch s {
	case ReplicaState_REPLICA_STATE_UP_TO_DATE:
		return "UpToDate"
	case ReplicaState_REPLICA_STATE_SYNCING:
		return "Syncing"
	case ReplicaState_REPLICA_STATE_OUTDATED:
		return "Outdated"
	case ReplicaState_REPLICA_STATE_INCONSISTENT:
		return "Inconsistent"
	}
	return "Unknown"
}

// HealthWord is a node's health in one word; empty before the first verdict.
func HealthWord(h Health) string { return enumWord(h.String(), "HEALTH_") }

// AckWord is an ack policy in one word: all or majority.
func AckWord(p AckPolicy) string { return enumWord(p.String(), "ACK_POLICY_") }

// DurabilityWord is when a write is durable, in one word: flush or write.
func DurabilityWord(d Durability) string { return enumWord(d.String(), "DURABILITY_") }

func enumWord(name, prefix string) string {
	if word := strings.ToLower(strings.TrimPrefix(name, prefix)); word != "unspecified" {
		return word
	}
	return ""
}

// LayoutWord is a layout as operators write it: "mirror 3", "ec 4+2".
func LayoutWord(l *Layout) string {
	switch l.GetKind() {
	case LayoutKind_LAYOUT_KIND_MIRROR:
		return fmt.Sprintf("mirror %d", l.Copies)
	case LayoutKind_LAYOUT_KIND_EC:
		return fmt.Sprintf("ec %d+%d", l.Data, l.Parity)
	}
	return ""
}

// clientsOf begins the holder that stands for the clients of a node which know
// nothing of attachments.
const clientsOf = "clients of "

// ClientsOf is the holder that stands for a node's clients which know nothing of
// attachments. No other holder has a blank in its name.
func ClientsOf(node string) string { return clientsOf + node }

// ServiceOf is the holder that a volume's service on a node is. It is not the node's own
// name, so that an operator can attach a volume there while its service is off.
func ServiceOf(node string) string { return "service@" + node }

// Differ tells whether two identities, of machines or of their boots, are known and are
// not the same.
func Differ(a, b uint64) bool { return a != 0 && b != 0 && a != b }

// IsClients tells whether a holder stands for such clients, of whichever node: all of
// them share one attachment.
func IsClients(holder string) bool { return strings.HasPrefix(holder, clientsOf) }

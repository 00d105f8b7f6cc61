package api

import (
	"cmp"

	"blkd/metadata/metapb"
)

// Word is the state as people and JSON read it: ok, degraded,
// waiting, failed or recorded.
func (s VolumeState) Word() string {
	switch s {
	case VolumeState_VOLUME_STATE_OK:
		return "ok"
	case VolumeState_VOLUME_STATE_DEGRADED:
		return "degraded"
	case VolumeState_VOLUME_STATE_FAILED:
		return "failed"
	case VolumeState_VOLUME_STATE_RECORDED:
		return "recorded"
	case VolumeState_VOLUME_STATE_WAITING:
		return "waiting"
	default:
		return unknown
	}
}

// unknown is the word for what a newer node knows and this build does not.
const unknown = "unknown"

// Word is the role as people and JSON read it: leader, voter, learner or none.
func (r NodeRole) Word() string {
	switch r {
	case NodeRole_NODE_ROLE_LEADER:
		return "leader"
	case NodeRole_NODE_ROLE_VOTER:
		return "voter"
	case NodeRole_NODE_ROLE_LEARNER:
		return "learner"
	case NodeRole_NODE_ROLE_NONE:
		return "none"
	default:
		return unknown
	}
}

// HealthWord is a node's health as people and JSON read it. A node that has
// never registered is new.
func HealthWord(n *metapb.Node) string {
	word := metapb.HealthWord(n.GetHealth())
	if word == "" && n.GetIncarnation() == 0 {
		return "new"
	}
	return cmp.Or(word, unknown)
}

// LayoutWord is a layout as it is written on the command line: "mirror 3" or
// "ec 4+2".
func LayoutWord(l *metapb.Layout) string { return cmp.Or(metapb.LayoutWord(l), unknown) }

// AckWord is a policy of acknowledgement: all or majority.
func AckWord(a metapb.AckPolicy) string { return cmp.Or(metapb.AckWord(a), unknown) }

// DurabilityWord is a volume's durability: flush or write.
func DurabilityWord(d metapb.Durability) string { return cmp.Or(metapb.DurabilityWord(d), unknown) }

// ReplicaWord is the state of a replica, in the words of the glossary.
func ReplicaWord(s metapb.ReplicaState) string { return metapb.StateWord(s) }

// PromotionWord is how a node became primary: none, first, handover, failover or
// forced.
func PromotionWord(k metapb.PromotionKind) string {
	switch k {
	case metapb.PromotionKind_PROMOTION_KIND_NONE:
		return "none"
	case metapb.PromotionKind_PROMOTION_KIND_FIRST:
		return "first"
	case metapb.PromotionKind_PROMOTION_KIND_HANDOVER:
		return "handover"
	case metapb.PromotionKind_PROMOTION_KIND_FAILOVER:
		return "failover"
	case metapb.PromotionKind_PROMOTION_KIND_FORCED:
		return "forced"
	default:
		return unknown
	}
}

// LeaseWord is how the lease of an old primary ended: none, released or expired.
func LeaseWord(e metapb.LeaseEnd) string {
	switch e {
	case metapb.LeaseEnd_LEASE_END_NONE:
		return "none"
	case metapb.LeaseEnd_LEASE_END_RELEASED:
		return "released"
	case metapb.LeaseEnd_LEASE_END_EXPIRED:
		return "expired"
	default:
		return unknown
	}
}

// Word is what a resync sends, as people and JSON read it: log, extents, digest
// or full.
func (k ResyncKind) Word() string {
	switch k {
	case ResyncKind_RESYNC_KIND_LOG:
		return "log"
	case ResyncKind_RESYNC_KIND_EXTENTS:
		return "extents"
	case ResyncKind_RESYNC_KIND_DIGEST:
		return "digest"
	case ResyncKind_RESYNC_KIND_FULL:
		return "full"
	default:
		return unknown
	}
}

package metadata

import "blkd/metadata/metapb"

// counts tells whether a member belongs to M, the set that acknowledgements and
// seals are counted over. An amnesiac member belongs to it: it makes the set
// larger without being able to help.
func counts(m *metapb.Member) bool { return m.State == metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE }

// sound tells whether a member can seal and be promoted.
func sound(m *metapb.Member) bool { return counts(m) && !m.Amnesiac }

// ackQuorum is W: so many of n log members hold a write before it is answered.
func ackQuorum(p metapb.AckPolicy, n int) int {
	if p == metapb.AckPolicy_ACK_POLICY_MAJORITY && n > 0 {
		return n/2 + 1
	}
	return n
}

// sealQuorum is S: so many of n log members meet every ack quorum.
func sealQuorum(p metapb.AckPolicy, n int) int { return n - ackQuorum(p, n) + 1 }

// tally counts the members of a volume.
type tally struct {
	copies int // in M
	logs   int // in M, and keep the log
	sound  int // of logs, not amnesiac
}

func tallyOf(members []*metapb.Member) (t tally) {
	for _, m := range members {
		if !counts(m) {
			continue
		}
		t.copies++
		if m.Log {
			t.logs++
			if sound(m) {
				t.sound++
			}
		}
	}
	return t
}

// isEC tells whether a volume is erasure-coded.
func isEC(l *metapb.Layout) bool { return l.GetKind() == metapb.LayoutKind_LAYOUT_KIND_EC }

// width is the number of members that a volume of this layout has in full. All of
// them keep its log: so each decides about its shard by what it knows itself.
func width(l *metapb.Layout) int {
	if isEC(l) {
		return int(l.Data) + int(l.Parity)
	}
	return int(l.Copies)
}

// minLogs is what min-copies asks of the log. Of k+m shards that go down to
// min-copies, the log has to survive the failures that are then still survived.
func minLogs(l *metapb.Layout, minCopies int32) int {
	if isEC(l) {
		return int(minCopies-l.Data) + 1
	}
	return int(minCopies)
}

// enough tells whether a volume may be served with so many members (S3): no
// fewer than min-copies of them, and no fewer than that hold each write.
func enough(v *metapb.Volume, t tally) bool {
	return t.copies >= int(v.MinCopies) && ackQuorum(v.Ack, t.logs) >= minLogs(v.Layout, v.MinCopies)
}

// recoverable tells whether so few members are sound that none can be promoted.
func recoverable(v *metapb.Volume, t tally) bool { return t.sound < sealQuorum(v.Ack, t.logs) }

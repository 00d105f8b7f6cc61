package metadata

import (
	"errors"
	"fmt"
	"slices"

	"blkd/metadata/metapb"
)

// must ends the process rather than record what breaks an invariant: a state that
// is wrong is wrong on every voter.
func must(err error) {
	if err != nil {
		panic("metadata: broken invariant: " + err.Error())
	}
}

// checkNode tells what is wrong with a node's record, in the state it belongs to.
func checkNode(s *State, n *metapb.Node) error {
	switch {
	case !validName(n.Name):
		return fmt.Errorf("node name %.80q", n.Name)
	case n.Id == 0 || n.Id > s.nextID:
		return fmt.Errorf("node %s has Raft id %d of %d given out", n.Name, n.Id, s.nextID)
	case slices.Contains(s.retired, n.Id):
		return fmt.Errorf("node %s has the retired Raft id %d", n.Name, n.Id)
	case n.Incarnation != 0 && n.Disk == 0:
		return fmt.Errorf("node %s has registered without a disk number", n.Name)
	}
	for _, other := range s.nodes.rows {
		if other.Name != n.Name && other.Id == n.Id {
			return fmt.Errorf("nodes %s and %s share the Raft id %d", n.Name, other.Name, n.Id)
		}
	}
	return nil
}

// checkVolume tells what is wrong with a volume's record, in the state it belongs
// to.
func checkVolume(s *State, v *metapb.Volume) error {
	switch {
	case !validName(v.Name):
		return fmt.Errorf("volume name %.80q", v.Name)
	case v.Id == 0 || v.Id > s.nextVolume:
		return fmt.Errorf("volume %s has id %d of %d given out", v.Name, v.Id, s.nextVolume)
	case v.Lineage == 0 || v.Generation == 0 || v.Number == 0:
		return fmt.Errorf("volume %s has no lineage, generation or number", v.Name)
	case v.Attachment == nil || v.Mark == nil:
		return fmt.Errorf("volume %s has no attachment or mark", v.Name)
	case v.Attachment.Since > v.Attachment.Number:
		return fmt.Errorf("volume %s has attachment %d since %d", v.Name, v.Attachment.Number, v.Attachment.Since)
	case v.Mark.Generation > v.Generation:
		return fmt.Errorf("volume %s is at generation %d, but its mark at %d", v.Name, v.Generation, v.Mark.Generation)
	}
	if no := checkService(v, v.Service); no != nil {
		return fmt.Errorf("volume %s: %w", v.Name, no)
	}
	if no := checkShape(v); no != nil {
		return fmt.Errorf("volume %s: %w", v.Name, no)
	}
	if len(v.Members) == 0 {
		return fmt.Errorf("volume %s has no members", v.Name)
	}
	if err := checkMembers(s, v); err != nil {
		return fmt.Errorf("volume %s: %w", v.Name, err)
	}
	return nil
}

// checkMembers checks each member by itself and against its node.
func checkMembers(s *State, v *metapb.Volume) error {
	seen := make(map[string]bool, len(v.Members))
	shards := make(map[int32]bool, len(v.Members))
	for _, m := range v.Members {
		n := s.Node(m.Node)
		switch {
		case n == nil || seen[m.Node]:
			return fmt.Errorf("member %.80q is no node, or is listed twice", m.Node)
		case n.Witness:
			return fmt.Errorf("member %s is a witness", m.Node)
		case m.Incarnation != n.Incarnation:
			return fmt.Errorf("member %s has incarnation %x, its node %x", m.Node, m.Incarnation, n.Incarnation)
		case sound(m) && m.Incarnation == 0:
			return fmt.Errorf("member %s counts, but has not registered", m.Node)
		case m.Amnesiac && !counts(m):
			return fmt.Errorf("member %s is both amnesiac and %s", m.Node, metapb.StateWord(m.State))
		case m.State < metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE || m.State > metapb.ReplicaState_REPLICA_STATE_INCONSISTENT:
			return fmt.Errorf("member %s is in state %d", m.Node, m.State)
		case m.Shard < 0 || int(m.Shard) >= max(1, width(v.Layout)) || !isEC(v.Layout) && (m.Shard != 0 || !m.Log):
			return fmt.Errorf("member %s cannot have shard %d, log %v, in %s", m.Node, m.Shard, m.Log, metapb.LayoutWord(v.Layout))
		case isEC(v.Layout) && counts(m) && shards[m.Shard]:
			return fmt.Errorf("two members have shard %d", m.Shard)
		}
		seen[m.Node] = true
		if counts(m) {
			shards[m.Shard] = true
		}
	}
	return nil
}

// checkStep tells what is wrong with replacing one record of a volume by the
// next: numbers never fall, and a generation has one primary (S1).
func checkStep(old, now *metapb.Volume) error {
	switch {
	case now.Id != old.Id || now.Name != old.Name:
		return fmt.Errorf("volume %s became another one", old.Name)
	case now.Generation < old.Generation:
		return fmt.Errorf("volume %s: generation fell from %d to %d", now.Name, old.Generation, now.Generation)
	case now.Number <= old.Number:
		return fmt.Errorf("volume %s: number went from %d to %d", now.Name, old.Number, now.Number)
	case now.Attachment.Number < old.Attachment.Number:
		return fmt.Errorf("volume %s: attachment number fell from %d to %d", now.Name, old.Attachment.Number, now.Attachment.Number)
	case now.Attachment.Since < old.Attachment.Since:
		return fmt.Errorf("volume %s: attachments of %d to %d are not fenced any more", now.Name, now.Attachment.Since, old.Attachment.Since)
	}
	if now.Generation == old.Generation {
		if now.Primary != old.Primary || now.PrimaryIncarnation != old.PrimaryIncarnation || now.Lineage != old.Lineage {
			return fmt.Errorf("volume %s: generation %d has two primaries", now.Name, now.Generation)
		}
	}
	return nil
}

// validate checks a whole state that was decoded.
func (s *State) validate() error {
	if s.cluster == 0 && len(s.nodes.rows)+len(s.volumes.rows) > 0 || s.cluster != 0 && s.version == 0 {
		return errors.New("it has records, but no cluster, or a cluster without a version")
	}
	if n := uint64(len(s.events.kept)); n > eventsKept || n > s.events.last || s.events.last >= maxCounter {
		return fmt.Errorf("%d events, the last of number %d", n, s.events.last)
	}
	for i, e := range s.events.kept {
		if e.Seq != s.events.last-uint64(len(s.events.kept)-1-i) {
			return fmt.Errorf("event %d is not in order", e.Seq)
		}
	}
	for i, n := range s.nodes.rows {
		if i > 0 && s.nodes.rows[i-1].Name >= n.Name {
			return fmt.Errorf("node %s is not in order", n.Name)
		}
		if err := checkNode(s, n); err != nil {
			return err
		}
	}
	ids := make(map[uint64]bool, len(s.volumes.rows))
	for i, v := range s.volumes.rows {
		if i > 0 && s.volumes.rows[i-1].Name >= v.Name || ids[v.Id] {
			return fmt.Errorf("volume %s is not in order, or shares its id", v.Name)
		}
		ids[v.Id] = true
		if err := checkVolume(s, v); err != nil {
			return err
		}
		if h := s.historyByID(v.Id); h == nil || h.Deleted || h.Name != v.Name {
			return fmt.Errorf("volume %s has no history", v.Name)
		}
	}
	return s.validateLists(ids)
}

// validateLists checks what the records of nodes and volumes do not show.
func (s *State) validateLists(volumes map[uint64]bool) error {
	deleted := 0
	for i, h := range s.histories {
		switch {
		case i > 0 && s.histories[i-1].Volume >= h.Volume:
			return fmt.Errorf("the history of volume %d is not in order", h.Volume)
		case len(h.Entries) == 0 || len(h.Entries) > historyLimit:
			return fmt.Errorf("the history of volume %d has %d entries", h.Volume, len(h.Entries))
		case h.Deleted == volumes[h.Volume] || h.Volume > s.nextVolume:
			return fmt.Errorf("the history of volume %d belongs to none", h.Volume)
		}
		if h.Deleted {
			deleted++
		}
	}
	if deleted > historyDeleted {
		return fmt.Errorf("%d histories of deleted volumes", deleted)
	}
	for _, ids := range [][]uint64{s.voters, s.learners, s.retired} {
		if !slices.Equal(ids, sortedIDs(ids)) {
			return fmt.Errorf("the Raft ids %d are not in order", ids)
		}
	}
	return nil
}

package metadata

import (
	"cmp"
	"slices"

	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

const (
	historyKept    = 1000 // entries a history has at least, once it had as many
	historyLimit   = 2000 // it is trimmed beyond
	historyDeleted = 100  // deleted volumes whose history is kept
	historyProven  = 100  // entries whose certificate is kept, per volume
)

// historyOf finds the history of a name: the living volume's, else that of the
// youngest deleted one.
func (s *State) historyOf(volume string) *metapb.History {
	if v := s.Volume(volume); v != nil {
		return s.historyByID(v.Id)
	}
	for _, h := range slices.Backward(s.histories) {
		if h.Name == volume {
			return h
		}
	}
	return nil
}

func (s *State) historyByID(id uint64) *metapb.History {
	i, ok := s.findHistory(id)
	if !ok {
		return nil
	}
	return s.histories[i]
}

func (s *State) findHistory(id uint64) (int, bool) {
	return slices.BinarySearchFunc(s.histories, id, func(h *metapb.History, id uint64) int { return cmp.Compare(h.Volume, id) })
}

// remember appends an entry to the history of a volume and, if the history has
// grown too long, cuts off its beginning.
func (s *State) remember(v *metapb.Volume, e *metapb.HistoryEntry) {
	i, ok := s.findHistory(v.Id)
	if !ok {
		s.histories = slices.Insert(s.histories, i, &metapb.History{Volume: v.Id, Name: v.Name})
	}
	h := s.histories[i]
	h.Entries = append(h.Entries, e)
	if n := len(h.Entries); n > historyLimit {
		h.Dropped += uint64(n - historyKept)
		h.Entries = slices.Clone(h.Entries[n-historyKept:])
	}
}

// forgetOldCertificates drops the certificates of all but the last promotions: one
// is many times as large as the rest of its entry.
func (s *State) forgetOldCertificates(volume uint64) {
	kept := 0
	h := s.historyByID(volume)
	for i, e := range slices.Backward(h.Entries) {
		if e.Certificate == nil {
			continue
		}
		if kept++; kept > historyProven {
			e = proto.CloneOf(e) // readers may hold the old one, and the list
			e.Certificate = nil
			h.Entries = slices.Clone(h.Entries)
			h.Entries[i] = e
			return // one more than before, at most
		}
	}
}

// closeHistory marks a volume as deleted and forgets the volumes that were
// deleted longest ago.
func (s *State) closeHistory(id uint64) {
	s.historyByID(id).Deleted = true
	deleted := slices.DeleteFunc(slices.Clone(s.histories), func(h *metapb.History) bool { return !h.Deleted })
	if len(deleted) <= historyDeleted {
		return
	}
	oldest := slices.MinFunc(deleted, func(a, b *metapb.History) int {
		return cmp.Or(cmp.Compare(lastEntry(a).GetIndex(), lastEntry(b).GetIndex()), cmp.Compare(a.Volume, b.Volume))
	})
	i, _ := s.findHistory(oldest.Volume)
	s.histories = slices.Delete(s.histories, i, i+1)
}

// lastEntry returns nil if the history is empty.
func lastEntry(h *metapb.History) *metapb.HistoryEntry {
	if n := len(h.GetEntries()); n > 0 {
		return h.Entries[n-1]
	}
	return nil
}

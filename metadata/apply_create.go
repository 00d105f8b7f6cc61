package metadata

import (
	"crypto/sha256"
	"encoding/binary"

	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// createVolume makes a volume at generation 1. Its primary is promoted by the
// creation: it activates generation 1 like any other.
func (a *apply) createVolume(c *metapb.CreateVolume) (*metapb.Result, *Refusal) {
	s := a.s
	if v := s.Volume(c.Name); v != nil {
		return nil, exists("there is a volume %s already", v.Name).advise("choose another name, or look at it: blkctl volume show %s", v.Name)
	}
	c = fill(c, s.dataNodes())
	v, no := newVolume(c)
	if no != nil {
		return nil, no
	}
	plan, no := place(s, c)
	if no != nil {
		return nil, no
	}
	a.changed = true
	s.nextVolume++
	v.Id, v.Created = s.nextVolume, a.c.Time
	v.Lineage = a.newLineage(v)
	for _, m := range plan.Members {
		v.Members = append(v.Members, proto.CloneOf(m))
	}
	v.Primary, v.PrimaryIncarnation = plan.Primary, s.Node(plan.Primary).Incarnation
	r := a.putVolume(nil, v, "created: "+metapb.LayoutWord(v.Layout)+" on "+membersText(v.Members)+", primary "+v.Primary)
	r.Plan = plan
	return r, nil
}

// newVolume is the record that a filled-in creation asks for, without members.
func newVolume(c *metapb.CreateVolume) (*metapb.Volume, *Refusal) {
	if !validName(c.Name) {
		return nil, invalid("volume name %.80q: %s", c.Name, nameRule)
	}
	v := &metapb.Volume{
		Name: c.Name, SizeBytes: c.SizeBytes, BlockBytes: c.BlockBytes, Layout: c.Layout, Ack: c.Ack,
		MinCopies: c.MinCopies, Durability: c.Durability, Shared: c.Shared,
		ManualFailover: c.ManualFailover,
		Generation:     1, Number: 1, Attachment: nobody(1), Mark: &metapb.Mark{},
	}
	if no := checkShape(v); no != nil {
		return nil, no
	}
	return v, nil
}

// newLineage makes a lineage that no volume had before: the randomness is that of
// the request id.
func (a *apply) newLineage(v *metapb.Volume) uint64 {
	b := binary.BigEndian.AppendUint64([]byte("blkd lineage"), a.s.cluster)
	b = binary.BigEndian.AppendUint64(b, v.Id)
	b = binary.BigEndian.AppendUint64(b, v.Lineage)
	sum := sha256.Sum256(append(b, a.c.Request...))
	return max(1, binary.BigEndian.Uint64(sum[:]))
}

// dataNodes counts the nodes that may have replicas.
func (s *State) dataNodes() (n int) {
	for _, node := range s.nodes.rows {
		if !node.Witness {
			n++
		}
	}
	return n
}

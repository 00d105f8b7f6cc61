package metadata

import (
	"blkd/internal/units"
	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// Limits of a volume. Sizes are those that one store can have.
const (
	minVolume  = 4096    // bytes
	maxVolume  = 1 << 46 // bytes, 64 TiB
	sector     = 512     // bytes, the unit of sizes
	blockBytes = 4096
	maxCopies  = 7  // of a mirror
	maxShards  = 32 // in all, of a member list
	maxData    = 16 // shards of an erasure code
	maxParity  = 4
)

// checkShape refuses sizes, layouts and policies that make no sense, in a record
// whose defaults are filled in.
func checkShape(v *metapb.Volume) *Refusal {
	if no := checkSize(v.SizeBytes); no != nil {
		return no
	}
	if v.BlockBytes != blockBytes {
		return invalid("block size %d: only %d bytes are supported", v.BlockBytes, blockBytes)
	}
	if no := checkLayout(v.Layout); no != nil {
		return no
	}
	return checkPolicy(v)
}

func checkSize(n int64) *Refusal {
	switch {
	case n < minVolume || n > maxVolume:
		return invalid("size %s is not between %s and %s", units.Exact(n), units.Exact(minVolume), units.Exact(maxVolume))
	case n%sector != 0:
		return invalid("size %s is not a multiple of %d bytes; the next one is %s", units.Exact(n), sector, units.Exact((n/sector+1)*sector))
	}
	return nil
}

func checkLayout(l *metapb.Layout) *Refusal {
	switch l.GetKind() {
	case metapb.LayoutKind_LAYOUT_KIND_MIRROR:
		if l.Copies < 1 || l.Copies > maxCopies || l.Data != 0 || l.Parity != 0 {
			return invalid("layout mirror %d: a mirror has 1 to %d copies", l.Copies, maxCopies)
		}
	case metapb.LayoutKind_LAYOUT_KIND_EC:
		if l.Data < 1 || l.Parity < 1 || l.Data > maxData || l.Parity > maxParity || l.Copies != 0 {
			return invalid("layout ec %d+%d: an erasure code has 1 to %d data shards and 1 to %d parity shards", l.Data, l.Parity, maxData, maxParity).
				advise("write for example ec 4+2; for copies of everything, mirror N")
		}
	default:
		return invalid("layout %d is neither a mirror nor an erasure code", l.GetKind())
	}
	return nil
}

func checkPolicy(v *metapb.Volume) *Refusal {
	full := width(v.Layout)
	least := int32(1)
	if isEC(v.Layout) {
		least = v.Layout.Data
	}
	switch v.Ack {
	case metapb.AckPolicy_ACK_POLICY_ALL:
	case metapb.AckPolicy_ACK_POLICY_MAJORITY:
		if full < 3 {
			return invalid("%s is too small for ack policy majority", metapb.LayoutWord(v.Layout)).advise("use --ack all, or a layout of 3 or more members")
		}
	default:
		return invalid("ack policy %d is neither all nor majority", v.Ack)
	}
	if v.MinCopies < least || int(v.MinCopies) > full {
		return invalid("min-copies %d: with %s it is %d to %d", v.MinCopies, metapb.LayoutWord(v.Layout), least, full)
	}
	if w := ackQuorum(v.Ack, full); w < minLogs(v.Layout, v.MinCopies) {
		return invalid("min-copies %d: ack policy %s waits for %d of %d only", v.MinCopies, metapb.AckWord(v.Ack), w, full).advise("use --ack all, or fewer --min-copies")
	}
	if v.Durability != metapb.Durability_DURABILITY_FLUSH && v.Durability != metapb.Durability_DURABILITY_WRITE {
		return invalid("durability %d is neither flush nor write", v.Durability)
	}
	return nil
}

// fill puts the defaults into what a creation leaves unset. Data nodes are all
// those that could have a replica one day.
func fill(c *metapb.CreateVolume, dataNodes int) *metapb.CreateVolume {
	c = proto.CloneOf(c)
	if c.BlockBytes == 0 {
		c.BlockBytes = blockBytes
	}
	if c.Layout.GetKind() == metapb.LayoutKind_LAYOUT_KIND_UNSPECIFIED {
		copies := min(2, dataNodes)
		if len(c.Nodes) > 0 {
			copies = len(c.Nodes)
		}
		c.Layout = &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: int32(max(1, copies))}
	}
	mirror3 := c.Layout.Kind == metapb.LayoutKind_LAYOUT_KIND_MIRROR && c.Layout.Copies >= 3
	if c.Ack == metapb.AckPolicy_ACK_POLICY_UNSPECIFIED {
		c.Ack = metapb.AckPolicy_ACK_POLICY_ALL
		// Of an erasure code, a majority of the members is more than m, and any m may
		// fail, if there is no more parity than data.
		if mirror3 || isEC(c.Layout) && c.Layout.Data >= c.Layout.Parity && width(c.Layout) >= 3 {
			c.Ack = metapb.AckPolicy_ACK_POLICY_MAJORITY
		}
	}
	if c.MinCopies == 0 {
		switch {
		case isEC(c.Layout):
			c.MinCopies = c.Layout.Data
		case mirror3:
			c.MinCopies = 2
		default:
			c.MinCopies = 1
		}
	}
	if c.Durability == metapb.Durability_DURABILITY_UNSPECIFIED {
		c.Durability = metapb.Durability_DURABILITY_FLUSH
	}
	return c
}

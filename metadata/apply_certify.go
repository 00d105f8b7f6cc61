package metadata

import (
	"fmt"

	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// certifyPromotion notes that the primary of a volume's generation serves, and
// keeps its certificate in the history. Like a mark it is no change of the record:
// who may write was decided before.
func (a *apply) certifyPromotion(c *metapb.CertifyPromotion) (*metapb.Result, *Refusal) {
	v, no := a.volume(c.Volume)
	if no != nil {
		return nil, no
	}
	switch {
	case c.Generation != v.Generation:
		no := conflict("volume %s is at generation %d, the certificate is of %d", v.Name, v.Generation, c.Generation)
		no.volume = v
		return nil, no
	case c.Certificate.GetAfter().GetGeneration() != c.Generation || c.Certificate.GetNewPrimary() != v.Primary:
		return nil, invalid("volume %s: the certificate of generation %d names generation %d and primary %.80q", v.Name, c.Generation,
			c.Certificate.GetAfter().GetGeneration(), c.Certificate.GetNewPrimary())
	case v.Served == c.Generation:
		return &metapb.Result{Volume: v}, nil
	}
	now := proto.CloneOf(v)
	now.Served = c.Generation
	must(checkVolume(a.s, now))
	a.changed = true
	a.s.volumes.put(now)
	a.s.remember(now, &metapb.HistoryEntry{
		Generation: v.Generation, Number: v.Number, What: fmt.Sprintf("%s serves", v.Primary),
		By: a.c.By, Node: a.c.Node, Reason: a.c.Reason, Time: a.c.Time, Index: a.index, Certificate: c.Certificate,
	})
	a.s.forgetOldCertificates(v.Id)
	a.tell(typeVolume, v.Name, volumeFields(v), volumeFields(now))
	return &metapb.Result{Volume: now}, nil
}

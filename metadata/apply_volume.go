package metadata

import (
	"fmt"
	"strings"

	"blkd/internal/units"
	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

func (a *apply) resizeVolume(c *metapb.ResizeVolume) (*metapb.Result, *Refusal) {
	v, no := a.volume(c.Name)
	if no != nil {
		return nil, no
	}
	if no := checkSize(c.SizeBytes); no != nil {
		return nil, no
	}
	from, to := units.Exact(v.SizeBytes), units.Exact(c.SizeBytes)
	switch {
	case c.SizeBytes == v.SizeBytes:
		return &metapb.Result{Volume: v}, nil
	case c.SizeBytes < v.SizeBytes && !c.AllowShrink:
		return nil, refused("volume %s has %s: %s would cut off what lies behind", v.Name, from, to).
			advise("shrink the file system first, then add --allow-shrink")
	}
	return a.editVolume(v, "resized "+from+" -> "+to, func(v *metapb.Volume) { v.SizeBytes = c.SizeBytes }), nil
}

func (a *apply) deleteVolume(c *metapb.DeleteVolume) (*metapb.Result, *Refusal) {
	v, no := a.volume(c.Name)
	if no != nil {
		return nil, no
	}
	if holder := attachedBy(v); holder != "" && !c.Force {
		return nil, refused("volume %s is attached by %s", v.Name, holder).advise("detach it there first, or add --force")
	}
	last := proto.CloneOf(v)
	last.Number++
	a.changed = true
	a.enter(last, "deleted")
	a.s.closeHistory(v.Id)
	a.s.volumes.remove(v.Name)
	a.tell(typeVolume, v.Name, volumeFields(v), nil)
	return &metapb.Result{Volume: v}, nil
}

// changeVolume changes policies. Only the primary may ask for another ack policy
// or durability, and only when everything committed is held as the new one says
// (protocol, section 5): the record cannot tell.
func (a *apply) changeVolume(c *metapb.ChangeVolume) (*metapb.Result, *Refusal) {
	v, no := a.compare(c.Name, c.Generation, c.Number)
	if no != nil {
		return nil, no
	}
	next := proto.CloneOf(v)
	var what []string
	set := func(name, from, to string) { what = append(what, fmt.Sprintf("%s %s -> %s", name, from, to)) }
	if c.Ack != metapb.AckPolicy_ACK_POLICY_UNSPECIFIED && c.Ack != v.Ack {
		next.Ack = c.Ack
		set("ack", metapb.AckWord(v.Ack), metapb.AckWord(c.Ack))
	}
	if c.MinCopies != 0 && c.MinCopies != v.MinCopies {
		next.MinCopies = c.MinCopies
		set("min-copies", fmt.Sprint(v.MinCopies), fmt.Sprint(c.MinCopies))
	}
	if c.Durability != metapb.Durability_DURABILITY_UNSPECIFIED && c.Durability != v.Durability {
		next.Durability = c.Durability
		set("durability", metapb.DurabilityWord(v.Durability), metapb.DurabilityWord(c.Durability))
	}
	if c.Shared != nil && *c.Shared != v.Shared {
		next.Shared = *c.Shared
		next.Attachment = nobody(v.Attachment.Number + 1) // who came in under the other rule has to attach anew
		set("shared", fmt.Sprint(v.Shared), fmt.Sprint(*c.Shared))
	}
	if c.ManualFailover != nil && *c.ManualFailover != v.ManualFailover {
		next.ManualFailover = *c.ManualFailover
		set("manual-failover", fmt.Sprint(v.ManualFailover), fmt.Sprint(*c.ManualFailover))
	}
	if len(what) == 0 {
		return &metapb.Result{Volume: v}, nil
	}
	if no := a.checkChange(v, next); no != nil {
		return nil, no
	}
	return a.editVolume(v, strings.Join(what, ", "), func(v *metapb.Volume) {
		v.Ack, v.MinCopies, v.Durability = next.Ack, next.MinCopies, next.Durability
		v.Shared, v.Attachment, v.ManualFailover = next.Shared, next.Attachment, next.ManualFailover
	}), nil
}

func (a *apply) checkChange(v, next *metapb.Volume) *Refusal {
	if no := checkPolicy(next); no != nil {
		return no
	}
	if t := tallyOf(next.Members); (next.Ack != v.Ack || next.MinCopies != v.MinCopies) && !enough(next, t) {
		return refused("volume %s has members %s: too few for ack %s with min-copies %d", v.Name, membersText(v.Members), metapb.AckWord(next.Ack), next.MinCopies).
			advise("wait until more members are UpToDate: blkctl wait %s --for=uptodate", v.Name)
	}
	if next.Shared && v.Service != nil {
		return refused("volume %s has a service, which only an attachment can fence", v.Name).advise("blkctl service disable %s --forget", v.Name)
	}
	if holder := attachedBy(v); next.Shared != v.Shared && holder != "" {
		return refused("volume %s is attached by %s", v.Name, holder).advise("detach it there first")
	}
	return nil
}

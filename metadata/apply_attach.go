package metadata

import (
	"blkd/internal/mutant"
	"blkd/metadata/metapb"
)

// holderLimit is the length of a holder's name in bytes.
const holderLimit = 255

// sameClient tells whether two holders are one client: what the earlier session of
// it has sent is dropped, and not refused for ever.
func sameClient(a, b string) bool { return a == b || metapb.IsClients(a) && metapb.IsClients(b) }

// attachedBy is the client that has attached a volume; empty: none has, and those that
// know nothing of attachments may use it.
func attachedBy(v *metapb.Volume) string {
	if metapb.IsClients(v.Attachment.Holder) {
		return ""
	}
	return v.Attachment.Holder
}

// attach names the client that may write (S10). The attachment number rises
// whenever what was sent under the one before must not be executed any more: for
// another holder, when one leaves, and for a takeover, even one from itself, which
// begins a new session of the same client.
func (a *apply) attach(c *metapb.Attach) (*metapb.Result, *Refusal) {
	v, no := a.compare(c.Volume, c.Generation, c.Number)
	if no != nil {
		return nil, no
	}
	now := v.Attachment.Holder
	switch {
	case v.Shared:
		return nil, invalid("volume %s is shared: any client may write, none attaches", v.Name)
	case len(c.Holder) > holderLimit:
		return nil, invalid("the holder's name is longer than %d bytes", holderLimit)
	case c.Holder == "" && c.Takeover:
		return nil, invalid("a takeover needs a holder")
	case c.Holder == now && !c.Takeover:
		return &metapb.Result{Volume: v}, nil
	case c.Holder == "":
		return a.editVolume(v, "detached "+now, func(v *metapb.Volume) { holdBy(v, c) }), nil
	case now != "" && !c.Takeover:
		return nil, refused("volume %s is attached by %s", v.Name, now).advise("detach it there, or take it over")
	}
	what := "attached by " + c.Holder
	switch {
	case c.Holder == now:
		what = "new session of " + now
	case c.Takeover && now != "":
		what = "taken over by " + c.Holder + " from " + now
	}
	return a.editVolume(v, what, func(v *metapb.Volume) { holdBy(v, c) }), nil
}

// holdBy gives a volume to a holder, which begins a session.
func holdBy(v *metapb.Volume, c *metapb.Attach) {
	before := v.Attachment
	now := &metapb.Attachment{Holder: c.Holder, Number: before.Number + 1, Since: before.Since, Machine: c.Machine, Boot: c.Boot}
	if mutant.On(mutant.StateQuietTakeover) {
		now.Number--
	}
	if before.Holder == "" || !sameClient(before.Holder, now.Holder) || metapb.Differ(before.Boot, now.Boot) {
		now.Since = now.Number
	}
	v.Attachment = now
}

// reportMark raises the committed frontier. It is no change of the record: it
// comes each second, and must not make every other change conflict.
func (a *apply) reportMark(c *metapb.ReportMark) (*metapb.Result, *Refusal) {
	v, no := a.volume(c.Volume)
	if no != nil {
		return nil, no
	}
	if c.Generation != v.Generation {
		no := conflict("volume %s is at generation %d, the mark is of %d", v.Name, v.Generation, c.Generation)
		no.volume = v
		return nil, no
	}
	if v.Mark.Generation == c.Generation && v.Mark.Seq >= c.Seq {
		return &metapb.Result{Volume: v}, nil
	}
	return a.markVolume(v, &metapb.Mark{Generation: c.Generation, Seq: c.Seq}), nil
}

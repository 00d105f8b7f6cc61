package metadata

import (
	"fmt"
	"slices"

	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// recover ends the recovery of a volume of whose members too few are sound to
// promote one: all logs have been read, the best was chosen, and those that count
// from now on hold it durably. Clients from before are cut off, so that they
// mount again and see what was kept.
func (a *apply) recover(c *metapb.Recover) (*metapb.Result, *Refusal) {
	v, no := a.compare(c.Volume, c.Generation, c.Number)
	if no != nil {
		return nil, no
	}
	if t := tallyOf(v.Members); !recoverable(v, t) {
		return nil, refused("volume %s needs no recovery: %d of its members are sound (%s)", v.Name, t.sound, membersText(v.Members)).
			advise("promote one of them: blkctl promote %s", v.Name)
	}
	next := proto.CloneOf(v)
	if next.Members, no = a.memberList(v, c.Members); no != nil {
		return nil, no
	}
	if no := checkCollected(v, next, c.Waived); no != nil {
		return nil, no
	}
	i, no := a.promotable(next, c.Primary, c.Incarnation)
	if no != nil {
		return nil, no
	}
	m := next.Members[i]
	if !sound(m) {
		return nil, invalid("volume %s: primary %s has to be UpToDate and no longer amnesiac", v.Name, m.Node)
	}
	what := fmt.Sprintf("recovered on %s, members %s -> %s", m.Node, membersText(v.Members), membersText(next.Members))
	if len(c.Waived) > 0 {
		what += ", given up: " + someOf(c.Waived)
	}
	return a.editVolume(v, what, func(v *metapb.Volume) {
		v.Members = next.Members
		crown(v, m)
		cutOff(v)
	}), nil
}

// checkCollected checks that the log of every member that counted was read, or
// given up by name, and that nobody else counts afterwards.
func checkCollected(v, next *metapb.Volume, waived []string) *Refusal {
	for i, name := range waived {
		at := memberIndex(v.Members, name)
		if at < 0 || !counts(v.Members[at]) || slices.Contains(waived[:i], name) {
			return invalid("volume %s: %.80q is given up, but does not count", v.Name, name)
		}
	}
	for _, m := range v.Members {
		if !counts(m) || !m.Log || slices.Contains(waived, m.Node) {
			continue
		}
		if memberIndex(next.Members, m.Node) < 0 || m.Incarnation == 0 {
			return refused("volume %s: the log of member %s has not been read", v.Name, m.Node).
				advise("start blkd on %s, or give up what only it holds, by name: blkctl why %s", m.Node, v.Name)
		}
	}
	for _, m := range next.Members {
		at := memberIndex(v.Members, m.Node)
		was := at >= 0 && counts(v.Members[at])
		switch {
		case counts(m) && slices.Contains(waived, m.Node):
			return invalid("volume %s: member %s is given up and cannot count", v.Name, m.Node)
		case counts(m) && !was:
			return refused("volume %s: member %s did not count before its recovery", v.Name, m.Node).advise("let it copy afterwards, as Syncing")
		case m.Amnesiac && !v.Members[at].Amnesiac:
			return invalid("volume %s: only a restart makes member %s amnesiac", v.Name, m.Node)
		}
	}
	return nil
}

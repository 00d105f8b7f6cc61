package metadata

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"
)

// failover asks for a promotion of every volume whose primary cannot serve:
//
//	the record names no primary, or one that is no node any more
//	its node has started again: the run that was promoted is over
//	its node is down or partitioned, says the detector
//
// A primary that is slow or held back serves, and stays. Volumes with manual
// failover are left to their operator, whatever happens.
//
// It asks only for what can succeed: a member that is sound, keeps the log and
// works, and that finds so many others working and sound that they can seal the log
// (S4). One that is held back is taken where there is no other: it may fail again,
// and until then it serves. Which log is the longest does not matter here: the one
// that is promoted fetches it. Everything is a compare-and-set, so that a change
// that an operator or the primary itself asks for at the same moment goes first or
// is refused. What had no effect on the record is asked for again after a pause
// that grows; another record is another case.
//
// Where fewer members are sound than a seal takes, nobody can be promoted: the logs
// of all have to be compared, and the metadata does not know where they end. That
// is for the replication layer of the members' nodes: it collects the logs and asks
// for a Recover. A member that caught up is made to count again by the primary, in
// a SetMembers.
func (s *Steward) failover(w *world, out *StewardOutput) {
	primaries := w.primaries()
	for _, v := range w.in.State.volumes.rows {
		why := w.cannotServe(v)
		if why == "" || v.ManualFailover {
			continue
		}
		to := w.heir(v, primaries)
		key := fmt.Sprintf("promote/%s/%d", v.Name, v.Number)
		if to == nil || !s.retries.allowed(key, w.in.Now) && !mutant.On(mutant.FailoverNoPause) {
			continue
		}
		s.retries.note(key, w.in.Now, s.config)
		primaries[to.Node]++
		c := s.command(w, why)
		c.By = "failover"
		c.Op = &metapb.Command_Promote{Promote: &metapb.Promote{
			Volume: v.Name, Generation: v.Generation, Number: v.Number, To: to.Node, Incarnation: to.Incarnation,
		}}
		out.Commands = append(out.Commands, c)
	}
}

// primaries counts the volumes that each node serves.
func (w *world) primaries() map[string]int {
	n := make(map[string]int)
	for _, v := range w.in.State.volumes.rows {
		n[v.Primary]++
	}
	return n
}

// cannotServe says why the primary of a volume cannot serve it; empty: it can, as
// far as is known.
func (w *world) cannotServe(v *metapb.Volume) string {
	n := w.in.State.Node(v.Primary)
	switch {
	case v.Primary == "":
		return "it has no primary"
	case n == nil:
		return "its primary " + v.Primary + " is no node any more"
	case n.Incarnation == 0:
		return "its primary " + n.Name + " was replaced"
	case n.Incarnation != v.PrimaryIncarnation:
		return "its primary " + n.Name + " has started again"
	}
	verdict, ok := w.verdict(n.Id)
	failed := verdict.Health == metapb.Health_HEALTH_DOWN || verdict.Health == metapb.Health_HEALTH_PARTITIONED
	if mutant.On(mutant.FailoverWhileUp) {
		failed = failed || verdict.Health == metapb.Health_HEALTH_SLOW
	}
	if !ok || !failed {
		return ""
	}
	return fmt.Sprintf("its primary %s is %s: %s", n.Name, metapb.HealthWord(verdict.Health), verdict.Text)
}

// heir is the member that is to be promoted: one that is not held back before one that
// is, then one that works well before one that is slow, then one that is to stay, then
// the primary of the fewest volumes, then the first by name. Nil: none can be now.
func (w *world) heir(v *metapb.Volume, primaries map[string]int) *metapb.Member {
	t := tallyOf(v.Members)
	var able []*metapb.Member
	for _, m := range v.Members {
		n := w.in.State.Node(m.Node)
		verdict, ok := w.verdict(n.Id)
		if !ok || !mayLead(m) || verdict.Health != metapb.Health_HEALTH_UP && verdict.Health != metapb.Health_HEALTH_SLOW {
			continue
		}
		able = append(able, m)
	}
	if len(able) == 0 || len(able) < sealQuorum(v.Ack, t.logs) && !mutant.On(mutant.FailoverUnsealed) {
		return nil
	}
	return slices.MinFunc(able, func(a, b *metapb.Member) int {
		x, y := w.in.State.Node(a.Node), w.in.State.Node(b.Node)
		return cmp.Or(
			truth(w.isHeld(x))-truth(w.isHeld(y)),
			truth(w.isSlow(x))-truth(w.isSlow(y)),
			truth(x.Drained || a.Leaving)-truth(y.Drained || b.Leaving),
			cmp.Compare(primaries[a.Node], primaries[b.Node]),
			strings.Compare(a.Node, b.Node))
	})
}

// mayLead tells whether a member can be promoted, as far as its record says.
func mayLead(m *metapb.Member) bool {
	return m.Log && m.Incarnation != 0 && (sound(m) || counts(m) && mutant.On(mutant.FailoverAmnesiac))
}

// isHeld tells whether a node is held back because it comes and goes.
func (w *world) isHeld(n *metapb.Node) bool {
	return !w.about(n.Name).Working() || n.HeldUntil > w.in.Wall
}

func (w *world) isSlow(n *metapb.Node) bool {
	return w.about(n.Name).Health == metapb.Health_HEALTH_SLOW
}

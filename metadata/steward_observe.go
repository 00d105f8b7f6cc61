package metadata

import (
	"fmt"
	"time"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"
)

// holdTolerance is how far a recorded end of a hold may lie before the true one:
// two nodes' clocks are never the same.
const holdTolerance = time.Second

// observe records verdicts that differ from what is recorded, and have done so
// for a while.
func (s *Steward) observe(w *world, out *StewardOutput) {
	for _, n := range w.nodes {
		v := w.about(n.Name)
		if n.Incarnation == 0 || v.Health == metapb.Health_HEALTH_UNSPECIFIED {
			continue
		}
		if v.Incarnation != n.Incarnation && !mutant.On(mutant.StewardOldVerdict) {
			continue
		}
		held := w.wallOf(v.HeldUntil)
		key := "observe/" + n.Name + "/" + metapb.HealthWord(v.Health)
		if v.Health == n.Health && w.holdStands(n, held) {
			s.retries.worked(key)
			continue
		}
		settled := v.Health == metapb.Health_HEALTH_DOWN || w.in.Now-v.Since >= s.config.ObserveAfter
		if !settled || !s.retries.allowed(key, w.in.Now) {
			continue
		}
		s.retries.note(key, w.in.Now, s.config)
		c := s.command(w, v.Text)
		c.Op = &metapb.Command_ObserveNode{ObserveNode: &metapb.ObserveNode{
			Name: n.Name, Incarnation: n.Incarnation, Health: v.Health, Text: v.Text, HeldUntil: held,
		}}
		out.Commands = append(out.Commands, c)
	}
}

// holdStands tells whether the recorded hold of a node is what it should be, if the
// detector holds it until then. A hold that another leader recorded is not cut
// short, but its end has to be recorded too: nobody else looks at the clock.
func (w *world) holdStands(n *metapb.Node, held int64) bool {
	over := held == 0 && n.HeldUntil != 0 && n.HeldUntil <= w.in.Wall
	return held <= n.HeldUntil+int64(holdTolerance) && (!over || mutant.On(mutant.StewardHoldForever))
}

// raiseVersion asks for the newest cluster version that every registered node
// speaks.
func (s *Steward) raiseVersion(w *world, out *StewardOutput) {
	var newest, least uint32
	registered := 0
	for _, n := range w.nodes {
		if n.Incarnation == 0 {
			continue
		}
		if registered == 0 || n.VersionMax < newest {
			newest = n.VersionMax
		}
		least = max(least, n.VersionMin)
		registered++
	}
	key := fmt.Sprintf("version/%d", newest)
	if newest <= w.version || newest < least || !s.retries.allowed(key, w.in.Now) {
		return
	}
	s.retries.note(key, w.in.Now, s.config)
	c := s.command(w, fmt.Sprintf("all %d registered nodes speak version %d", registered, newest))
	c.Op = &metapb.Command_SetClusterVersion{SetClusterVersion: &metapb.SetClusterVersion{Version: newest}}
	out.Commands = append(out.Commands, c)
}

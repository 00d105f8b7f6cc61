package metadata

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"

	"google.golang.org/protobuf/proto"
)

// serviceNodesLimit is how many nodes may run a service.
const serviceNodesLimit = 64

// setService says where what belongs to a volume shall run. It is a compare-and-set on
// the record that also has the attachment: so whoever acts on one has seen the other.
func (a *apply) setService(c *metapb.SetService) (*metapb.Result, *Refusal) {
	v, no := a.compare(c.Volume, c.Generation, c.Number)
	if no != nil {
		return nil, no
	}
	var now *metapb.Service
	if len(c.Nodes) > 0 || c.Wanted != "" {
		now = &metapb.Service{Nodes: c.Nodes, Wanted: c.Wanted}
	}
	if no := checkService(v, now); no != nil {
		return nil, no
	}
	for _, name := range c.Nodes {
		n, no := a.node(name)
		switch {
		case no != nil && !slices.Contains(v.Service.GetNodes(), name): // a node that has gone may stay named
			return nil, no
		case n.GetWitness():
			return nil, invalid("node %s is a witness: it runs no service", name)
		}
	}
	if proto.Equal(now, v.Service) {
		return &metapb.Result{Volume: v}, nil
	}
	return a.editVolume(v, serviceText(v.Service, now), func(v *metapb.Volume) { v.Service = now }), nil
}

// serviceText is a change of a service in a history.
func serviceText(from, to *metapb.Service) string {
	where := func(s *metapb.Service) string {
		if s.GetWanted() == "" {
			return "nowhere"
		}
		return s.Wanted
	}
	text := "service: none"
	if to != nil {
		text = fmt.Sprintf("service %s -> %s", where(from), where(to))
		if !slices.Equal(from.GetNodes(), to.Nodes) {
			text += ", on " + strings.Join(to.Nodes, " ")
		}
	}
	return text
}

// checkService tells what is wrong with a service of a volume.
func checkService(v *metapb.Volume, s *metapb.Service) *Refusal {
	switch {
	case s == nil:
		return nil
	case v.Shared:
		return invalid("volume %s is shared: it has no attachment, and nothing fences what runs with it", v.Name)
	case len(s.Nodes) == 0 || len(s.Nodes) > serviceNodesLimit:
		return invalid("a service runs on 1 to %d nodes", serviceNodesLimit)
	case s.Wanted != "" && !slices.Contains(s.Nodes, s.Wanted):
		return invalid("%.80q is none of the nodes that may run the service: %s", s.Wanted, strings.Join(s.Nodes, ", "))
	}
	for i, name := range s.Nodes {
		if !validName(name) || slices.Contains(s.Nodes[:i], name) {
			return invalid("node %.80q is no name, or is listed twice", name)
		}
	}
	return nil
}

// ServiceNode is the node that should run a volume's service, other than one: the first
// of its list that may be used; empty: none may.
func ServiceNode(s *State, v *metapb.Volume, but string) string {
	for _, name := range v.Service.GetNodes() {
		if n := s.Node(name); name != but && n != nil && unusable(n) == "" {
			return name
		}
	}
	return ""
}

// moveServices has a service run on another node when the one that is wanted is gone,
// drained, or down for long. Nobody has to be asked: the next holder's attachment shuts
// the one before out (S10). Where no other node may be used, it stays.
func (s *Steward) moveServices(w *world, out *StewardOutput) {
	for _, v := range w.in.State.volumes.rows {
		why := w.cannotRun(v.Service.GetWanted(), s.config.MoveServiceAfter)
		if why == "" {
			continue
		}
		to := ServiceNode(w.in.State, v, v.Service.Wanted)
		key := fmt.Sprintf("service/%s/%d", v.Name, v.Number)
		if to == "" || out.asksOf(v.Name) || !s.retries.allowed(key, w.in.Now) {
			continue
		}
		s.retries.note(key, w.in.Now, s.config)
		c := s.command(w, why)
		c.Op = &metapb.Command_SetService{SetService: &metapb.SetService{
			Volume: v.Name, Generation: v.Generation, Number: v.Number, Nodes: v.Service.Nodes, Wanted: to}}
		out.Commands = append(out.Commands, c)
	}
}

// asksOf tells whether a change of a volume's record is asked for already: of two, one
// would be refused.
func (out *StewardOutput) asksOf(volume string) bool {
	return slices.ContainsFunc(out.Commands, func(c *metapb.Command) bool {
		return c.GetPromote().GetVolume() == volume || c.GetSetMembers().GetVolume() == volume
	})
}

// cannotRun says why a node should not run services; empty: it should, or none is named.
func (w *world) cannotRun(name string, after time.Duration) string {
	if name == "" {
		return ""
	}
	n := w.in.State.Node(name)
	switch {
	case n == nil:
		return name + " is no node any more"
	case n.Drained:
		return name + " is drained"
	}
	verdict, ok := w.verdict(n.Id)
	if down := w.in.Now - verdict.Since; ok && verdict.Health == metapb.Health_HEALTH_DOWN && (down >= after || mutant.On(mutant.FailoverHastyService)) {
		return fmt.Sprintf("%s has been down for %s", name, span(down))
	}
	return ""
}

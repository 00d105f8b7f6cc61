package cluster

import (
	"context"
	"fmt"
	"slices"

	"blkd/internal/api"
	"blkd/internal/pki"
	"blkd/internal/version"
	"blkd/metadata"
	"blkd/metadata/metapb"
)

// greeting is who this node is and what it knows.
func (c *Cluster) greeting() *api.Greeting {
	c.mu.Lock()
	id, server, running := c.identity, c.server, c.phase.running()
	g := &api.Greeting{
		Name: c.cfg.Name, Disk: id.Disk, Incarnation: c.incarnation, Cluster: id.Cluster, Id: id.Id,
		List: formatList(c.cfg.List), Address: c.cfg.Address, Running: running, Build: version.Get().Version,
		Backup: c.backup.sum(),
	}
	shown := map[uint64]uint64{}
	for _, p := range c.peers {
		shown[p.id] = p.applied
	}
	c.mu.Unlock()
	if server == nil {
		return g
	}
	status := server.Status()
	g.Term, g.Applied = status.Term, status.Applied
	server.View(func(s *metadata.State) {
		for _, n := range s.Nodes() {
			g.Runs = append(g.Runs, &api.Run{Name: n.Name, Id: n.Id, Disk: n.Disk, Incarnation: n.Incarnation, Address: n.Address, Applied: shown[n.Id]})
		}
	})
	return g
}

// claimedName is the name in the certificate of whoever calls; empty without TLS.
func (c *Cluster) claimedName(ctx context.Context) string {
	id, ok := pki.FromContext(ctx)
	if !ok {
		return ""
	}
	if id.Role != pki.Node {
		return string(id.Role) + "/" + id.Name // the name of no node
	}
	return id.Name
}

func refuse(code api.RefusalCode, advice, format string, args ...any) *api.Refusal {
	return &api.Refusal{Code: code, Text: fmt.Sprintf(format, args...), Advice: advice}
}

// judge says what this node has against the one that greets it, whose
// certificate is of the node certified, empty without TLS; nil: nothing.
func (c *Cluster) judge(certified string, g *api.Greeting) *api.Refusal {
	if certified != "" && certified != g.Name {
		return refuse(api.RefusalCode_REFUSAL_CODE_NAME, "compare --node-name with the certificate",
			"it calls itself node %s, but its certificate is of %s", g.Name, certified)
	}
	if g.Name == c.cfg.Name {
		return refuse(api.RefusalCode_REFUSAL_CODE_NAME, "give every node a name of its own",
			"it calls itself node %s, and that is the name of the node that it asks", g.Name)
	}
	if c.otherRun(g.Name, g.Incarnation) {
		return refuse(api.RefusalCode_REFUSAL_CODE_RUNS, "stop one of the two; if its data directory is a copy, stop the one with the copy",
			"another run of node %s is alive", g.Name)
	}
	c.mu.Lock()
	own, server := c.identity, c.server
	c.mu.Unlock()
	list := formatList(c.cfg.List)
	switch {
	case own.Cluster != 0 && g.Cluster != 0 && own.Cluster != g.Cluster:
		return refuse(api.RefusalCode_REFUSAL_CODE_CLUSTER, "correct --cluster; or, if the node shall change the cluster, empty its data directory",
			"it belongs to cluster %016x, and node %s to %016x", g.Cluster, c.cfg.Name, own.Cluster)
	case own.Cluster == 0 && g.Cluster == 0 && g.List != list && c.inList(g.Name):
		return refuse(api.RefusalCode_REFUSAL_CODE_LIST, "start all nodes with the same --cluster",
			"its founding list is %s, and that of node %s is %s", g.List, c.cfg.Name, list)
	case server == nil:
		return nil
	}
	var refusal *api.Refusal
	server.View(func(s *metadata.State) { refusal = judgeByState(s, g) })
	return refusal
}

func (c *Cluster) inList(name string) bool {
	return slices.ContainsFunc(c.cfg.List, func(p Peer) bool { return p.Name == name })
}

// judgeByState compares a greeting with the records. They may be old: whoever
// has a Raft id that they do not know yet is welcome.
func judgeByState(s *metadata.State, g *api.Greeting) *api.Refusal {
	info := s.Info()
	n := s.Node(g.Name)
	switch {
	case info.Cluster == 0 || g.Id > info.NextId:
		return nil // nothing is known here
	case g.Id != 0 && (slices.Contains(info.Retired, g.Id) || n != nil && g.Id < n.Id):
		return refuse(api.RefusalCode_REFUSAL_CODE_RETIRED, "to let it join again, empty its data directory, and run on another node: blkctl node add "+g.Name+", unless it was replaced",
			"node %s with Raft id %d was removed from the cluster or replaced", g.Name, g.Id)
	case n == nil:
		return refuse(api.RefusalCode_REFUSAL_CODE_NAME, fmt.Sprintf("blkctl node add %s --address %s", g.Name, g.Address),
			"the cluster does not know node %s", g.Name)
	case n.Disk != 0 && n.Disk != g.Disk && g.Id <= n.Id:
		return refuse(api.RefusalCode_REFUSAL_CODE_DISK, "blkctl node replace "+g.Name,
			"the data directory of node %s is not the one that the cluster knows (disk %016x, not %016x)", g.Name, g.Disk, n.Disk)
	}
	return nil
}

// met notes the greeting of another node. One that says something new makes it
// worth while to connect to that node at once.
func (c *Cluster) met(g *api.Greeting) {
	c.mu.Lock()
	old := c.greetings[g.Name]
	if old == nil && len(c.greetings) > 1000 { // whoever makes up names shall not fill the memory
		clear(c.greetings)
	}
	c.greetings[g.Name] = g
	p := c.peers[g.Name]
	news := old == nil || old.Incarnation != g.Incarnation || old.Cluster != g.Cluster || old.Running != g.Running ||
		old.Address != g.Address || old.List != g.List
	c.mu.Unlock()
	if !news {
		return
	}
	c.watchPeers()
	if p != nil {
		p.tryNow()
	}
}

// answered notes what a node answered to this one's greeting.
func (c *Cluster) answered(p *peer, g *api.Greeting, refusal *api.Refusal) {
	c.mu.Lock()
	p.answer = answer{asked: true, greeting: g, refusal: refusal}
	p.build = g.Build
	if refusal == nil && g.Cluster == c.identity.Cluster {
		p.show(g.Id, g.Applied)
	}
	blank := c.server == nil
	c.mu.Unlock()
	if refused := c.examine(g, refusal); refused != nil {
		c.setRefused(refused)
	}
	if blank && g.Cluster != 0 {
		c.watchPeers() // it may know nodes that are not in the list
	}
	c.turn.fire()
}

// show notes how far a peer is, as it says itself. With c.mu held.
func (p *peer) show(id, applied uint64) {
	if id != p.id {
		p.id, p.applied = id, 0 // it was replaced
	}
	p.applied = max(p.applied, applied)
}

// examine looks for proof that this node must not take part: what others know of
// it is later than what its disk says. A blank node proves nothing, it may join.
func (c *Cluster) examine(g *api.Greeting, refusal *api.Refusal) *RefusedError {
	c.mu.Lock()
	id, server, first := c.identity, c.server, c.firstIndex
	c.mu.Unlock()
	if id.Cluster == 0 || g.Cluster != id.Cluster || server == nil {
		return nil
	}
	if refusal != nil {
		switch refusal.Code {
		case api.RefusalCode_REFUSAL_CODE_RETIRED, api.RefusalCode_REFUSAL_CODE_DISK, api.RefusalCode_REFUSAL_CODE_OLD:
			return &RefusedError{Text: refusal.Text, Advice: refusal.Advice}
		}
	}
	i := slices.IndexFunc(g.Runs, func(r *api.Run) bool { return r.Name == c.cfg.Name })
	if i < 0 {
		return nil
	}
	run := g.Runs[i]
	old := func(format string, args ...any) *RefusedError {
		return &RefusedError{
			Text:   fmt.Sprintf("the data directory of node %s is an old copy: ", c.cfg.Name) + fmt.Sprintf(format, args...),
			Advice: fmt.Sprintf("stop this node, empty its data directory, run on another node: blkctl node replace %s; then start it again", c.cfg.Name),
		}
	}
	switch {
	case run.Id > id.Id:
		return &RefusedError{
			Text:   fmt.Sprintf("node %s was replaced: its Raft id is now %d, this data directory is of %d", c.cfg.Name, run.Id, id.Id),
			Advice: "stop this node, empty its data directory, and start it again",
		}
	case run.Id == id.Id && run.Incarnation != 0 && g.Applied >= id.Registered && !c.ownRun(id, run.Incarnation):
		// One that has not applied as much yet may speak of a run before.
		return old("node %s knows run %016x of it, which this disk does not", g.Name, run.Incarnation)
	case run.Id == id.Id && run.Applied > max(first, server.Status().Applied):
		return old("node %s has seen it apply entry %d of the Raft log, which here ends at %d", g.Name, run.Applied, first)
	}
	return nil
}

// ownRun tells whether an incarnation is one that this node's disk knows of.
func (c *Cluster) ownRun(id *metapb.Identity, incarnation uint64) bool {
	return incarnation == c.incarnation || incarnation == id.Incarnation || slices.Contains(id.Tried, incarnation)
}

// logRefusal logs whom this node refuses: once, until the reason changes.
func (c *Cluster) logRefusal(g *api.Greeting, r *api.Refusal) {
	c.mu.Lock()
	text := r.Code.String() + r.Text
	known := c.refusals[g.Name] == text
	if len(c.refusals) > 1000 { // likewise
		clear(c.refusals)
	}
	c.refusals[g.Name] = text
	c.mu.Unlock()
	if !known {
		c.log.Warn("a node is refused", "peer", g.Name, "address", g.Address, "why", r.Text, "advice", r.Advice)
	}
}

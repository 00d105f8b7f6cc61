package cluster

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"blkd/internal/api"
	"blkd/metadata"
)

// Local calls f with this node's copy of the state, which may be old, and is
// empty before the node has received one. f must be short and must not keep the
// state, though the records in it are its to keep.
func (c *Cluster) Local(f func(*metadata.State)) {
	if s := c.serverNow(); s != nil {
		s.View(f)
		return
	}
	f(metadata.NewState())
}

// Changed is closed at the next change of the state or of the leader, and when
// the node stops.
func (c *Cluster) Changed() <-chan struct{} {
	turn := c.news.next() // before the look: open fires after the server is there
	if s := c.serverNow(); s != nil {
		return s.Changed()
	}
	return turn
}

// Status is the cluster as this node sees it now.
func (c *Cluster) Status() Status {
	st := Status{Name: c.cfg.Name, Incarnation: c.incarnation}
	var raft metadata.ServerStatus
	nodes := map[uint64]string{}
	if s := c.serverNow(); s != nil {
		raft = s.Status()
		s.View(func(s *metadata.State) {
			for _, n := range s.Nodes() {
				nodes[n.Id] = n.Name
			}
			st.Voters = names(s, raft.Voters)
		})
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	st.ID, st.Cluster, st.Phase = c.identity.Id, c.identity.Cluster, c.phase
	st.Waiting, st.Advice = c.obstacle.text, c.obstacle.advice
	st.Term, st.Commit, st.Applied = raft.Term, raft.Commit, raft.Applied
	if c.phase.running() {
		st.Leader = nodes[raft.Leader]
	}
	verdicts := c.detector.Verdicts()
	for _, name := range sortedKeys(c.peers) {
		p := c.peers[name].status(now)
		if i := slices.IndexFunc(verdicts, func(v metadata.Verdict) bool { return v.Node == name }); i >= 0 {
			p.Health, p.HealthText = verdicts[i].Health, verdicts[i].Text
		}
		st.Peers = append(st.Peers, p)
	}
	c.countVoters(&st)
	return st
}

// countVoters says which voters are in contact.
func (c *Cluster) countVoters(st *Status) {
	slices.Sort(st.Voters)
	st.Need = len(st.Voters)/2 + 1
	for _, name := range st.Voters {
		i := slices.IndexFunc(st.Peers, func(p PeerStatus) bool { return p.Name == name })
		switch {
		case name == st.Name:
			if st.Phase.running() {
				st.Have++
			} else {
				st.Missing = append(st.Missing, fmt.Sprintf("%s: this node itself is %s", name, st.Phase))
			}
		case i >= 0 && st.Peers[i].Silent >= 0 && st.Peers[i].Silent < c.cfg.silence():
			st.Have++
		case i >= 0:
			st.Missing = append(st.Missing, name+": "+st.Peers[i].missing())
		default:
			st.Missing = append(st.Missing, name+": not known to "+st.Name)
		}
	}
}

// missing is why a voter does not count.
func (p *PeerStatus) missing() string {
	text := "not heard since this node started"
	if p.Silent >= 0 {
		text = fmt.Sprintf("not heard for %v", p.Silent.Round(100*time.Millisecond))
	}
	if p.Why != "" {
		text += " (" + p.Why + ")"
	}
	return text
}

// status is what is known of a peer. With c.mu held.
func (p *peer) status(now time.Duration) PeerStatus {
	st := PeerStatus{
		Name: p.name, Address: p.addresses[0], ID: p.id, Incarnation: p.incarnation, Build: p.build,
		Connected: p.client != nil, Silent: -1, RTT: p.rtt,
	}
	if p.heard != 0 {
		st.Silent = now - p.heard
	}
	switch r := p.answer.refusal; {
	case st.Connected:
	case r != nil:
		st.Why = (&refusedByPeer{r}).Error()
	default:
		st.Why = p.answer.why
	}
	return st
}

// connected notes that the streams to a peer are open.
func (c *Cluster) connected(p *peer, client api.PeerServiceClient, route *api.Route, g *api.Greeting) {
	c.mu.Lock()
	p.client, p.route, p.incarnation, p.rtt = client, route, g.Incarnation, 0
	c.mu.Unlock()
	c.log.Info("connected to a node", "peer", p.name, "address", g.Address, "build", g.Build)
}

// route is from the run of one greeting to that of another; nil if they did not
// both take part in the same cluster.
func route(from, to *api.Greeting) *api.Route {
	if !from.Running || !to.Running || from.Cluster != to.Cluster {
		return nil
	}
	return &api.Route{Cluster: from.Cluster, From: from.Id, FromIncarnation: from.Incarnation, To: to.Id, ToIncarnation: to.Incarnation}
}

// send hands Raft messages to the connections. It never waits; what nobody can
// take is lost, as on any network.
func (c *Cluster) send(messages []*raftpb.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.phase.running() {
		return
	}
	for _, m := range messages {
		for _, p := range c.peers {
			if p.id == m.GetTo() && p.client != nil {
				p.out.push(m)
			}
		}
	}
}

package cluster

import (
	"slices"
	"time"

	"blkd/internal/api"
	"blkd/metadata"
)

// watch keeps an eye on everything at regular times, until the node stops.
func (c *Cluster) watch() {
	tick := c.world.Clock.NewTicker(c.every / 2)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			c.cutShort(0, ErrStopped)
			return
		case <-tick.C():
			c.look()
		}
	}
}

// look brings up to date what time changes.
func (c *Cluster) look() {
	now := c.now()
	s, leader := c.leader()
	var voters []string
	var event uint64
	if s != nil {
		s.View(func(s *metadata.State) { voters, event = names(s, s.Info().Voters), s.LastEvent() })
	}
	late := c.syncs.late(now)
	c.mu.Lock()
	c.detector.OwnDisk(now, late)
	c.detector.Tick(now)
	if leader != 0 {
		c.quorate = max(c.quorate, c.contact(now, voters), c.leaderContact(leader))
	}
	news := event != c.event
	c.event = event
	c.mu.Unlock()
	if news {
		c.watchPeers()
	}
	c.checkServer()
	c.cutShort(leader, c.hopeless())
	c.steer(s, leader)
}

// checkServer notices when the Raft member has stepped aside.
func (c *Cluster) checkServer() {
	s := c.serverNow()
	if s == nil {
		return
	}
	select {
	case err := <-s.Failed():
		c.setFailed(err)
	default:
	}
}

// contact is when this node last had a majority of the voters in contact. With
// c.mu held.
func (c *Cluster) contact(now time.Duration, voters []string) time.Duration {
	times := make([]time.Duration, 0, len(voters))
	for _, name := range voters {
		switch p := c.peers[name]; {
		case name == c.cfg.Name:
			times = append(times, now)
		case p != nil:
			times = append(times, p.heard)
		default:
			times = append(times, 0)
		}
	}
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[(len(times)-1)/2] // a majority was heard then or later
}

// leaderContact is when the leader had a majority in contact for sure, by what
// this node, another one, has heard of it: within two election timeouts without
// one it steps down. With c.mu held.
func (c *Cluster) leaderContact(leader uint64) time.Duration {
	for _, p := range c.peers {
		if p.id == leader && p.client != nil {
			return p.heard - 2*c.cfg.Election
		}
	}
	return 0
}

// heartbeat takes in a heartbeat of another node.
func (c *Cluster) heartbeat(name string, b *api.Heartbeat) {
	now := c.now()
	in := metadata.Beat{From: name, Incarnation: b.Route.FromIncarnation, Seq: b.Seq, DiskLate: time.Duration(b.DiskLateMicros) * time.Microsecond}
	for _, h := range b.Heard {
		in.Heard = append(in.Heard, metadata.Heard{Node: h.Name, Incarnation: h.Incarnation, Ago: time.Duration(h.SilentMillis) * time.Millisecond})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.peers[name]; p != nil {
		p.heard = now
		if r := p.beats[b.Route.FromIncarnation]; r != nil {
			r.heard = now
		}
		p.show(b.Route.From, b.Applied)
		in.RTT = p.rtt
	}
	c.detector.Beat(now, in)
}

// listens notes that a stream of heartbeats of a run has been opened or, by -1,
// has ended.
func (c *Cluster) listens(name string, incarnation uint64, by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[name]
	if p == nil {
		return
	}
	r := p.beats[incarnation]
	if r == nil {
		r = new(beats)
		p.beats[incarnation] = r
	}
	if r.streams += by; r.streams <= 0 {
		delete(p.beats, incarnation)
	}
}

// otherRun tells whether another run than this one of a node is alive as far as
// this node hears: a process that has ended leaves no stream open, and a machine
// that has failed is silent.
func (c *Cluster) otherRun(name string, incarnation uint64) bool {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.peers[name]; p != nil {
		for other, r := range p.beats {
			if other != incarnation && now-r.heard < silentMost {
				return true
			}
		}
	}
	return false
}

// beat is the next heartbeat for a peer.
func (c *Cluster) beat(p *peer, route *api.Route) *api.Heartbeat {
	b := &api.Heartbeat{Route: route}
	if s := c.serverNow(); s != nil {
		status := s.Status()
		b.Applied = status.Applied
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beats++
	b.Seq, b.DiskLateMicros = c.beats, c.syncs.late(c.now()).Microseconds()
	for _, h := range c.detector.Heard() {
		b.Heard = append(b.Heard, &api.Hearing{Name: h.Node, Incarnation: h.Incarnation, SilentMillis: h.Ago.Milliseconds()})
	}
	return b
}

// roundTrip notes how long the answer to a heartbeat took.
func (c *Cluster) roundTrip(p *peer, rtt time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.rtt = rtt
}

// refusedConnection tells the failure detector that nothing listens there.
func (c *Cluster) refusedConnection(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.detector.Refused(c.now(), name)
}

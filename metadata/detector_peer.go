package metadata

import (
	"time"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"
)

// peer is what a Detector knows of one other node: of its registered run, unless
// said otherwise.
type peer struct {
	name        string
	incarnation uint64 // 0: it has not registered yet

	health metapb.Health // UNSPECIFIED: too early to tell
	since  time.Duration // of health

	seq     uint64        // of the latest beat; 0: none has arrived
	heard   time.Duration // when that was
	chance  time.Duration // the silence is counted from here, if that is later
	streak  int           // beats in a row
	counted time.Duration // when the streak grew
	deaf    int           // beats in a row that said: this node is not heard
	gaps    gaps
	slow    slowness
	hears   map[string]hearing // what its latest beat said

	// The other nodes that are heard here have heard it, without a pause longer
	// than the wait, from othersFirst to othersLast; othersName was the last of them.
	othersFirst time.Duration
	othersLast  time.Duration
	othersName  string

	refused   bool          // its machine has refused a connection since the last beat
	refusedAt time.Duration // for the first time

	stranger      uint64 // a run of it that beats and is not the registered one
	strangerHeard time.Duration

	flaps flaps // of all its runs
}

// hearing says when a peer last heard another node, on this node's clock.
type hearing struct {
	incarnation uint64
	time        time.Duration
}

func newPeer(in Peer, now time.Duration) *peer {
	return &peer{name: in.Name, incarnation: in.Incarnation, since: now, chance: now}
}

// restart begins to watch another run.
func (p *peer) restart(incarnation uint64, now time.Duration, c DetectorConfig) {
	flaps := p.flaps
	if p.working() {
		flaps.fall(now, c)
	}
	*p = *newPeer(Peer{p.name, incarnation}, now)
	p.flaps = flaps
}

// working tells whether the peer can be counted on, maybe slowly.
func (p *peer) working() bool {
	return p.health == metapb.Health_HEALTH_UP || p.health == metapb.Health_HEALTH_SLOW
}

// lastChance is where the silence begins.
func (p *peer) lastChance() time.Duration {
	if p.seq == 0 {
		return p.chance
	}
	return max(p.heard, p.chance)
}

// silence is how long nothing was heard of the peer while this node was awake.
func (p *peer) silence(now time.Duration) time.Duration { return now - p.lastChance() }

// wait is the silence from which the peer is suspected. A run that has never
// been heard has the longest: connections may have to be made.
func (p *peer) wait(c DetectorConfig) time.Duration {
	if p.seq == 0 {
		return c.SuspectMax
	}
	longest := p.gaps.longest() * time.Duration(c.SuspectFactor)
	if mutant.On(mutant.DetectorFixedWait) {
		longest = 0
	}
	return min(max(longest, c.SuspectMin), c.SuspectMax)
}

// audible tells whether the peer's beats arrive here.
func (p *peer) audible(d *Detector) bool {
	return p.seq > 0 && p.silence(d.now) < p.wait(d.config)
}

// beat takes in a beat of the registered run.
func (p *peer) beat(d *Detector, b Beat) {
	gap := p.silence(d.now)
	if p.seq > 0 && gap < d.config.SuspectMax { // a longer one is an outage, not jitter
		p.gaps.add(d.now, gap)
	}
	counts := true
	switch {
	case p.seq == 0 || gap >= p.wait(d.config):
		p.streak, p.counted = 1, d.now
	case d.now-p.counted >= d.config.Heartbeat/2 || mutant.On(mutant.DetectorBurst):
		p.streak, p.counted = p.streak+1, d.now
	default:
		counts = false // a burst of delayed beats is one
	}
	p.seq, p.heard = b.Seq, d.now
	p.refused = false
	p.slow.note(b)
	if p.hears == nil {
		p.hears = make(map[string]hearing, len(b.Heard))
	}
	clear(p.hears)
	for _, h := range b.Heard {
		p.hears[h.Node] = hearing{h.Incarnation, d.now - max(h.Ago, 0)}
	}
	switch {
	case d.now-p.lastHeardUs(d) < p.wait(d.config):
		p.deaf = 0
	case counts:
		p.deaf++
	}
}

// lastHeardUs is when the peer last heard this node's run, as of its latest beat.
func (p *peer) lastHeardUs(d *Detector) time.Duration {
	if h := p.hears[d.self]; h.incarnation == d.incarnation {
		return max(h.time, p.chance)
	}
	return p.chance
}

// judge brings the verdict up to date.
func (p *peer) judge(d *Detector) {
	if p.incarnation == 0 {
		return
	}
	c, now := d.config, d.now
	wait := p.wait(c)
	// What others heard before the refusal may reach this node after it.
	gone := p.refused && now-p.refusedAt >= c.RefusedWait && p.othersLast <= p.refusedAt+c.RefusedWait/2
	deaf := p.deaf >= c.UpBeats && !mutant.On(mutant.DetectorIgnoreDeaf)
	switch {
	case gone:
		p.become(metapb.Health_HEALTH_DOWN, now, c)
	case p.silence(now) >= wait:
		last := p.lastChance()
		switch {
		case now-max(last, p.othersLast) >= wait || mutant.On(mutant.DetectorAskNobody):
			p.become(metapb.Health_HEALTH_DOWN, now, c)
		// When a node dies, others may have heard it a little longer. Only when they
		// go on hearing it, it is the network.
		case p.othersLast-max(last, p.othersFirst) > wait/2:
			p.become(metapb.Health_HEALTH_PARTITIONED, now, c)
		}
	case deaf:
		p.become(metapb.Health_HEALTH_PARTITIONED, now, c)
		p.streak = 0
	case !p.working() && p.streak < c.UpBeats && !mutant.On(mutant.DetectorNoHysteresis):
		// Not yet.
	case p.seq == 0:
		// Not heard yet, and the wait is not over.
	default:
		p.become(p.slow.health(now, c), now, c)
	}
}

// become changes the verdict, if it changes.
func (p *peer) become(h metapb.Health, now time.Duration, c DetectorConfig) {
	if p.health == h {
		return
	}
	worked := p.working()
	p.health, p.since = h, now
	switch {
	case worked && !p.working():
		p.streak = 0
		p.flaps.fall(now, c)
	case !worked && p.working():
		p.flaps.rise(now, c)
	}
}

// held is until when the peer is held back; 0: it is not.
func (p *peer) held(now time.Duration) time.Duration {
	if p.working() && p.flaps.held > now {
		return p.flaps.held
	}
	return 0
}

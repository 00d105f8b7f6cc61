package metadata

import (
	"slices"
	"strings"
	"time"

	"blkd/internal/mutant"
	"blkd/metadata/metapb"
)

// Detector tells which of its peers one node can count on. It is fed with the
// heartbeats that arrive, with refused connections and with time, and holds a
// Verdict about every peer:
//
//	             UpBeats beats in a row
//	(new run) ───────────────────────────► up ◄──── late for SlowAfter ────► slow
//	    │                                  ▲ │                                 │
//	    │            UpBeats beats in a row│ │ silent, or deaf to this node    │
//	    │                                  │ ▼                                 │
//	    └── silent ──► partitioned ◄──► down ◄─────────────────────────────────┘
//	                   others hear it   nobody heard does, or its machine
//	                                    refuses connections
//
// "Silent" adapts to the gaps between the peer's beats (see DetectorConfig), and
// is measured in time in which this node was itself awake: a gap between its
// ticks gives every peer a fresh chance. "Deaf" means that the peer's beats
// arrive, and say that this node's do not: the network is cut one way. A peer
// that comes and goes is up, but held back.
//
// Only beats of the run that is registered with the quorum count. The beats of
// an older process, or of a newer one that has not registered yet, keep nobody
// alive.
//
// A Detector is passive: no clock, no goroutine, no randomness. Times are those
// of one monotonic clock, with any zero; time that runs backwards counts as
// standing still. It is not safe for concurrent use. Its owner has to
//
//  1. call SetPeers whenever nodes or their registered incarnations change;
//  2. send Beats to every peer each Heartbeat, with what Heard returns;
//  3. pass every Beat that arrives to Beat, at once;
//  4. connect anew at once when a connection to a peer ends, and again and again
//     until it succeeds; pass to Refused every time the peer's kernel refuses it
//     (not when nothing answers, and not that the old connection was closed);
//  5. call Tick every half Heartbeat.
type Detector struct {
	config      DetectorConfig
	self        string
	incarnation uint64
	peers       []*peer // by name
	own         slowness
	ownHealth   metapb.Health
	ownSince    time.Duration
	now         time.Duration // of the latest event
	ticked      time.Duration // the latest Tick
	chance      time.Duration // the latest fresh chance for all
}

// Beat is one heartbeat as it arrived.
type Beat struct {
	From        string        // the node that sent it
	Incarnation uint64        // its run
	Seq         uint64        // counts that run's beats to this node: 1, 2, 3 …
	RTT         time.Duration // of the latest exchange with it, as measured here; 0: not known
	DiskLate    time.Duration // its slowest sync of the last second, or the age of one still under way
	Heard       []Heard       // whom the sender hears
}

// Heard says when a node last heard another.
type Heard struct {
	Node        string
	Incarnation uint64
	Ago         time.Duration // before the beat was sent
}

// Peer is a node to be watched.
type Peer struct {
	Name        string
	Incarnation uint64 // as registered with the quorum; 0: it has not registered yet
}

// NewDetector makes the detector of node self, whose run is incarnation, at time
// now. It fails if c is out of range.
func NewDetector(self string, incarnation uint64, c DetectorConfig, now time.Duration) (*Detector, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Detector{config: c, self: self, incarnation: incarnation, now: now, ticked: now, chance: now,
		ownHealth: metapb.Health_HEALTH_UP, ownSince: now}, nil
}

// Heartbeat is the interval at which beats have to be sent.
func (d *Detector) Heartbeat() time.Duration { return d.config.Heartbeat }

// SetPeers names the nodes to watch; this node itself may be among them and is
// passed over. A peer with another incarnation than before starts anew: it has a
// fresh chance, but its past falls are remembered.
func (d *Detector) SetPeers(now time.Duration, peers []Peer) {
	d.advance(now)
	old := d.peers
	d.peers = nil
	for _, in := range peers {
		if in.Name == d.self {
			continue
		}
		i := slices.IndexFunc(old, func(p *peer) bool { return p.name == in.Name })
		var p *peer
		if i < 0 {
			p = newPeer(in, d.now)
		} else if p = old[i]; p.incarnation != in.Incarnation {
			p.restart(in.Incarnation, d.now, d.config)
		}
		d.peers = append(d.peers, p)
	}
	slices.SortFunc(d.peers, func(a, b *peer) int { return strings.Compare(a.name, b.name) })
}

// Beat takes in a heartbeat. One that is late, repeated, from an unknown node or
// of another run than the registered one does not count.
func (d *Detector) Beat(now time.Duration, b Beat) {
	d.advance(now)
	p := d.peer(b.From)
	if p == nil {
		return
	}
	if b.Incarnation != p.incarnation && !mutant.On(mutant.DetectorOldRun) {
		p.stranger, p.strangerHeard = b.Incarnation, d.now
		return
	}
	if p.incarnation == 0 || b.Seq <= p.seq && !mutant.On(mutant.DetectorRepeatedBeat) {
		return
	}
	p.beat(d, b)
	d.gatherFrom(p)
	d.judge()
}

// Refused takes in that the peer's machine refused a connection: it runs, but
// nothing listens there.
func (d *Detector) Refused(now time.Duration, name string) {
	d.advance(now)
	if p := d.peer(name); p != nil {
		if !p.refused {
			p.refused, p.refusedAt = true, d.now
		}
		d.judgeAll()
	}
}

// OwnDisk takes in how late this node's own disk is, like Beat.DiskLate.
func (d *Detector) OwnDisk(now, late time.Duration) {
	d.advance(now)
	d.own.disk = late
}

// Tick takes in that time has passed.
func (d *Detector) Tick(now time.Duration) {
	d.advance(now)
	d.ticked = d.now
	d.judgeAll()
}

// Heard is what the next beat of this node has to say.
func (d *Detector) Heard() []Heard {
	var list []Heard
	for _, p := range d.peers {
		if p.seq > 0 {
			list = append(list, Heard{Node: p.name, Incarnation: p.incarnation, Ago: d.now - p.heard})
		}
	}
	return list
}

// peer finds a peer by name; nil: none.
func (d *Detector) peer(name string) *peer {
	for _, p := range d.peers {
		if p.name == name {
			return p
		}
	}
	return nil
}

// advance moves the time on. When the last tick is longer ago than it can be
// with this node awake, the peers are not to blame for the silence: each has a
// fresh chance. A node that stalls again and again would never find anyone dead
// that way; so a further stall soon after the last one only stops the clock.
func (d *Detector) advance(now time.Duration) {
	d.now = max(d.now, now)
	gap := d.now - d.ticked
	if gap <= d.config.Stall || mutant.On(mutant.DetectorBlameOthers) {
		return
	}
	fresh := d.now-d.chance >= 2*d.config.SuspectMax
	for _, p := range d.peers {
		if fresh {
			p.chance = d.now
		} else {
			p.chance = min(d.now, p.lastChance()+gap)
		}
		p.deaf = 0
	}
	if fresh {
		d.chance = d.now
	}
	d.ticked = d.now
}

// judgeAll brings every verdict up to date.
func (d *Detector) judgeAll() {
	for _, p := range d.peers {
		d.gather(p)
	}
	d.judge()
}

// judge brings the verdicts up to date with what was gathered.
func (d *Detector) judge() {
	if health := d.own.health(d.now, d.config); health != d.ownHealth {
		d.ownHealth, d.ownSince = health, d.now
	}
	for _, p := range d.peers {
		p.judge(d)
	}
}

// gatherFrom is gather for all, after a beat of q: only that has news.
func (d *Detector) gatherFrom(q *peer) {
	for _, p := range d.peers {
		if at := q.hears[p.name]; at.incarnation == p.incarnation && at.time > p.othersLast {
			p.othersHear(at.time, q.name, d.config)
		}
	}
}

// gather finds out when other nodes last heard p, by the beats that arrived here.
// Those are times, not claims: what a node said before it fell silent itself
// grows old with it.
func (d *Detector) gather(p *peer) {
	var newest time.Duration
	name := ""
	for _, q := range d.peers {
		if at := q.hears[p.name]; at.incarnation == p.incarnation && at.time > newest {
			newest, name = at.time, q.name
		}
	}
	if newest > p.othersLast {
		p.othersHear(newest, name, d.config)
	}
}

// othersHear takes in that another node has heard this one, later than any before.
func (p *peer) othersHear(at time.Duration, name string, c DetectorConfig) {
	if at-p.othersLast > p.wait(c) {
		p.othersFirst = at
	}
	p.othersLast, p.othersName = at, name
}

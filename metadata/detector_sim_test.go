package metadata

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"blkd/metadata/metapb"
)

var detectorHours = flag.Float64("detector.hours", 1, "simulated hours in which no detector may call a living node down")

// detectorSim is a cluster of detectors on a simulated network, driven from a
// seed. Nodes are numbered from 0 and called n1, n2, ….
type detectorSim struct {
	rand   *rand.Rand
	now    time.Duration
	queue  simQueue
	nodes  []*simNode
	loss   float64       // of beats
	base   time.Duration // least delay of a beat
	jitter time.Duration // added to base, evenly distributed
	order  uint64
}

type simNode struct {
	name   string
	run    uint64
	d      *Detector
	dead   bool
	paused time.Duration // the process stands still until then
	seq    []uint64
}

type simEvent struct {
	at    time.Duration
	order uint64
	f     func()
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(e any)   { *q = append(*q, e.(simEvent)) }
func (q *simQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func newDetectorSim(seed uint64, nodes int, c DetectorConfig) *detectorSim {
	s := &detectorSim{rand: rand.New(rand.NewPCG(seed, 4)), base: 200 * time.Microsecond}
	var peers []Peer
	for i := range nodes {
		peers = append(peers, Peer{fmt.Sprintf("n%d", i+1), s.rand.Uint64() | 1})
	}
	for _, p := range peers {
		d, err := NewDetector(p.Name, p.Incarnation, c, 0)
		if err != nil {
			panic(err)
		}
		d.SetPeers(0, peers)
		n := &simNode{name: p.Name, run: p.Incarnation, d: d, seq: make([]uint64, nodes)}
		s.nodes = append(s.nodes, n)
		s.every(n, 50*time.Millisecond, func() { n.d.Tick(s.now) })
		s.every(n, 100*time.Millisecond, func() { s.send(n) })
	}
	return s
}

func (s *detectorSim) at(t time.Duration, f func()) {
	s.order++
	heap.Push(&s.queue, simEvent{t, s.order, f})
}

// upTo is a random time below t.
func (s *detectorSim) upTo(t time.Duration) time.Duration {
	if t <= 0 {
		return 0
	}
	return time.Duration(s.rand.Int64N(int64(t)))
}

// every lets a node act at regular times, as long as it lives; while it is
// paused it is late.
func (s *detectorSim) every(n *simNode, interval time.Duration, f func()) {
	var next func()
	next = func() {
		switch {
		case n.dead:
		case n.paused > s.now:
			s.at(n.paused, next)
		default:
			f()
			s.at(s.now+interval+s.upTo(interval/50), next)
		}
	}
	s.at(s.now+s.upTo(interval), next)
}

// send sends a beat to every peer.
func (s *detectorSim) send(n *simNode) {
	heard := n.d.Heard()
	for i, to := range s.nodes {
		if to == n {
			continue
		}
		n.seq[i]++
		if s.rand.Float64() < s.loss {
			continue
		}
		delay := s.base + s.upTo(s.jitter)
		b := Beat{From: n.name, Incarnation: n.run, Seq: n.seq[i], RTT: delay + s.base, Heard: heard}
		s.at(s.now+delay, func() { s.deliver(to, b) })
	}
}

func (s *detectorSim) deliver(to *simNode, b Beat) {
	switch {
	case to.dead:
	case to.paused > s.now: // it waits in the socket
		s.at(to.paused, func() { s.deliver(to, b) })
	default:
		to.d.Beat(s.now, b)
	}
}

func (s *detectorSim) runUntil(t time.Duration) {
	for len(s.queue) > 0 && s.queue[0].at <= t {
		e := heap.Pop(&s.queue).(simEvent)
		s.now = e.at
		e.f()
	}
	s.now = t
}

// kill ends a node's process.
func (s *detectorSim) kill(n *simNode) { n.dead = true }

// revive starts a new run of a node, and registers it everywhere.
func (s *detectorSim) revive(n *simNode, peers []Peer) {
	n.dead, n.run = false, s.rand.Uint64()|1
	clear(n.seq)
	for i := range peers {
		if peers[i].Name == n.name {
			peers[i].Incarnation = n.run
		}
	}
	n.d, _ = NewDetector(n.name, n.run, n.d.config, s.now)
	for _, o := range s.nodes {
		if !o.dead {
			o.d.SetPeers(s.now, peers)
		}
	}
	s.every(n, 50*time.Millisecond, func() { n.d.Tick(s.now) })
	s.every(n, 100*time.Millisecond, func() { s.send(n) })
}

func (s *detectorSim) peers() []Peer {
	var peers []Peer
	for _, n := range s.nodes {
		peers = append(peers, Peer{n.name, n.run})
	}
	return peers
}

// health is what node of has found out about node n.
func (s *detectorSim) health(of, n *simNode) metapb.Health { return of.d.peer(n.name).health }

// quietRun lets a lossy network work for a while in which nobody dies, though
// processes stand still for up to 200 ms now and then and, seldom, for up to half
// a minute. It returns an error when a living node is called down.
func quietRun(seed uint64, nodes int, loss float64, jitter, length time.Duration) error {
	s := newDetectorSim(seed, nodes, DetectorConfig{})
	s.loss, s.jitter = loss, jitter
	var asleep time.Duration // until then some node may rightly be called down
	for s.now < length {
		s.runUntil(s.now + s.upTo(20*time.Second))
		n := s.nodes[s.rand.IntN(nodes)]
		pause := s.upTo(200 * time.Millisecond)
		if s.rand.IntN(50) == 0 {
			pause = s.upTo(30 * time.Second)
		}
		n.paused = s.now + pause
		if pause > 200*time.Millisecond {
			// It is back when the others have heard three beats, and is told so.
			asleep = n.paused + 4*time.Second
		}
		for end := n.paused + 2*time.Second; s.now < end; {
			s.runUntil(s.now + 50*time.Millisecond)
			for _, of := range s.nodes {
				for _, o := range s.nodes {
					// Even now nobody but the sleeper may be called down.
					if of == o || o == n && s.now < asleep || of.paused > s.now {
						continue
					}
					if s.health(of, o) == metapb.Health_HEALTH_DOWN {
						return fmt.Errorf("seed %d, %d nodes, loss %.0f %%, jitter %v: at %v %s calls %s down: %s",
							seed, nodes, loss*100, jitter, s.now, of.name, o.name, of.d.text(of.d.peer(o.name)))
					}
				}
			}
		}
		for s.now < asleep {
			s.runUntil(s.now + time.Second)
		}
	}
	return nil
}

// TestDetectorCallsNoLivingNodeDown covers loss up to 20 % and jitter up to 200
// ms; with two nodes there is nobody to ask, so that the wait alone decides.
func TestDetectorCallsNoLivingNodeDown(t *testing.T) {
	const rounds = 12
	length := time.Duration(*detectorHours * float64(time.Hour) / rounds)
	for seed := range uint64(rounds) {
		if err := quietSeed(seed, length); err != nil {
			t.Error(err)
		}
	}
}

func quietSeed(seed uint64, length time.Duration) error {
	r := rand.New(rand.NewPCG(seed, 5))
	loss, jitter := r.Float64()*0.2, time.Duration(r.Int64N(int64(200*time.Millisecond)))
	if seed%3 == 0 {
		loss, jitter = 0.199, 199*time.Millisecond
	}
	nodes := 3 + int(seed%3)
	if loss < 0.1 {
		nodes = 2
	}
	return quietRun(seed, nodes, loss, jitter, length)
}

// deathTimes kills a node again and again and returns how long the first and
// the last of the others took to call it down.
func deathTimes(seed uint64, rounds int, loss float64, jitter time.Duration, refused bool) (all []time.Duration, err error) {
	s := newDetectorSim(seed, 3, DetectorConfig{})
	s.loss, s.jitter = loss, jitter
	peers := s.peers()
	for range rounds {
		s.runUntil(s.now + 70*time.Second + s.upTo(10*time.Second))
		victim := s.nodes[s.rand.IntN(3)]
		died := s.now
		s.kill(victim)
		if refused {
			for _, n := range s.nodes {
				s.at(s.now+s.upTo(5*time.Millisecond), func() { n.d.Refused(s.now, victim.name) })
			}
		}
		for _, of := range s.nodes {
			for of != victim && s.health(of, victim) != metapb.Health_HEALTH_DOWN {
				s.runUntil(s.now + time.Millisecond)
				if h := s.health(of, victim); h == metapb.Health_HEALTH_PARTITIONED {
					return nil, fmt.Errorf("seed %d: %s calls dead %s partitioned: %s", seed, of.name, victim.name, of.d.text(of.d.peer(victim.name)))
				}
				if s.now-died > 10*time.Second {
					return nil, fmt.Errorf("seed %d: %s does not notice that %s is dead", seed, of.name, victim.name)
				}
			}
			if of != victim {
				all = append(all, s.now-died)
			}
		}
		s.runUntil(s.now + s.upTo(5*time.Second))
		s.revive(victim, peers)
	}
	slices.Sort(all)
	return all, nil
}

// deathCases are how long a death may go unnoticed.
var deathCases = []struct {
	name        string
	loss        float64
	jitter      time.Duration
	refused     bool
	median, max time.Duration
}{
	{"calm", 0, 5 * time.Millisecond, false, 700 * time.Millisecond, 2 * time.Second},
	{"busy machines", 0, 60 * time.Millisecond, false, 700 * time.Millisecond, 2 * time.Second},
	{"loss 20 %, jitter 200 ms", 0.199, 199 * time.Millisecond, false, 2 * time.Second, 2 * time.Second},
	{"refused", 0, 5 * time.Millisecond, true, 200 * time.Millisecond, 200 * time.Millisecond},
	{"refused, busy machines", 0, 60 * time.Millisecond, true, 200 * time.Millisecond, 700 * time.Millisecond},
}

func TestDetectorNoticesDeath(t *testing.T) {
	for _, c := range deathCases {
		all, err := deathTimes(1, 40, c.loss, c.jitter, c.refused)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		median, most := all[len(all)/2], all[len(all)-1]
		t.Logf("%-26s p50 %v, p99 %v, max %v", c.name, median, all[len(all)*99/100], most)
		if median > c.median || most > c.max {
			t.Errorf("%s: may take %v, at most %v", c.name, c.median, c.max)
		}
	}
}

// flapRun lets a node come and go every few seconds for ten minutes, and then
// stay. It returns how often the node was given back to use meanwhile.
func flapRun(seed uint64) (used int, err error) {
	s := newDetectorSim(seed, 3, DetectorConfig{})
	of, n := s.nodes[0], s.nodes[2]
	s.runUntil(20 * time.Second)
	working := true
	watch := func(until time.Duration) {
		for s.now < until {
			s.runUntil(s.now + 50*time.Millisecond)
			p := of.d.peer(n.name)
			now := p.working() && p.held(s.now) == 0
			if now && !working {
				used++
			}
			working = now
		}
	}
	for s.now < 10*time.Minute {
		n.paused = s.now + 2*time.Second + s.upTo(3*time.Second)
		watch(n.paused + 2*time.Second + s.upTo(3*time.Second))
	}
	steady := s.now
	for !working && s.now < steady+time.Hour {
		watch(s.now + time.Second)
	}
	if took := s.now - steady; took > of.d.config.HoldMax+5*time.Second {
		return used, fmt.Errorf("seed %d: a node that has stayed up is used again only after %v", seed, took)
	}
	return used, nil
}

func TestDetectorHoldsFlappingNodeBack(t *testing.T) {
	for seed := range uint64(10) {
		if err := flapSeed(seed); err != nil {
			t.Error(err)
		}
	}
}

// flapSeed allows a few uses before the node counts as flapping and while the
// backoff is still short.
func flapSeed(seed uint64) error {
	used, err := flapRun(seed)
	if err == nil && used > 6 {
		err = fmt.Errorf("seed %d: a node that fails every few seconds was used %d times within ten minutes", seed, used)
	}
	return err
}

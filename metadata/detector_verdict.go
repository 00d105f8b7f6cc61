package metadata

import (
	"fmt"
	"time"

	"blkd/metadata/metapb"
)

// Verdict is what a Detector holds of one node.
type Verdict struct {
	Node        string
	Incarnation uint64        // the run it is about; 0: the node has not registered
	Health      metapb.Health // unspecified: too early to tell
	Since       time.Duration // on the detector's clock
	HeldUntil   time.Duration // a flapping node is not to be used before; 0: it is not held back
	Text        string        // what it rests on, for people: one line, without the node's name
}

// Working tells whether the node can be counted on now: it answers, if slowly,
// and is not held back.
func (v Verdict) Working() bool {
	return (v.Health == metapb.Health_HEALTH_UP || v.Health == metapb.Health_HEALTH_SLOW) && v.HeldUntil == 0
}

// Verdicts returns the verdict about this node itself, which is up or slow, and
// then those about its peers, by name.
func (d *Detector) Verdicts() []Verdict {
	list := make([]Verdict, 0, len(d.peers)+1)
	list = append(list, Verdict{Node: d.self, Incarnation: d.incarnation, Health: d.ownHealth, Since: d.ownSince, Text: d.ownText()})
	for _, p := range d.peers {
		list = append(list, Verdict{Node: p.name, Incarnation: p.incarnation, Health: p.health, Since: p.since,
			HeldUntil: p.held(d.now), Text: d.text(p)})
	}
	return list
}

func (d *Detector) ownText() string {
	if d.own.slow {
		return "works, but late" + d.own.text(d.now-d.ownSince, d.config)
	}
	return "this node itself"
}

// text says what the verdict about p rests on.
func (d *Detector) text(p *peer) string {
	if p.incarnation == 0 {
		return "known, but has never registered" + p.strangerText(d)
	}
	switch p.health {
	case metapb.Health_HEALTH_UP, metapb.Health_HEALTH_SLOW:
		return d.workingText(p)
	case metapb.Health_HEALTH_PARTITIONED:
		if p.streak == 0 || !p.audible(d) {
			return d.partitionText(p) + p.strangerText(d)
		}
	case metapb.Health_HEALTH_DOWN:
		if p.streak == 0 || !p.audible(d) {
			return d.downText(p) + p.strangerText(d)
		}
	}
	if p.seq == 0 {
		return fmt.Sprintf("not heard so far, for %s", span(d.now-p.since)) + p.strangerText(d)
	}
	return fmt.Sprintf("its beats arrive, %d of the %d in a row that are needed", min(p.streak, d.config.UpBeats), d.config.UpBeats)
}

func (d *Detector) workingText(p *peer) string {
	text := "answers"
	if p.health == metapb.Health_HEALTH_SLOW {
		text += ", but late" + p.slow.text(d.now-p.since, d.config)
	} else if p.slow.rtt > 0 {
		text += ", round trip " + span(p.slow.rtt)
	}
	if held := p.held(d.now); held > 0 {
		text += fmt.Sprintf("; held back for another %s, if it stays up, because it failed %d times in the last %s",
			span(held-d.now), len(p.flaps.falls), span(d.now-p.flaps.falls[0]))
	}
	return text
}

func (s *slowness) text(since time.Duration, c DetectorConfig) string {
	text := fmt.Sprintf(" for %s", span(since+c.SlowAfter))
	if s.rtt > c.SlowRTT/2 {
		text += fmt.Sprintf(": round trip %s, the limit is %s", span(s.rtt), span(c.SlowRTT))
	}
	if s.disk > c.SlowDisk/2 {
		text += fmt.Sprintf(": a sync of its disk takes %s, the limit is %s", span(s.disk), span(c.SlowDisk))
	}
	return text
}

func (d *Detector) partitionText(p *peer) string {
	if !p.audible(d) {
		return fmt.Sprintf("%s, but %s heard it %s ago: it is alive, and the network between %s and it is broken",
			d.silenceText(p), p.othersName, span(d.now-p.othersLast), d.self)
	}
	text := fmt.Sprintf("%s hears it, but it has not heard %s for %s: the network from %s to it is broken, the way back works",
		d.self, d.self, span(d.now-p.lastHeardUs(d)), d.self)
	deaf, audible := 0, 0
	for _, q := range d.peers {
		if q.audible(d) {
			audible++
			if q.deaf > 0 {
				deaf++
			}
		}
	}
	if audible > 1 && deaf == audible {
		text += fmt.Sprintf("; no node hears %s, so look at %s first", d.self, d.self)
	}
	return text
}

func (d *Detector) downText(p *peer) string {
	if p.refused {
		return fmt.Sprintf("%s, and its machine has refused connections for %s: the machine runs, blkd on it does not",
			d.silenceText(p), span(d.now-p.refusedAt))
	}
	var others []string
	for _, q := range d.peers {
		if q != p && q.audible(d) {
			others = append(others, q.name)
		}
	}
	switch {
	case len(others) > 0:
		return fmt.Sprintf("%s, nor by %s: its machine, its blkd or its network is gone, or stands still", d.silenceText(p), someOf(others))
	case len(d.peers) > 1:
		return fmt.Sprintf("%s; %s hears no other node either, and may itself be cut off", d.silenceText(p), d.self)
	}
	return fmt.Sprintf("%s, and there is no third node to ask", d.silenceText(p))
}

func (d *Detector) silenceText(p *peer) string {
	if p.seq == 0 {
		return fmt.Sprintf("this run was never heard by %s, for %s", d.self, span(d.now-p.chance))
	}
	return fmt.Sprintf("not heard by %s for %s", d.self, span(d.now-p.heard))
}

// strangerText tells of a run that beats and does not count.
func (p *peer) strangerText(d *Detector) string {
	if !p.strange(d) {
		return ""
	}
	return "; a run of it that is not registered beats: it has just started, or an old process of it still lives"
}

// strange tells whether a run other than the registered one beats.
func (p *peer) strange(d *Detector) bool {
	return p.stranger != 0 && d.now-p.strangerHeard < d.config.SuspectMax
}

// span is a length of time in two digits or so: 0.4 ms, 12 ms, 0.6 s, 14 s, 3 min.
func span(t time.Duration) string {
	switch {
	case t < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", t.Seconds()*1e3)
	case t < 100*time.Millisecond:
		return fmt.Sprintf("%.0f ms", t.Seconds()*1e3)
	case t < 10*time.Second:
		return fmt.Sprintf("%.1f s", t.Seconds())
	case t < 2*time.Minute:
		return fmt.Sprintf("%.0f s", t.Seconds())
	case t < 2*time.Hour:
		return fmt.Sprintf("%.0f min", t.Minutes())
	}
	return fmt.Sprintf("%.0f h", t.Hours())
}

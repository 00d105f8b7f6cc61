package metadata

import (
	"fmt"
	"time"
)

// DetectorConfig tunes a Detector. A field left zero has its default. The
// reasons for the defaults are in docs/decisions/0004-failure-detector.md.
type DetectorConfig struct {
	// Heartbeat is how often every node tells every other that it is alive:
	// 10 ms to 10 s, default 100 ms. It must be the same on all nodes.
	Heartbeat time.Duration

	// A peer is suspected after a silence of SuspectFactor times the longest gap
	// between two of its beats in the last minute, but not before SuspectMin and
	// not after SuspectMax. SuspectMin: 3 heartbeats to 60 s, default 500 ms.
	// SuspectMax: SuspectMin to 60 s, default 1.5 s. SuspectFactor: 1 to 10,
	// default 3.
	SuspectMin    time.Duration
	SuspectMax    time.Duration
	SuspectFactor int

	// RefusedWait is the silence after which a peer is down whose machine refuses
	// connections, because no process listens there: half a heartbeat to
	// SuspectMin, default 100 ms.
	RefusedWait time.Duration

	// UpBeats is how many beats in a row, about one heartbeat apart, bring a peer
	// back: 1 to 100, default 3.
	UpBeats int

	// Stall is the gap between two ticks from which this node takes itself, not
	// its peers, for the one that was asleep: one heartbeat to SuspectMin, default
	// 250 ms.
	Stall time.Duration

	// A peer is slow when its smoothed round trip is above SlowRTT, or a sync of
	// its disk takes longer than SlowDisk, without a break for SlowAfter. It is up
	// again when both are below half of that for as long. SlowRTT: 1 ms to 60 s,
	// default 200 ms. SlowDisk: 1 ms to 60 s, default 500 ms. SlowAfter: one
	// heartbeat to 10 min, default 3 s.
	SlowRTT   time.Duration
	SlowDisk  time.Duration
	SlowAfter time.Duration

	// A peer that fell FlapFalls times within FlapWindow is held back when it
	// returns: for HoldMin, and after every further fall twice as long, up to
	// HoldMax. Every HoldDecay without a fall takes one doubling back. FlapFalls: 2
	// to 100, default 3. FlapWindow: 1 s to 1 h, default 1 min. HoldMin: 10 ms to
	// HoldMax, default 1 s. HoldMax: up to 24 h, default 5 min. HoldDecay: 1 s to
	// 24 h, default 2 min.
	FlapFalls  int
	FlapWindow time.Duration
	HoldMin    time.Duration
	HoldMax    time.Duration
	HoldDecay  time.Duration
}

// withDefaults fills in what is zero, and refuses what is out of range.
func (c DetectorConfig) withDefaults() (DetectorConfig, error) {
	const ms = time.Millisecond
	defaultTo(&c.Heartbeat, 100*ms)
	defaultTo(&c.SuspectMin, 500*ms)
	defaultTo(&c.SuspectMax, 1500*ms)
	defaultTo(&c.SuspectFactor, 3)
	defaultTo(&c.RefusedWait, 100*ms)
	defaultTo(&c.UpBeats, 3)
	defaultTo(&c.Stall, 250*ms)
	defaultTo(&c.SlowRTT, 200*ms)
	defaultTo(&c.SlowDisk, 500*ms)
	defaultTo(&c.SlowAfter, 3*time.Second)
	defaultTo(&c.FlapFalls, 3)
	defaultTo(&c.FlapWindow, time.Minute)
	defaultTo(&c.HoldMin, time.Second)
	defaultTo(&c.HoldMax, 5*time.Minute)
	defaultTo(&c.HoldDecay, 2*time.Minute)
	for _, err := range []error{
		within("heartbeat", c.Heartbeat, 10*ms, 10*time.Second),
		within("suspect-min", c.SuspectMin, 3*c.Heartbeat, time.Minute),
		within("suspect-max", c.SuspectMax, c.SuspectMin, time.Minute),
		within("suspect-factor", c.SuspectFactor, 1, 10),
		within("refused-wait", c.RefusedWait, c.Heartbeat/2, c.SuspectMin),
		within("up-beats", c.UpBeats, 1, 100),
		within("stall", c.Stall, c.Heartbeat, c.SuspectMin),
		within("slow-rtt", c.SlowRTT, ms, time.Minute),
		within("slow-disk", c.SlowDisk, ms, time.Minute),
		within("slow-after", c.SlowAfter, c.Heartbeat, 10*time.Minute),
		within("flap-falls", c.FlapFalls, 2, 100),
		within("flap-window", c.FlapWindow, time.Second, time.Hour),
		within("hold-max", c.HoldMax, 10*ms, 24*time.Hour),
		within("hold-min", c.HoldMin, 10*ms, c.HoldMax),
		within("hold-decay", c.HoldDecay, time.Second, 24*time.Hour),
	} {
		if err != nil {
			return c, fmt.Errorf("failure detector: %w", err)
		}
	}
	return c, nil
}

func defaultTo[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

func within[T int | time.Duration](name string, v, least, most T) error {
	if v < least || v > most {
		return fmt.Errorf("%s is %v; it must lie between %v and %v", name, v, least, most)
	}
	return nil
}

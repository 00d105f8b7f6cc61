package metadata

import (
	"fmt"
	"time"
)

// StewardConfig tunes a Steward. A field left zero has its default.
type StewardConfig struct {
	// ReplaceVoterAfter is how long a voter has to be down, partitioned or held
	// back before another node takes its place: 1 s to 24 h, default 60 s. Changes
	// that only make a sound quorum a better one wait as long.
	ReplaceVoterAfter time.Duration
	// StableFor is how long a node has to be up before it may become a voter: 100 ms
	// to ReplaceVoterAfter, default 5 s.
	StableFor time.Duration
	// CatchUpEntries is how far the log of such a node may be behind: 1 to 1e6
	// entries, default 1,000.
	CatchUpEntries int
	// ObserveAfter is how long a verdict has to hold before it is recorded, if it is
	// not "down", which rests on enough silence already: 1 ms to 60 s, default 250 ms.
	ObserveAfter time.Duration
	// MoveServiceAfter is how long a node has to be down before another one shall run
	// its services: 1 s to 1 h, default 10 s. It covers a restart of blkd, which what
	// runs on the node hardly notices.
	MoveServiceAfter time.Duration
	// RetryMin and RetryMax: what had no effect is tried again after RetryMin, and
	// after twice as long each time, up to RetryMax. RetryMin: 10 ms to RetryMax,
	// default 1 s. RetryMax: up to 1 h, default 1 min.
	RetryMin time.Duration
	RetryMax time.Duration
}

// withDefaults fills in what is zero, and refuses what is out of range.
func (c StewardConfig) withDefaults() (StewardConfig, error) {
	const ms = time.Millisecond
	defaultTo(&c.ReplaceVoterAfter, time.Minute)
	defaultTo(&c.StableFor, 5*time.Second)
	defaultTo(&c.CatchUpEntries, 1000)
	defaultTo(&c.ObserveAfter, 250*ms)
	defaultTo(&c.MoveServiceAfter, 10*time.Second)
	defaultTo(&c.RetryMin, time.Second)
	defaultTo(&c.RetryMax, time.Minute)
	for _, err := range []error{
		within("replace-voter-after", c.ReplaceVoterAfter, time.Second, 24*time.Hour),
		within("stable-for", c.StableFor, 100*ms, c.ReplaceVoterAfter),
		within("catch-up-entries", c.CatchUpEntries, 1, 1e6),
		within("observe-after", c.ObserveAfter, ms, time.Minute),
		within("move-service-after", c.MoveServiceAfter, time.Second, time.Hour),
		within("retry-max", c.RetryMax, 10*ms, time.Hour),
		within("retry-min", c.RetryMin, 10*ms, c.RetryMax),
	} {
		if err != nil {
			return c, fmt.Errorf("steward: %w", err)
		}
	}
	return c, nil
}

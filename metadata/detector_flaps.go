package metadata

import (
	"time"

	"blkd/internal/mutant"
)

// flaps holds back a node that comes and goes.
type flaps struct {
	falls []time.Duration // the last FlapFalls of them, oldest first
	level int             // doublings of the next hold; 0: it does not flap
	quiet time.Duration   // the level decays from here
	held  time.Duration   // held back until then
}

// fall notes that the node failed.
func (f *flaps) fall(now time.Duration, c DetectorConfig) {
	f.decay(now, c)
	f.falls = append(f.falls, now)
	if len(f.falls) > c.FlapFalls {
		f.falls = f.falls[1:]
	}
	f.quiet = now
}

// rise notes that the node is back.
func (f *flaps) rise(now time.Duration, c DetectorConfig) {
	f.decay(now, c)
	often := len(f.falls) == c.FlapFalls && now-f.falls[0] <= c.FlapWindow
	if !often && f.level == 0 || mutant.On(mutant.DetectorNoHold) {
		return
	}
	hold := min(c.HoldMin<<f.level, c.HoldMax)
	if f.level == 0 || hold < c.HoldMax { // a higher level would only take longer to decay
		f.level++
	}
	f.held = now + hold
	f.quiet = max(f.quiet, f.held)
}

// decay takes a doubling back for every HoldDecay without a fall.
func (f *flaps) decay(now time.Duration, c DetectorConfig) {
	if now <= f.quiet {
		return
	}
	steps := (now - f.quiet) / c.HoldDecay
	f.level = max(0, f.level-int(min(steps, 64)))
	f.quiet += steps * c.HoldDecay
}

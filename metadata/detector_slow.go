package metadata

import (
	"time"

	"blkd/metadata/metapb"
)

// slowness tells whether a node that answers does so in time.
type slowness struct {
	rtt  time.Duration // smoothed; 0: not known
	disk time.Duration // how late its disk is, as it says

	slow      bool
	changing  bool          // the opposite of slow holds
	changesAt time.Duration // since then
}

// note takes in what a beat says of round trip and disk.
func (s *slowness) note(b Beat) {
	s.disk = b.DiskLate
	switch {
	case b.RTT <= 0:
	case s.rtt == 0:
		s.rtt = b.RTT
	default:
		s.rtt += (b.RTT - s.rtt) / 8 // as TCP does, RFC 6298
	}
}

// health is up or slow, as it stands now. Both ways the opposite must hold for
// SlowAfter, and on the way back by half.
func (s *slowness) health(now time.Duration, c DetectorConfig) metapb.Health {
	opposite := s.rtt > c.SlowRTT || s.disk > c.SlowDisk
	if s.slow {
		opposite = s.rtt < c.SlowRTT/2 && s.disk < c.SlowDisk/2
	}
	switch {
	case !opposite:
		s.changing = false
	case !s.changing:
		s.changing, s.changesAt = true, now
	case now-s.changesAt >= c.SlowAfter:
		s.slow, s.changing = !s.slow, false
	}
	if s.slow {
		return metapb.Health_HEALTH_SLOW
	}
	return metapb.Health_HEALTH_UP
}

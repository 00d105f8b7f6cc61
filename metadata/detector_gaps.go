package metadata

import "time"

// gaps knows the longest gap between a peer's beats in the last minute. The
// minute is made of six parts of ten seconds, so it is between 50 and 60 seconds
// long.
type gaps struct {
	part  int64 // the part of time that parts[0] is about
	parts [6]time.Duration
}

const gapPart = 10 * time.Second

func (g *gaps) add(now, gap time.Duration) {
	for part := int64(now / gapPart); g.part < part; g.part++ {
		if part-g.part > int64(len(g.parts)) {
			g.part = part - int64(len(g.parts))
		}
		copy(g.parts[1:], g.parts[:])
		g.parts[0] = 0
	}
	g.parts[0] = max(g.parts[0], gap)
}

func (g *gaps) longest() time.Duration {
	var most time.Duration
	for _, gap := range g.parts {
		most = max(most, gap)
	}
	return most
}

package metadata

import (
	"slices"

	"blkd/metadata/metapb"
)

// eventsKept is how many events a follower may be behind.
const eventsKept = 8192

// The words of an event's type and action.
const (
	typeCluster   = "cluster"
	typeNode      = "node"
	typeVolume    = "volume"
	typeVoters    = "voters"
	actionCreate  = "create"
	actionChange  = "change"
	actionDestroy = "destroy"
)

// eventLog keeps the last events. Their numbers have no gaps.
type eventLog struct {
	kept []*metapb.Event
	last uint64 // number of the newest
}

// add numbers the event and appends it.
func (l *eventLog) add(e *metapb.Event) {
	l.last++
	e.Seq = l.last
	l.kept = append(l.kept, e)
	if n := len(l.kept); n > eventsKept {
		l.kept = l.kept[n-eventsKept:]
	}
}

// since returns the events after one, and whether some are missing before them.
func (l *eventLog) since(after uint64) (events []*metapb.Event, gap bool) {
	if after > l.last {
		return nil, true
	}
	missed := l.last - after
	if n := uint64(len(l.kept)); missed > n {
		return slices.Clip(l.kept), true
	}
	return slices.Clip(l.kept[uint64(len(l.kept))-missed:]), false
}

// time is that of the newest event.
func (l *eventLog) time() int64 {
	if n := len(l.kept); n > 0 {
		return l.kept[n-1].Time
	}
	return 0
}

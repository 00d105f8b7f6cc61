package manualclock_test

import (
	"slices"
	"testing"
	"time"

	"blkd/internal/env"
	"blkd/internal/env/manualclock"
)

func TestAdvance(t *testing.T) {
	c := manualclock.New()
	start, wall := c.Now(), c.Wall()
	var got []time.Duration
	note := func() { got = append(got, c.Now()-start) }
	c.AfterFunc(30, note)
	again := c.AfterFunc(10, note)
	never := c.AfterFunc(20, note)
	c.AfterFunc(40, func() { note(); c.AfterFunc(5, note) })
	c.Advance(15)
	if !never.Stop() || never.Stop() || again.Stop() || again.Reset(10) {
		t.Error("Stop and Reset tell whether the call was still to come")
	}
	c.Advance(35)
	if want := []time.Duration{10, 25, 30, 40, 45}; !slices.Equal(got, want) {
		t.Errorf("calls at %v, want %v", got, want)
	}
	if c.Now() != start+50 || !c.Wall().Equal(wall.Add(50)) {
		t.Error("the clock is not where it was put")
	}
}

func TestTicker(t *testing.T) {
	var c env.Clock = manualclock.New()
	manual := c.(*manualclock.Clock)
	ticker := c.NewTicker(time.Second)
	taken := 0
	take := func() {
		select {
		case <-ticker.C():
			taken++
		default:
		}
	}
	for range 5 {
		manual.Advance(time.Second)
		take()
	}
	manual.Advance(10 * time.Second) // nobody takes them: one is kept
	take()
	take()
	ticker.Stop()
	manual.Advance(time.Minute)
	take()
	if taken != 6 {
		t.Errorf("took %d ticks, want 6", taken)
	}
}

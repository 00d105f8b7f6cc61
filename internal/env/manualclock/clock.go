// Package manualclock is an [env.Clock] that goes on only when it is told to.
package manualclock

import (
	"slices"
	"sync"
	"time"

	"blkd/internal/env"
)

// Clock stands still until Advance. It is safe for concurrent use.
type Clock struct {
	mu    sync.Mutex
	now   time.Duration
	wall  time.Time
	armed []*timer // in the order of setting
}

// New makes a clock: Now is one hour, so that times before it can be told from
// zero, and Wall the first second of 2026.
func New() *Clock {
	return &Clock{now: time.Hour, wall: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

// Now implements env.Clock.
func (c *Clock) Now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Wall implements env.Clock; it goes on with Now.
func (c *Clock) Wall() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wall
}

// AfterFunc implements env.Clock, except that f is called by Advance itself, so
// that its effects are there when Advance returns. f may use the clock.
func (c *Clock) AfterFunc(d time.Duration, f func()) env.Timer {
	return c.add(d, 0, f)
}

// NewTicker implements env.Clock.
func (c *Clock) NewTicker(d time.Duration) env.Ticker {
	t := &ticker{ticks: make(chan struct{}, 1)}
	t.timer = c.add(d, d, func() {
		select {
		case t.ticks <- struct{}{}:
		default:
		}
	})
	return t
}

// Advance lets time go on by d and makes the calls that fall due, in the order
// of their times and, at the same time, of their setting.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for end := c.now + d; ; {
		next := c.next(end)
		if next == nil {
			c.to(end)
			return
		}
		c.to(max(c.now, next.due))
		c.disarm(next)
		if next.every > 0 {
			c.arm(next, next.due+next.every)
		}
		c.mu.Unlock()
		next.f()
		c.mu.Lock()
	}
}

func (c *Clock) to(now time.Duration) {
	c.wall = c.wall.Add(now - c.now)
	c.now = now
}

// next is the timer that falls due first, not after end; nil: none.
func (c *Clock) next(end time.Duration) *timer {
	var first *timer
	for _, t := range c.armed {
		if t.due <= end && (first == nil || t.due < first.due) {
			first = t
		}
	}
	return first
}

func (c *Clock) add(d, every time.Duration, f func()) *timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &timer{clock: c, every: every, f: f}
	c.arm(t, c.now+d)
	return t
}

func (c *Clock) arm(t *timer, due time.Duration) {
	t.due = due
	c.armed = append(c.armed, t)
}

// disarm reports whether the timer was to fire.
func (c *Clock) disarm(t *timer) bool {
	i := slices.Index(c.armed, t)
	if i < 0 {
		return false
	}
	c.armed = slices.Delete(c.armed, i, i+1)
	return true
}

// timer is a Timer, and what drives a ticker.
type timer struct {
	clock *Clock
	due   time.Duration
	every time.Duration // 0: once
	f     func()
}

// Stop implements env.Timer.
func (t *timer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	return t.clock.disarm(t)
}

// Reset implements env.Timer.
func (t *timer) Reset(d time.Duration) bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	was := t.clock.disarm(t)
	t.clock.arm(t, t.clock.now+d)
	return was
}

type ticker struct {
	timer *timer
	ticks chan struct{}
}

// C implements env.Ticker.
func (t *ticker) C() <-chan struct{} { return t.ticks }

// Stop implements env.Ticker.
func (t *ticker) Stop() { t.timer.Stop() }

package env_test

import (
	"testing"
	"time"

	"blkd/internal/env"
)

func TestSystemClock(t *testing.T) {
	c := env.SystemClock{}
	before, started := c.Now(), time.Now()
	done := make(chan time.Duration, 1)
	c.AfterFunc(20*env.Millisecond, func() { done <- c.Now() })
	after := <-done
	if real := time.Since(started); after-before < 20*env.Millisecond || after-before > real+time.Second {
		t.Errorf("a call after 20 ms came after %v", after-before)
	}
	if d := time.Since(c.Wall()); d < 0 || d > time.Minute {
		t.Errorf("the wall clock is off by %v", d)
	}
	timer := c.AfterFunc(time.Hour, func() { t.Error("a stopped timer fired") })
	if !timer.Stop() || timer.Stop() {
		t.Error("a timer is stopped once")
	}
}

func TestSystemTicker(t *testing.T) {
	c := env.SystemClock{}
	started := c.Now()
	ticker := c.NewTicker(5 * env.Millisecond)
	for range 10 {
		<-ticker.C()
	}
	ticker.Stop()
	if d := c.Now() - started; d < 45*env.Millisecond { // the first may come at once
		t.Errorf("10 ticks of 5 ms took %v", d)
	}
	select {
	case <-ticker.C():
	default:
	}
	select {
	case <-ticker.C():
		t.Error("a tick after Stop")
	case <-time.After(20 * time.Millisecond):
	}
}

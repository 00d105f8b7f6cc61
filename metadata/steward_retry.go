package metadata

import (
	"maps"
	"time"

	"blkd/internal/mutant"
)

// retries remembers what was tried and had no effect yet, so that nothing is
// tried again without a pause that grows.
type retries struct {
	tried map[string]*attempt
}

// attempt is what is known of one thing that was tried.
type attempt struct {
	times int
	next  time.Duration // not again before
}

// allowed tells whether a thing may be tried now.
func (r *retries) allowed(key string, now time.Duration) bool {
	a := r.tried[key]
	return a == nil || now >= a.next || mutant.On(mutant.StewardNoPause)
}

// note says that it is tried now.
func (r *retries) note(key string, now time.Duration, c StewardConfig) {
	if r.tried == nil {
		r.tried = make(map[string]*attempt)
	}
	a := r.tried[key]
	if a == nil {
		a = &attempt{}
		r.tried[key] = a
	}
	a.next = now + min(c.RetryMin<<min(a.times, 30), c.RetryMax)
	a.times++
}

// worked says that it had its effect.
func (r *retries) worked(key string) { delete(r.tried, key) }

// forget drops what has not been tried for long.
func (r *retries) forget(now time.Duration, c StewardConfig) {
	maps.DeleteFunc(r.tried, func(_ string, a *attempt) bool { return now-a.next > 2*c.RetryMax })
}

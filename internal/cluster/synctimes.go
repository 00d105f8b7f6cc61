package cluster

import (
	"sync"
	"time"

	"blkd/internal/env"
)

// syncTimes knows how late the metadata disk is: the failure detector wants to
// hear of a disk that answers, but slowly.
type syncTimes struct {
	mu      sync.Mutex
	running map[*time.Duration]bool // when those under way began
	ended   []syncTime              // in the last second, each slower than those behind it
}

type syncTime struct{ at, took time.Duration }

// late is the slowest sync of the last second, or the age of one under way.
func (t *syncTimes) late(now time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.ended) > 0 && now-t.ended[0].at > time.Second {
		t.ended = t.ended[1:]
	}
	var late time.Duration
	if len(t.ended) > 0 {
		late = t.ended[0].took
	}
	for began := range t.running {
		late = max(late, now-*began)
	}
	return late
}

// measure times one sync.
func (t *syncTimes) measure(now func() time.Duration, sync func() error) error {
	began := now()
	t.mu.Lock()
	if t.running == nil {
		t.running = map[*time.Duration]bool{}
	}
	t.running[&began] = true
	t.mu.Unlock()
	err := sync()
	end := now()
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.running, &began)
	took := end - began
	for len(t.ended) > 0 && t.ended[len(t.ended)-1].took <= took {
		t.ended = t.ended[:len(t.ended)-1]
	}
	t.ended = append(t.ended, syncTime{end, took})
	return err
}

// timedFS measures the syncs of a file system.
type timedFS struct {
	env.FS
	times *syncTimes
	now   func() time.Duration
}

// Open implements env.FS.
func (t timedFS) Open(name string, flag int) (env.File, error) {
	f, err := t.FS.Open(name, flag)
	if err != nil {
		return nil, err
	}
	return timedFile{f, t}, nil
}

type timedFile struct {
	env.File
	fs timedFS
}

// Sync implements env.File.
func (f timedFile) Sync() error { return f.fs.times.measure(f.fs.now, f.File.Sync) }

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// scenario is how changes are asked for: by how many clients, of whom.
type scenario struct {
	name    string
	clients int
	of      func(leader, client int) int // the member
}

var scenarios = []scenario{
	{"1 client, at the leader", 1, func(leader, _ int) int { return leader }},
	{"1 client, at a follower", 1, func(leader, _ int) int { return (leader + 1) % 3 }},
	{"16 clients, at all nodes", 16, func(_, client int) int { return client % 3 }},
}

// recovery is the name of the measurement of killed leaders.
const recovery = "killed leader, to the next change"

// serial tells changes apart.
var serial atomic.Int64

// measure makes changes for a time and returns how long each took.
func (s scenario) measure(ctx context.Context, on side, d time.Duration) ([]time.Duration, error) {
	leader, err := on.leader(ctx)
	if err != nil {
		return nil, err
	}
	members := on.members()
	var wait sync.WaitGroup
	times := make([][]time.Duration, s.clients)
	errs := make([]error, s.clients)
	for client := range s.clients {
		m := members[s.of(leader, client)]
		wait.Go(func() {
			for end := time.Now().Add(d); time.Now().Before(end); {
				began := time.Now()
				if errs[client] = m.change(ctx, int(serial.Add(1))); errs[client] != nil {
					return
				}
				times[client] = append(times[client], time.Since(began))
			}
		})
	}
	wait.Wait()
	var all []time.Duration
	for _, t := range times {
		all = append(all, t...)
	}
	return all, errors.Join(errs...)
}

// recoveries kills the leader several times.
func recoveries(ctx context.Context, on side, kills int) (times []time.Duration, err error) {
	for range kills {
		took, err := recover1(ctx, on)
		if err != nil {
			return nil, err
		}
		times = append(times, took)
	}
	return times, nil
}

// attemptTime is for one attempt at a change while there may be no leader. A member
// may wait long for an answer that will not come.
const attemptTime = 100 * time.Millisecond

// recover1 kills the leader and tells how long it took until a change succeeded that
// was asked for afterwards, of one of the others.
func recover1(ctx context.Context, on side) (time.Duration, error) {
	leader, err := on.leader(ctx)
	if err != nil {
		return 0, err
	}
	members := on.members()
	members[leader].kill()
	killed := time.Now()
	until, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	success := make(chan time.Duration, len(members))
	var wait sync.WaitGroup
	for i, m := range members {
		if i == leader {
			continue
		}
		wait.Go(func() {
			for until.Err() == nil {
				attempt, cancel := context.WithTimeout(until, attemptTime)
				err := m.change(attempt, int(serial.Add(1)))
				cancel()
				if err == nil {
					success <- time.Since(killed)
					return
				}
			}
		})
	}
	var took time.Duration
	select {
	case took = <-success:
	case <-until.Done():
		err = fmt.Errorf("no change succeeded within a minute: %w", until.Err())
	}
	cancel()
	wait.Wait()
	if err != nil {
		return 0, err
	}
	if err := members[leader].start(); err != nil {
		return 0, err
	}
	return took, on.settle(ctx)
}

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// spared is a node that is never killed. It holds all volumes: a node that comes
// and goes is held back, and takes none.
const spared = "n4"

const (
	volumeSize = 4 << 20
	think      = 20 * time.Millisecond // between two changes of a client
	callTime   = 5 * time.Second       // for one attempt
	kept       = 20                    // of so many volumes one is never deleted
)

// change is what a client was told is done.
type change struct {
	volume  string
	deleted bool
}

// load is clients that create and delete volumes.
type load struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup
	conns  []*grpc.ClientConn

	mu      sync.Mutex
	changes []change
	latest  time.Time     // when the change was asked for that succeeded and was asked for last
	news    chan struct{} // closed at the next success or error
	err     error
}

func startLoad(ctx context.Context, conns []*grpc.ClientConn, clients int) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel, conns: conns, news: make(chan struct{})}
	for i := range clients {
		l.wait.Go(func() {
			if err := l.client(ctx, i); err != nil && ctx.Err() == nil {
				l.fail(err)
			}
		})
	}
	return l
}

// stop ends the clients, each after the change it is at.
func (l *load) stop() error {
	l.cancel()
	l.wait.Wait()
	return l.err
}

func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = errors.Join(l.err, err)
	l.cancel()
	close(l.news)
	l.news = make(chan struct{})
}

// done is every change that a client was told is done.
func (l *load) done() []change {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changes
}

// client makes one change after the other.
func (l *load) client(ctx context.Context, number int) error {
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("c%d-v%d", number, i)
		if err := l.create(ctx, number+i, name); err != nil {
			return err
		}
		if i%kept != 0 {
			if err := l.remove(ctx, number+i, name); err != nil {
				return err
			}
			// Now: the quorum does not remember deleted volumes for ever.
			if err := checkHistory(ctx, l.conns[i%len(l.conns)], name, true); err != nil && status.Code(err) != codes.Unavailable {
				return err
			}
		}
		l.pause(ctx, think)
	}
	return nil
}

// create makes a volume. A volume that is there before must be of an attempt whose
// answer the quorum has forgotten: the change was applied twice.
func (l *load) create(ctx context.Context, at int, name string) error {
	request := &api.CreateVolumeRequest{Name: name, SizeBytes: volumeSize, Request: newRequest(),
		Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: 1}, Nodes: []string{spared}}
	return l.insist(ctx, at, change{name, false}, func(ctx context.Context, c api.VolumeServiceClient) error {
		_, err := c.Create(ctx, request)
		return err
	})
}

func (l *load) remove(ctx context.Context, at int, name string) error {
	request := &api.DeleteVolumeRequest{Name: name, Request: newRequest()}
	return l.insist(ctx, at, change{name, true}, func(ctx context.Context, c api.VolumeServiceClient) error {
		_, err := c.Delete(ctx, request)
		return err
	})
}

// insist asks one node after the other until one answers. It is not broken off in
// the middle of a change, so that its outcome is known.
func (l *load) insist(ctx context.Context, at int, what change, ask func(context.Context, api.VolumeServiceClient) error) error {
	for deadline := time.Now().Add(time.Minute); ; at++ {
		began := time.Now()
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
		err := ask(attempt, api.NewVolumeServiceClient(l.conns[at%len(l.conns)]))
		cancel()
		switch code := status.Code(err); {
		case err == nil:
			l.success(what, began)
			return nil
		case code != codes.Unavailable && code != codes.DeadlineExceeded && code != codes.Canceled:
			return fmt.Errorf("volume %s (deleted: %v): %w", what.volume, what.deleted, err)
		case time.Now().After(deadline):
			return fmt.Errorf("volume %s (deleted: %v): no answer within a minute: %w", what.volume, what.deleted, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (l *load) success(what change, asked time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.changes = append(l.changes, what)
	if asked.After(l.latest) {
		l.latest = asked
	}
	close(l.news)
	l.news = make(chan struct{})
}

// successAfter waits for the success of a change that was asked for after a moment.
func (l *load) successAfter(ctx context.Context, moment time.Time) (time.Time, error) {
	limit := time.After(time.Minute)
	for {
		l.mu.Lock()
		latest, news, err := l.latest, l.news, l.err
		l.mu.Unlock()
		switch {
		case err != nil:
			return time.Time{}, err
		case latest.After(moment):
			return time.Now(), nil
		}
		select {
		case <-news:
		case <-limit:
			return time.Time{}, errNoSuccess
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
}

// pause waits, or until ctx ends.
func (l *load) pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func newRequest() *api.RequestInfo {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return &api.RequestInfo{Id: id, By: "clusterkill"}
}

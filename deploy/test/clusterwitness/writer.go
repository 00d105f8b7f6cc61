package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"blkd/blockdev"
	"blkd/deploy/test/clustertest"
	"blkd/internal/api"
	"blkd/nbd"
)

const block = 4096

// writer writes one block after the other, round and round, and reads each back. It
// goes on at the other node when the one that it is at fails, and repeats what was
// not acknowledged.
type writer struct {
	nodes  []*clustertest.Node
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	count  uint64    // acknowledged writes; the n-th writes n to block n mod the volume
	latest time.Time // when the write was begun that was acknowledged last
	err    error
}

func startWriter(ctx context.Context, nodes []*clustertest.Node) *writer {
	ctx, cancel := context.WithCancel(ctx)
	w := &writer{nodes: nodes, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for node := 0; ctx.Err() == nil; node++ {
			err := w.session(ctx, nodes[node%len(nodes)])
			if errors.Is(err, errWrongContent) {
				w.mu.Lock()
				w.err = err
				w.mu.Unlock()
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return w
}

// errWrongContent says that a block does not hold what was written last.
var errWrongContent = errors.New("a block does not hold what was acknowledged")

// session writes at one node until that fails.
func (w *writer) session(ctx context.Context, n *clustertest.Node) error {
	c, err := dial(ctx, n)
	if err != nil {
		return err
	}
	defer c.Close()
	for ctx.Err() == nil {
		next := w.count + 1 // only this goroutine changes it
		began := time.Now()
		if err := blockdev.WriteAt(c, content(next), offset(next), 0); err != nil {
			return err
		}
		if next%16 == 0 {
			if err := blockdev.Flush(c); err != nil {
				return err
			}
		}
		w.mu.Lock()
		w.count, w.latest = next, began
		w.mu.Unlock()
		if err := check(c, next); err != nil {
			return err
		}
	}
	return nil
}

func dial(ctx context.Context, n *clustertest.Node) (*nbd.Client, error) {
	return nbd.Dial(ctx, "nbd+unix:///"+volume+"?socket="+url.QueryEscape(n.NBD()), nbd.DialOptions{})
}

func offset(number uint64) int64 { return int64(number%(volumeSize/block)) * block }

func content(number uint64) []byte {
	return bytes.Repeat(binary.LittleEndian.AppendUint64(nil, number), block/8)
}

// check reads a block back.
func check(dev blockdev.Device, number uint64) error {
	got := make([]byte, block)
	if err := blockdev.ReadAt(dev, got, offset(number)); err != nil {
		return err
	}
	if !bytes.Equal(got, content(number)) {
		return fmt.Errorf("%w: the block at %d begins with %d, not with %d", errWrongContent, offset(number), binary.LittleEndian.Uint64(got), number)
	}
	return nil
}

// failure is what the writer found wrong.
func (w *writer) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// writeAfter waits until a write is acknowledged that was begun after a moment.
func (w *writer) writeAfter(ctx context.Context, moment time.Time) error {
	limit := time.After(time.Minute)
	for {
		w.mu.Lock()
		latest, err := w.latest, w.err
		w.mu.Unlock()
		switch {
		case err != nil:
			return err
		case latest.After(moment):
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit:
			return errors.New("no write was acknowledged within a minute")
		case <-time.After(time.Millisecond):
		}
	}
}

func (w *writer) stop() {
	w.cancel()
	<-w.done
}

// end stops writing and reads everything, through each of the nodes.
func (w *writer) end(ctx context.Context) (written uint64, err error) {
	w.stop()
	if w.err != nil {
		return 0, w.err
	}
	for _, n := range w.nodes {
		c, err := dial(ctx, n)
		if err != nil {
			return 0, fmt.Errorf("node %s: %w", n.Name, err)
		}
		defer c.Close()
		first := uint64(1)
		if blocks := uint64(volumeSize / block); w.count > blocks {
			first = w.count - blocks + 2 // the write that was broken off may have replaced the oldest
		}
		for number := first; number <= w.count; number++ {
			if err := check(c, number); err != nil {
				return 0, fmt.Errorf("node %s: %w", n.Name, err)
			}
		}
	}
	return w.count, nil
}

func newRequest() *api.RequestInfo {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return &api.RequestInfo{Id: id, By: "clusterwitness"}
}

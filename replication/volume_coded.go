package replication

import (
	"sync"

	"blkd/blockdev"
)

// codedVolume is what the volume of an erasure code has besides: one goroutine for
// what would hold others up, in order.
type codedVolume struct {
	*Coded
	mu    sync.Mutex
	queue []*Task
	wake  chan struct{}
}

func newCodedVolume(d *Coded) *codedVolume {
	return &codedVolume{Coded: d, wake: make(chan struct{}, 1)}
}

// enqueue hands serial tasks over, and adds the others to those that are run at once.
func (v *Volume) enqueue(now, tasks []*Task) []*Task {
	for _, t := range tasks {
		if !t.Serial {
			now = append(now, t)
			continue
		}
		v.coded.mu.Lock()
		v.coded.queue = append(v.coded.queue, t)
		v.coded.mu.Unlock()
		select {
		case v.coded.wake <- struct{}{}:
		default:
		}
	}
	return now
}

// runTasks runs serial tasks.
func (v *Volume) runTasks() {
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-v.coded.wake:
		}
		for v.ctx.Err() == nil {
			v.coded.mu.Lock()
			if len(v.coded.queue) == 0 {
				v.coded.mu.Unlock()
				break
			}
			t := v.coded.queue[0]
			v.coded.queue = v.coded.queue[1:]
			v.coded.mu.Unlock()
			err := t.Run()
			v.step(func(now Instant) { v.core.Finished(now, t, err) })
			v.roomAgain() // the log may have been let go
		}
	}
}

// crowded tells whether the log has to be poured before clients may go on.
func (v *Volume) crowded() bool { return v.coded != nil && v.coded.crowded() }

// roomAgain lets those look again who wait for room.
func (v *Volume) roomAgain() {
	if v.room.waiting.Load() > 0 {
		v.room.Lock()
		v.room.Broadcast()
		v.room.Unlock()
	}
}

// read fills a request from the disk. Of an erasure code, what another node asks for
// is of the shard; for clients it reads what the log has.
func (v *Volume) read(r *Request) error {
	if v.coded == nil {
		return v.disk.ReadCommitted(r.Data, r.Off)
	}
	_, err := v.coded.Read(r)
	return err
}

// ReadCommitted implements Disk for ranges of whole blocks that the log has; the rest
// reads as an error.
func (d *Coded) ReadCommitted(p []byte, off int64) error {
	held := true
	if err := d.ReadStaged(p, off, func(_, _ int64) { held = false }); err != nil {
		return err
	}
	if !held {
		return blockdev.ErrNotSupported
	}
	return nil
}

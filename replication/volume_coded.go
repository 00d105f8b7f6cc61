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

// mapStep is how much of a volume is mapped at once, bytes: what is written to it waits
// while what is under way there is committed.
const mapStep = 256 << 20

// mappedExtents are the extents of an erasure-coded volume. Blocks of zeros are holes.
func (s *Session) mappedExtents(off, n int64, emit func(blockdev.Extent) bool) error {
	if err := blockdev.CheckExtents(off, n, s.Size()); err != nil {
		return err
	}
	cur, end := blockdev.Extent{Off: off}, off+n
	for at := off; at < end; {
		first := at / blockSize
		last := (min(end, at+mapStep) + blockSize - 1) / blockSize
		m, err := s.mapBlocks(first, last)
		if err != nil {
			return err
		}
		for b := first; b < last; b++ {
			hole := !m.has(b - first)
			if cur.Len > 0 && hole != cur.Hole {
				if !emit(cur) {
					return nil
				}
				cur = blockdev.Extent{Off: at}
			}
			at = min(end, (b+1)*blockSize)
			cur.Len, cur.Hole, cur.Zero = at-cur.Off, hole, hole
		}
	}
	emit(cur)
	return nil
}

// mapBlocks tells which of the blocks from first up to last may be data.
func (s *Session) mapBlocks(first, last int64) (blockMap, error) {
	done := make(chan error, 1)
	client := &blockdev.Request{Op: blockdev.OpRead, Done: func(r *blockdev.Request) { done <- r.Err }}
	q := &request{client: client}
	q.Op, q.Off, q.Len = blockdev.OpRead, first*blockSize, (last-first)*blockSize
	q.Map, q.Attachment, q.Owner = make(blockMap, mapBytes(q.Len)), s.attachment, q
	m := blockMap(q.Map)
	s.submit([]*Request{&q.Request})
	return m, <-done
}

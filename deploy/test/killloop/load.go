package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"blkd/blockdev"
	"blkd/nbd"
)

const (
	writers     = 16
	connections = 2
)

// load is the writers of one round.
type load struct {
	m     *model
	conns []*nbd.Client
	acked atomic.Int64
	dying atomic.Bool // the server is being killed: errors are no fault from here on

	wg     sync.WaitGroup
	once   sync.Once
	failed chan struct{} // closed at the first error of a living server
	err    error
}

// startLoad connects and lets the writers write.
func startLoad(ctx context.Context, srv *server, m *model, seed uint64) (*load, error) {
	l := &load{m: m, failed: make(chan struct{})}
	for range connections {
		c, err := nbd.Dial(ctx, srv.uri(checkedVolume), nbd.DialOptions{})
		if err != nil {
			l.close()
			return nil, err
		}
		l.conns = append(l.conns, c)
	}
	for i := range writers {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		l.wg.Go(func() { l.write(l.conns[i%connections], i, rng) })
	}
	return l, nil
}

// wait returns when all writers have stopped, which the server's death makes them do.
func (l *load) wait() (int64, error) {
	l.wg.Wait()
	l.close()
	return l.acked.Load(), l.err
}

func (l *load) close() {
	for _, c := range l.conns {
		c.Close() // its error is that of the dead connection
	}
}

// write is one writer: a mutation at a time, in its own part of the volume.
func (l *load) write(dev blockdev.Device, n int, rng *rand.Rand) {
	part := int64(len(l.m.acked)) / writers
	first := int64(n) * part
	buf := make([]byte, 1<<20)
	for {
		from, count := place(rng, part)
		if err := l.mutate(dev, rng, first+from, count, buf); err != nil {
			l.fail(fmt.Errorf("writer %d: %w", n, err))
			return
		}
		l.acked.Add(1)
	}
}

// fail records an error unless the server was already being killed.
func (l *load) fail(err error) {
	if l.dying.Load() {
		return
	}
	l.once.Do(func() {
		l.err = fmt.Errorf("the server failed before it was killed: %w", err)
		close(l.failed)
	})
}

// place picks a range of sectors: mostly one block, sometimes an odd or a long one.
func place(rng *rand.Rand, part int64) (from, n int64) {
	align := int64(8)
	switch k := rng.IntN(20); {
	case k < 12:
		n = 8
	case k < 16:
		n, align = 1+rng.Int64N(16), 1
	case k < 19:
		n = 8 * (2 + rng.Int64N(62))
	default:
		n = 2048
	}
	return rng.Int64N((part-n)/align+1) * align, n
}

// mutate does one mutation and records it.
func (l *load) mutate(dev blockdev.Device, rng *rand.Rand, from, n int64, buf []byte) error {
	off, length := from*sectorSize, n*sectorSize
	var flags blockdev.Flags
	if rng.IntN(16) == 0 {
		flags = blockdev.FUA
	}
	kind := rng.IntN(20)
	v := l.m.next(kind < 3)
	l.m.begin(from, n, v)
	var err error
	switch kind {
	case 0:
		err = blockdev.Trim(dev, off, length, flags)
	case 1:
		err = blockdev.WriteZeroes(dev, off, length, flags)
	case 2:
		err = blockdev.WriteZeroes(dev, off, length, flags|blockdev.NoHole)
	default:
		p := buf[:length]
		for s := range n {
			l.m.content(p[s*sectorSize:(s+1)*sectorSize], from+s, v)
		}
		err = blockdev.WriteAt(dev, p, off, flags)
		if err == nil && kind == 3 {
			l.m.done(from, n, v)
			return blockdev.Flush(dev)
		}
	}
	if err == nil {
		l.m.done(from, n, v)
	}
	return err
}

// check reads the whole volume and compares it with the model. It returns how many
// sectors had a mutation in flight.
func check(ctx context.Context, srv *server, m *model) (inFlight int, err error) {
	c, err := nbd.Dial(ctx, srv.uri(checkedVolume), nbd.DialOptions{})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	const most = 10 // wrong sectors to report
	var wrong []error
	buf := make([]byte, 1<<20)
	for off := int64(0); off < volumeSize; off += int64(len(buf)) {
		if err := blockdev.ReadAt(c, buf, off); err != nil {
			return inFlight, fmt.Errorf("reading 1 MiB at %d: %w", off, err)
		}
		for at := int64(0); at < int64(len(buf)); at += sectorSize {
			moved, err := m.settle((off+at)/sectorSize, buf[at:at+sectorSize])
			if moved {
				inFlight++
			}
			if err != nil && len(wrong) < most {
				wrong = append(wrong, err)
			}
		}
	}
	return inFlight, errors.Join(wrong...)
}

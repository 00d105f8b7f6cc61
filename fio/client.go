package fio

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"blkd/blockdev"
)

// clientEngine loads an export through this project's NBD client, one connection per
// worker.
type clientEngine struct {
	dial func(ctx context.Context, uri string) (blockdev.Device, error)
	seed uint64
}

func (e *clientEngine) check(context.Context) error {
	if e.dial == nil {
		return errors.New("engine blkd needs Config.Dial to connect")
	}
	return nil
}

func (e *clientEngine) run(ctx context.Context, j Job, t Target) (Sample, error) {
	l, err := loadOf(j)
	if err != nil {
		return Sample{}, err
	}
	if t.file() != "" {
		return Sample{}, fmt.Errorf("target %s is a file, which --engine %s cannot load; use --engine %s", t.Name, EngineBlkd, EngineFio)
	}
	devs := make([]blockdev.Device, 0, l.conns)
	defer func() {
		for _, d := range devs {
			d.Close()
		}
	}()
	for range l.conns {
		d, err := e.dial(ctx, t.URI)
		if err != nil {
			return Sample{}, fmt.Errorf("target %s: %w", t.Name, err)
		}
		devs = append(devs, d)
	}
	e.seed++
	s, err := drive(ctx, l, devs, e.seed)
	if err != nil {
		return s, fmt.Errorf("job %s on %s: %w", j.Name, t.Name, err)
	}
	return s, nil
}

// drive runs one worker per device and adds up what they did.
func drive(ctx context.Context, l load, devs []blockdev.Device, seed uint64) (Sample, error) {
	workers := make([]*worker, len(devs))
	for i, d := range devs {
		w, err := newWorker(d, l, seed<<8+uint64(i))
		if err != nil {
			return Sample{}, err
		}
		workers[i] = w
	}
	var wg sync.WaitGroup
	errs := make([]error, len(workers))
	start := time.Now()
	for i, w := range workers {
		wg.Go(func() { errs[i] = w.run(ctx, start) })
	}
	wg.Wait()
	took := time.Since(start)
	s := Sample{Latency: Histogram{}}
	var bytes int64
	slots := map[int64]float64{}
	for i, w := range workers {
		if errs[i] != nil {
			return s, errs[i]
		}
		s.ios += w.ios
		s.wrote += w.wrote
		bytes += w.bytes
		if l.flushEvery > 0 {
			s.Latency.Merge(w.flushes)
		} else {
			s.Latency.Merge(w.requests)
		}
		for at, n := range w.slotCounts {
			if time.Duration(at+1)*seriesWidth <= took { // the last slot is not full
				slots[at+1] += n / seriesWidth.Seconds()
			}
		}
	}
	if s.ios == 0 {
		return s, fmt.Errorf("not one request finished within %v", l.runtime)
	}
	s.fill(bytes, took)
	s.Series = series(slots, seriesWidth)
	return s, nil
}

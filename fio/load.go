package fio

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"blkd/blockdev"
)

// load is what a job asks of a generator, in numbers.
type load struct {
	readPercent int64 // of 100 requests, how many read
	random      bool
	block       int64 // bytes per request
	depth       int64 // requests in flight per connection
	conns       int64
	flushEvery  int64 // writes between flushes; 0: none
	flushAtEnd  bool
	once        bool // end after one pass over the device
	runtime     time.Duration
}

// loadOf reads a job's options. Jobs that need a feature only fio has are refused.
func loadOf(j Job) (load, error) {
	refuse := func(why string) (load, error) {
		return load{}, fmt.Errorf("job %s cannot run with --engine %s: %s; run it with --engine %s", j.Name, EngineBlkd, why, EngineFio)
	}
	if v := j.Get("verify"); v != "" {
		return refuse("verify=" + v + " is done by fio only")
	}
	var l load
	switch rw := j.Get("rw"); strings.TrimPrefix(rw, "rand") {
	case "read":
		l.readPercent = 100
	case "write":
		l.readPercent = 0
	case "rw":
		l.readPercent = 50
	default:
		return refuse("rw=" + rw + " is not known to it")
	}
	l.random = strings.HasPrefix(j.Get("rw"), "rand")
	var err error
	for _, o := range []struct {
		key string
		to  *int64
		def int64
	}{
		{"bs", &l.block, 4096}, {"iodepth", &l.depth, 1}, {"numjobs", &l.conns, 1},
		{"fsync", &l.flushEvery, 0}, {"rwmixread", &l.readPercent, l.readPercent},
	} {
		if *o.to, err = j.Int(o.key, o.def); err != nil {
			return l, err
		}
	}
	l.flushAtEnd = j.Get("end_fsync") == "1"
	l.once = j.Get("time_based") != "1"
	if l.runtime, err = j.runtime(); err != nil {
		return l, err
	}
	if l.runtime == 0 {
		return refuse("it has no runtime")
	}
	if l.block < 1 || l.block > blockdev.MaxTransfer || l.depth < 1 || l.conns < 1 {
		return refuse("its bs, iodepth or numjobs is out of range")
	}
	return l, nil
}

// worker keeps one device loaded for the length of a run. One goroutine submits; it
// takes every request that has completed since it last looked as one batch.
type worker struct {
	load
	dev    blockdev.Device
	blocks int64 // requests that fit on the device
	rng    *rand.Rand
	start  time.Time
	slots  []*slot

	done completions

	next        int64 // next block of a sequential run
	sinceFlush  int64
	inFlight    int64
	ios         int64
	bytes       int64
	wrote       int64
	requests    Histogram // reads and writes
	flushes     Histogram
	slotCounts  map[int64]float64 // requests done per slot of the series
	err         error
	flushNeeded bool
}

// slot is one request that is used over and over.
type slot struct {
	req         blockdev.Request
	data        []byte
	begin, over time.Time
}

func newWorker(dev blockdev.Device, l load, seed uint64) (*worker, error) {
	w := &worker{
		load: l, dev: dev, blocks: dev.Size() / l.block,
		rng:      rand.New(rand.NewPCG(seed, 1)),
		requests: Histogram{}, flushes: Histogram{}, slotCounts: map[int64]float64{},
	}
	if w.blocks == 0 {
		return nil, fmt.Errorf("the export has %d bytes, less than one request of %d", dev.Size(), l.block)
	}
	w.done.init(int(l.depth))
	for range l.depth {
		w.slots = append(w.slots, w.newSlot())
	}
	return w, nil
}

// newSlot makes a slot with incompressible data.
func (w *worker) newSlot() *slot {
	s := &slot{data: make([]byte, w.block)}
	for b := 0; b+8 <= len(s.data); b += 8 {
		binary.LittleEndian.PutUint64(s.data[b:], w.rng.Uint64())
	}
	s.req.Done = func(*blockdev.Request) { s.over = time.Now(); w.done.push(s) }
	return s
}

// run loads the device from start until the run's time is over, the context ends or a
// request fails.
func (w *worker) run(ctx context.Context, start time.Time) error {
	w.start = start
	idle := append([]*slot(nil), w.slots...)
	batch := make([]*blockdev.Request, 0, w.depth)
	end := w.start.Add(w.runtime)
	for begun := false; ; begun = true {
		now := time.Now()
		late := begun && now.After(end) // a slow start must not be an empty run
		stop := w.err != nil || late || ctx.Err() != nil || w.passed()
		if stop && w.inFlight == 0 {
			break
		}
		if !stop {
			batch = batch[:0]
			for _, s := range idle {
				if w.passed() {
					break
				}
				w.prepare(s)
				s.begin = now
				batch = append(batch, &s.req)
			}
			w.inFlight += int64(len(batch))
			w.dev.Submit(batch)
		}
		idle = w.done.take(idle[:0])
		w.inFlight -= int64(len(idle))
		for _, s := range idle {
			w.account(s)
		}
	}
	if w.flushAtEnd && w.err == nil && ctx.Err() == nil {
		w.err = blockdev.Flush(w.dev)
	}
	if w.err == nil {
		w.err = ctx.Err()
	}
	return w.err
}

// passed tells whether a load that ends after one pass has asked for all of it.
func (w *worker) passed() bool { return w.once && w.next >= w.blocks }

// prepare makes the slot's request the next one of the load.
func (w *worker) prepare(s *slot) {
	r := &s.req
	r.Err, r.Flags = nil, 0
	if w.flushNeeded {
		w.flushNeeded = false
		r.Op, r.Off, r.Len, r.Data = blockdev.OpFlush, 0, 0, nil
		return
	}
	block := w.next % w.blocks
	w.next++
	if w.random {
		block = w.rng.Int64N(w.blocks)
	}
	r.Op, r.Off, r.Len, r.Data = blockdev.OpWrite, block*w.block, w.block, s.data
	if w.rng.Int64N(100) < w.readPercent {
		r.Op = blockdev.OpRead
		return
	}
	s.data[w.rng.Int64N(w.block)]++ // never the same bytes twice
	if w.sinceFlush++; w.flushEvery > 0 && w.sinceFlush >= w.flushEvery {
		w.sinceFlush, w.flushNeeded = 0, true
	}
}

// account counts a finished request.
func (w *worker) account(s *slot) {
	if s.req.Err != nil {
		if w.err == nil {
			w.err = fmt.Errorf("%s of %d bytes at %d: %w", s.req.Op, s.req.Len, s.req.Off, s.req.Err)
		}
		return
	}
	took := s.over.Sub(s.begin).Nanoseconds()
	if s.req.Op == blockdev.OpFlush {
		w.flushes.Add(took)
		return
	}
	w.requests.Add(took)
	w.ios++
	w.bytes += s.req.Len
	if s.req.Op == blockdev.OpWrite {
		w.wrote += s.req.Len
	}
	w.slotCounts[int64(s.over.Sub(w.start)/seriesWidth)]++
}

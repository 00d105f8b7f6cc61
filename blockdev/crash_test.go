package blockdev

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"blkd/internal/env/crashfs"
)

var (
	crashSeeds = flag.Int("crash.seeds", 2000, "how many seeded crash runs TestStoreCrash does")
	crashSeed  = flag.Uint64("crash.seed", 0, "run only this seed of TestStoreCrash, with a trace of its operations")
)

// TestStoreCrash runs a store on a file system that loses and tears what was not
// synced, cuts the power at a random operation, recovers, and checks that what
// is there is the state after a prefix of the operations, that the prefix holds
// everything that was flushed (all that was acknowledged, if only the process
// was killed), that no sector is torn and no checksum fails. Then it goes on
// from there. Seeds replay exactly: one goroutine, Manual mode.
func TestStoreCrash(t *testing.T) {
	if *crashSeed != 0 {
		if err := crashRun(*crashSeed, t.Logf); err != nil {
			t.Fatalf("seed %d: %v", *crashSeed, err)
		}
		return
	}
	if failed, err := crashHunt(uint64(*crashSeeds), storeRun); err != nil {
		t.Fatalf("seed %d: %v\nreplay: go test ./blockdev -run TestStoreCrash -crash.seed=%d -v", failed, err, failed)
	}
}

func storeRun(seed uint64) error { return crashRun(seed, nil) }

// crashHunt runs the seeds 1 to n and returns the lowest that fails.
func crashHunt(n uint64, run func(seed uint64) error) (failed uint64, err error) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // short-lived buffers, and many
	var next atomic.Uint64
	var mu sync.Mutex
	var wg sync.WaitGroup
	failed = n + 1
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1)
				mu.Lock()
				done := seed > n || seed > failed
				mu.Unlock()
				if done {
					return
				}
				if e := run(seed); e != nil {
					mu.Lock()
					if seed < failed {
						failed, err = seed, e
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return failed, err
}

// hot is the part of the volume that a run uses: chunks at the borders of map
// pages, and the volume's ragged end.
var hot = [][2]int64{{0, 4 * chunkBytes}, {54 * chunkBytes, 58 * chunkBytes}, {111 * chunkBytes, 113 * chunkBytes}, {127 * chunkBytes, crashVolume}}

const (
	crashVolume = 127*chunkBytes + 5*BlockSize + 1536
	sector      = 512
)

// crasher is one run: a store, and for each sector every value it was given
// since the state that is known to be durable.
type crasher struct {
	rng  *rand.Rand
	logf func(string, ...any)
	fs   *crashfs.FS
	s    *Store
	tag  uint64
	buf  []byte

	traced bool
	tight  bool // the disk may be full

	history map[int64][]version // by sector
	op      int                 // number of the operation under way, from 1
	acked   int                 // highest operation acknowledged
	flushed int                 // highest operation known durable
}

// version is what a sector holds from an operation on.
type version struct {
	op  int
	tag uint64
}

func crashRun(seed uint64, logf func(string, ...any)) error {
	c := &crasher{rng: rand.New(rand.NewPCG(seed, 77)), logf: logf, fs: crashfs.New(), history: map[int64][]version{}}
	if logf == nil {
		c.logf = func(string, ...any) {}
	}
	c.traced = logf != nil
	c.trace()
	err := CreateStore(c.options(), crashVolume)
	for round := 0; err == nil && round < 3; round++ {
		c.fs.FailAfter(1 + c.rng.Uint64N(120))
		if err = c.round(); err != nil {
			err = fmt.Errorf("round %d: %w", round, err)
		}
	}
	if err != nil {
		return err
	}
	return c.end()
}

func (c *crasher) trace() {
	if !c.traced {
		return
	}
	c.fs.SetTrace(func(e crashfs.Event) {
		c.logf("    %d %v %s off %d len %d %v", e.N, e.Op, e.Name, e.Off, e.Len, e.Err)
	})
}

func (c *crasher) options() StoreOptions {
	return StoreOptions{
		FS: c.fs, Dir: "/v", Volume: "v", LogBytes: MinLog, CacheBytes: 1, Manual: true,
		FailOnFull: true,
		Events: StoreEvents{
			BadBlock:  func(e *ChecksumError) { c.logf("bad block: %v", e) },
			Recovered: func(r Recovery) { c.logf("recovered: %+v", r) },
		},
	}
}

// round works until the power cut, crashes, and checks what is left.
func (c *crasher) round() error {
	err := c.open()
	for err == nil && !c.fs.Off() {
		err = c.step()
	}
	if err != nil && !c.fs.Off() {
		return err
	}
	killed := c.rng.IntN(4) == 0
	if killed {
		c.logf("process killed")
		c.fs.Kill()
		c.fs.SetBudget(-1)
	} else {
		c.logf("power lost; flushed up to %d, acknowledged up to %d", c.flushed, c.acked)
		c.fs = c.fs.Crash(c.rng.Uint64())
		c.fs.SetBudget(-1)
		c.trace()
	}
	floor := c.flushed
	if killed {
		floor = c.acked
	}
	if err := c.open(); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	if err := c.check(floor); err != nil {
		return err
	}
	c.s, c.tight = nil, false
	c.fs.Kill()
	return nil
}

func (c *crasher) open() error {
	s, err := OpenStore(c.options())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the volume is gone: %w", err)
	}
	c.s = s
	return err
}

// end closes in order and checks that nothing is lost.
func (c *crasher) end() error {
	if err := c.open(); err != nil {
		return err
	}
	for range 10 {
		if err := c.step(); err != nil {
			return err
		}
	}
	if err := c.s.Close(); err != nil {
		return err
	}
	if err := c.open(); err != nil {
		return err
	}
	return c.check(c.op)
}

// step does one operation.
func (c *crasher) step() error {
	switch n := c.rng.IntN(40); {
	case n < 2:
		return c.flush()
	case n == 2:
		c.logf("destage")
		err := c.s.Destage()
		c.s.giveBack(0)
		return c.tolerate(err)
	case n == 3:
		budget := int64(-1)
		if c.rng.IntN(3) == 0 {
			budget = int64(c.rng.IntN(2 << 20))
		}
		c.fs.SetBudget(budget)
		c.tight = budget >= 0
		return nil
	case n < 6 && !c.tight: // when some of a batch fail it is no prefix
		return c.batch()
	case n == 6 && c.rng.IntN(4) == 0:
		return c.reopen()
	default:
		r := c.request()
		return c.do([]*Request{r})
	}
}

// tolerate passes only errors that a store may not have.
func (c *crasher) tolerate(err error) error {
	if err == nil || c.fs.Off() || errors.Is(err, ErrNoSpace) {
		return nil
	}
	return err
}

func (c *crasher) reopen() error {
	c.logf("close, open")
	if err := c.s.Close(); err != nil {
		return c.tolerate(err)
	}
	c.flushed = c.op
	return c.tolerate(c.open())
}

func (c *crasher) flush() error {
	c.logf("flush")
	err := c.wait([]*Request{{Op: OpFlush}})
	if err == nil {
		c.flushed = c.op
	}
	return c.tolerate(err)
}

func (c *crasher) batch() error {
	var batch []*Request
	for range 2 + c.rng.IntN(4) {
		batch = append(batch, c.request())
	}
	return c.do(batch)
}

// request draws a mutation within the hot part.
func (c *crasher) request() *Request {
	area := hot[c.rng.IntN(len(hot))]
	unit := []int64{sector, sector, BlockSize, BlockSize, BlockSize, BlockSize, chunkBytes, chunkBytes}[c.rng.IntN(8)]
	span := (area[1] - area[0]) / unit
	if span == 0 {
		unit, span = sector, (area[1]-area[0])/sector
	}
	from := c.rng.Int64N(span)
	n := 1 + c.rng.Int64N(min(span-from, []int64{1, 2, 4, 20}[c.rng.IntN(4)]))
	r := &Request{Off: area[0] + from*unit, Len: n * unit}
	switch c.rng.IntN(10) {
	case 0:
		r.Op = OpTrim
	case 1:
		r.Op = OpWriteZeroes
		if c.rng.IntN(2) == 0 {
			r.Flags |= NoHole
		}
	default:
		r.Op = OpWrite
		r.Data = make([]byte, r.Len)
	}
	if c.rng.IntN(12) == 0 {
		r.Flags |= FUA
	}
	return r
}

// do submits mutations as one batch and records what they wrote. Each is an
// operation of its own: a crash may keep a prefix of the batch.
func (c *crasher) do(batch []*Request) error {
	fua := false
	for _, r := range batch {
		c.op++
		c.logf("op %d: %v %d+%d flags %d", c.op, r.Op, r.Off, r.Len, r.Flags)
		fua = fua || r.Flags&FUA != 0
		c.record(r)
	}
	err := c.wait(batch)
	switch {
	case err == nil:
		c.acked = c.op
		if fua && len(batch) == 1 {
			c.flushed = c.op // the log is one: what came before is durable too
		}
		return nil
	case c.fs.Off():
		return nil
	case errors.Is(err, ErrNoSpace):
		return c.adopt(batch)
	}
	return err
}

// record enters a mutation in the history, and fills in its data: every sector
// repeats a tag of its own.
func (c *crasher) record(r *Request) {
	for at := int64(0); at < r.Len; at += sector {
		tag := uint64(0)
		if r.Op == OpWrite {
			c.tag++
			tag = c.tag
			for i := int64(0); i < sector; i += 8 {
				binary.LittleEndian.PutUint64(r.Data[at+i:], tag)
			}
		}
		n := (r.Off + at) / sector
		c.history[n] = append(c.history[n], version{c.op, tag})
	}
}

// adopt takes what mutations that failed without a crash have left: some of
// their sectors may be written.
func (c *crasher) adopt(batch []*Request) error {
	for _, r := range batch {
		p := make([]byte, r.Len)
		if err := ReadAt(c.s, p, r.Off); err != nil {
			return c.tolerate(err)
		}
		for at := int64(0); at < r.Len; at += sector {
			n := (r.Off + at) / sector
			tag, err := sectorTag(p[at:at+sector], n)
			if err != nil {
				return err
			}
			h := c.history[n]
			for len(h) > 0 && h[len(h)-1].op > c.acked {
				h = h[:len(h)-1]
			}
			c.history[n] = append(h, version{c.op, tag})
		}
	}
	c.acked = c.op
	return nil
}

// wait submits a batch, drives the store until it is answered, and returns the
// first error.
func (c *crasher) wait(batch []*Request) error {
	done := 0
	for _, r := range batch {
		r.Done = func(*Request) { done++ }
	}
	c.s.Submit(batch)
	c.s.answerFlushes()
	if done != len(batch) {
		return fmt.Errorf("%d of %d requests answered", done, len(batch))
	}
	for _, r := range batch {
		if r.Err != nil {
			return r.Err
		}
	}
	return nil
}

func sectorTag(p []byte, n int64) (uint64, error) {
	tag := binary.LittleEndian.Uint64(p)
	for i := 8; i < sector; i += 8 {
		if t := binary.LittleEndian.Uint64(p[i:]); t != tag {
			return 0, fmt.Errorf("sector %d is torn: %d and %d", n, tag, t)
		}
	}
	return tag, nil
}

// check compares the volume with the history: is there an operation k, not
// before floor, such that every sector is as it was after k? (If k is behind
// floor it may be applied in part.) Then the history starts anew from there.
func (c *crasher) check(floor int) error {
	report, err := c.s.Verify(context.Background(), nil)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if report.BadTotal > 0 {
		return fmt.Errorf("%d bad blocks, the first: %w", report.BadTotal, report.Bad[0])
	}
	if err := c.checkAlloc(); err != nil {
		return err
	}
	fits := make([]int, c.op+3) // differences of how many sectors fit each k
	sectors := 0
	var newest version // for the message: the sector that rules out most
	for _, area := range hot {
		c.buf = slices.Grow(c.buf[:0], int(area[1]-area[0]))
		p := c.buf[:area[1]-area[0]]
		if err := ReadAt(c.s, p, area[0]); err != nil {
			return err
		}
		for at := int64(0); at < int64(len(p)); at += sector {
			n := (area[0] + at) / sector
			tag, err := sectorTag(p[at:at+sector], n)
			if err != nil {
				return err
			}
			if v, ok := c.fit(n, tag, floor, fits); !ok {
				return fmt.Errorf("sector %d (offset %d) holds tag %d, which it never had after operation %d: %v", n, n*sector, tag, floor, c.history[n])
			} else if v > newest.op {
				newest = version{v, tag}
			}
			sectors++
			c.history[n] = append(c.history[n][:0], version{0, tag})
		}
	}
	for k, sum := 0, 0; k <= c.op; k++ {
		sum += fits[k]
		if k >= floor && sum == sectors {
			c.op, c.acked, c.flushed = 0, 0, 0
			return nil
		}
	}
	return fmt.Errorf("the volume is not the state after any prefix of the operations %d to %d (newest found: %d)", floor, c.op, newest.op)
}

// fit marks in fits each k that explains the sector's tag, and returns the
// newest operation that wrote it.
func (c *crasher) fit(n int64, tag uint64, floor int, fits []int) (newest int, ok bool) {
	h := c.history[n]
	if len(h) == 0 || h[0].op > 0 {
		h = append([]version{{0, 0}}, h...)
	}
	last := -1 // end of the last marked interval: they may touch
	for i, v := range h {
		if v.tag != tag {
			continue
		}
		until := c.op
		if i+1 < len(h) {
			until = h[i+1].op - 1
			if h[i+1].op > floor {
				until++ // the next one may be applied in part
			}
		}
		from := max(v.op, last+1)
		if until < floor || until < from {
			continue
		}
		fits[from]++
		fits[until+1]--
		last, newest, ok = until, v.op, true
	}
	return newest, ok
}

// checkAlloc compares the allocation bits with the map: every chunk that the map
// refers to is mapped once, and no other is.
func (c *crasher) checkAlloc() error {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	owner := map[uint32]int64{}
	err := s.eachPage(0, crashVolume/chunkBytes+1, func(page, lo, hi int64) {
		p := s.maps.get(page)
		for chunk := lo; p != nil && chunk < hi; chunk++ {
			if phys := p.entry(int(chunk % pageChunks)).phys(); phys != 0 {
				if other, taken := owner[phys-1]; taken {
					panic(fmt.Sprintf("chunks %d and %d share place %d", other, chunk, phys-1))
				}
				owner[phys-1] = chunk
			}
		}
	})
	if err != nil {
		return err
	}
	mapped := 0
	for i := range s.alloc.pages.entries {
		p := s.alloc.pages.get(int64(i))
		for bit := 0; p != nil && bit < allocPerPage; bit++ {
			if p[pageHeader+bit/8]&(1<<(bit%8)) == 0 {
				continue
			}
			mapped++
			if _, ok := owner[uint32(i*allocPerPage+bit)]; !ok {
				return fmt.Errorf("place %d is marked as mapped, but no chunk refers to it", i*allocPerPage+bit)
			}
		}
	}
	if mapped != len(owner) || mapped != s.alloc.inUse {
		return fmt.Errorf("%d chunks are mapped, %d marked, %d counted", len(owner), mapped, s.alloc.inUse)
	}
	return nil
}

package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"blkd/internal/env/crashfs"
)

// TestCopyCrash fills a replica from another one while the volume goes on: it is
// reset, or rejoins with what it had when it left, entries and pieces of content
// come in turns, and the power is cut at any operation. A copy that was begun and not completed leaves an incomplete
// replica. A complete one holds the log as far as the copy reflects it, and what
// the other one holds.
func TestCopyCrash(t *testing.T) {
	if seed, err := crashHunt(uint64(*crashSeeds)/4, copyRun); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
}

const copyVolume = 3*pageSpan + 5*BlockSize + 1536

// copier is one run: a source that never fails, and a target whose file system
// does.
type copier struct {
	rng      *rand.Rand
	src, dst *Store
	log      []Entry // of the source
	fs       *crashfs.FS

	spoilt bool // the target was incomplete already
	reset  bool // when a Reset was called,
	empty  bool // and returned
	ending bool // Complete was called,
	whole  bool // and returned
	copied Seq  // the last entry when something was imported
	cursor int64
	away   bool // entries go to the source alone
	since  Seq  // of a Rejoin: what was changed behind this is copied; 0: all
	unsure bool // the crash came while a copy was begun: it may be that one or the one before
	begun  bool // a Reset has returned, ever
}

func copyRun(seed uint64) error {
	c := &copier{rng: rand.New(rand.NewPCG(seed, 11)), fs: crashfs.New()}
	var err error
	if c.src, err = c.create(crashfs.New()); err != nil {
		return err
	}
	if c.dst, err = c.create(c.fs); err != nil {
		return err
	}
	// What the target holds from before, of an older branch of the volume.
	for seq := range Seq(1 + c.rng.IntN(20)) {
		e := c.entry(seq + 1)
		if err := c.dst.Append([]Entry{e}); err != nil {
			return err
		}
	}
	_, last := c.dst.Last()
	if c.rng.IntN(3) == 0 { // come to where the unit of seqs changes in which changes are known
		for seq := Seq(1); seq < 1<<stampShift-Seq(c.rng.IntN(60)); seq++ {
			c.log = append(c.log, Entry{Gen: 1, Seq: seq, Kind: EntryMark})
		}
		if err := c.src.Append(c.log); err != nil {
			return err
		}
	}
	if err := errors.Join(c.dst.Commit(last), c.append(), c.append(), c.src.Commit(Seq(len(c.log))), c.dst.Destage(), c.dst.Sync()); err != nil {
		return err
	}
	old, err := c.dst.Digest(0, copyVolume/BlockSize*BlockSize)
	if err != nil {
		return err
	}
	for round := range 3 {
		c.fs.FailAfter(1 + c.rng.Uint64N(150))
		for err = nil; err == nil && !c.fs.Off(); {
			err = c.step()
		}
		if err == nil || c.fs.Off() {
			err = c.crash(old)
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	return nil
}

func (c *copier) create(fs *crashfs.FS) (*Store, error) {
	o := c.options(fs)
	if err := CreateStore(o, copyVolume); err != nil {
		return nil, err
	}
	return OpenStore(o)
}

func (c *copier) options(fs *crashfs.FS) StoreOptions {
	return StoreOptions{FS: fs, Dir: "/v", Volume: "v", LogBytes: 2 * MinLog, Manual: true, Replica: true}
}

func (c *copier) step() error {
	switch n := c.rng.IntN(12); {
	case !c.reset || n == 0 && c.rng.IntN(20) == 0 || c.away && n == 1:
		return c.begin()
	case c.whole && n == 0 && c.rng.IntN(3) == 0:
		c.away = true
		return nil
	case n == 0:
		return c.dst.Sync()
	case n == 1:
		return c.dst.Destage()
	case n < 5:
		return c.append()
	case n == 5:
		return c.commit()
	case c.whole:
		return c.cut()
	default:
		return c.piece()
	}
}

// begin resets the target to where the source's log ends.
func (c *copier) begin() error {
	if err := c.src.Commit(Seq(len(c.log))); err != nil {
		return err
	}
	gen, seq := c.src.Last()
	c.spoilt = c.dst.Incomplete()
	_, base, ok := c.dst.Base()
	if want := c.spoilt && c.since > 0 || !c.spoilt && c.dst.Committed() >= c.copied; ok != want && !c.unsure {
		return fmt.Errorf("the base is %d, %v; it should be %d", base, ok, c.since)
	}
	rejoin := c.begun && ok && c.rng.IntN(4) > 0
	if _, _, err := c.src.NextChange(base, 0); err != nil {
		return err
	}
	c.reset, c.empty, c.ending, c.whole, c.cursor, c.copied, c.away, c.unsure = true, false, false, false, 0, 0, false, false
	var err error
	if rejoin {
		c.since = base
		err = c.dst.Rejoin(gen, seq)
	} else {
		c.since = 0
		err = c.dst.Reset(gen, seq)
	}
	if c.empty = err == nil; c.empty {
		c.dst.Adopt(c.src.Sessions(seq))
	}
	c.begun = c.begun || c.empty
	return err
}

// entry draws an entry near the borders of map pages.
func (c *copier) entry(seq Seq) Entry {
	area := c.rng.Int64N(3) * pageSpan
	e := Entry{Gen: 1, Seq: seq, Kind: EntryWrite, Off: area + c.rng.Int64N(40)*BlockSize, Len: (1 + c.rng.Int64N(4)) * BlockSize}
	if c.rng.IntN(5) == 0 {
		e.Kind = EntryZero
	}
	switch c.rng.IntN(6) {
	case 0:
		return Entry{Gen: 1, Seq: seq, Kind: EntryMark}
	case 1, 2:
		e.Off, e.Len = area+c.rng.Int64N(3)*chunkBytes, chunkBytes
	}
	if e.Kind == EntryWrite {
		e.Data = bytes.Repeat([]byte{byte(1 + c.rng.IntN(255))}, int(e.Len))
	}
	e.Origin = originOf(&e)
	return e
}

// append adds entries to both; the target's may be behind the copy.
func (c *copier) append() error {
	if c.rng.IntN(4) == 0 {
		if err := c.src.Destage(); err != nil {
			return err
		}
	}
	for range 1 + c.rng.IntN(3) {
		e := c.entry(Seq(len(c.log) + 1))
		if err := c.src.Append([]Entry{e}); err != nil {
			return err
		}
		c.log = append(c.log, e)
		if !c.empty || c.away {
			continue
		}
		if err := c.dst.Append([]Entry{e}); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) commit() error {
	if !c.empty || c.away {
		return nil
	}
	done := c.src.Committed()
	seq := done + Seq(c.rng.IntN(len(c.log)-int(done)+1))
	err := c.src.Commit(seq)
	if c.rng.IntN(2) == 0 {
		err = errors.Join(err, c.dst.Commit(seq))
	}
	return err
}

// piece copies the next run of the source's data, or completes the copy. What it
// reads must not be under way: then the source commits it first.
func (c *copier) piece() error {
	if c.whole {
		return nil
	}
	off, n, err := c.src.NextData(c.cursor)
	n = min(n, (1+c.rng.Int64N(30))*BlockSize)
	if c.since > 0 {
		off, n, err = c.src.NextChange(c.since, c.cursor)
		n = min(n, (1+c.rng.Int64N(2))*chunkBytes)
	}
	if err != nil {
		return err
	}
	for _, e := range c.log[c.src.Committed():] {
		if e.Off < off+n && off < e.Off+e.Len {
			if err := c.src.Commit(Seq(len(c.log))); err != nil {
				return err
			}
			break
		}
	}
	if n == 0 {
		c.ending = true
		err := c.dst.Complete()
		c.whole = err == nil
		return err
	}
	p := make([]byte, n)
	if err := c.src.ReadCommitted(p, off); err != nil {
		return err
	}
	c.cursor, c.copied = off+n, Seq(len(c.log))
	if c.rng.IntN(8) == 0 { // what is there already does not shine through zeros
		if err := c.dst.Import(off, n, nil); err != nil {
			return err
		}
	}
	return c.dst.Import(off, n, p)
}

// cut cuts entries of a complete replica, now and then some that the copy has
// brought effects of.
func (c *copier) cut() error {
	commit := int(c.dst.Committed())
	if c.rng.IntN(3) > 0 || commit >= len(c.log) || c.away {
		return nil
	}
	seq := Seq(commit + c.rng.IntN(len(c.log)-commit))
	if err := c.src.Commit(seq); err != nil || c.src.Committed() > seq {
		return err
	}
	torn := seq < c.copied
	c.whole = !torn
	err := c.dst.Truncate(seq)
	if torn {
		c.since = 0 // there is no base then, also if a crash came
	}
	if c.fs.Off() {
		return err
	}
	if errors.Is(err, ErrIncomplete) != torn || c.dst.Incomplete() != torn {
		return fmt.Errorf("cut after %d of a copy that reflects %d: %w", seq, c.copied, err)
	}
	if torn {
		c.reset = false
		return c.begin()
	}
	c.log = c.log[:seq]
	return errors.Join(err, c.src.Truncate(seq))
}

// crash cuts the power, or kills the process, and checks what is left.
func (c *copier) crash(old uint64) error {
	if c.rng.IntN(4) == 0 {
		c.fs.Kill()
	} else {
		c.fs = c.fs.Crash(c.rng.Uint64())
	}
	var err error
	if c.dst, err = OpenStore(c.options(c.fs)); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	incomplete := c.dst.Incomplete()
	switch {
	case !c.reset && incomplete, c.whole && incomplete:
		err = errors.New("the replica is incomplete, but no copy was under way")
	case c.empty && !c.ending && !incomplete:
		err = errors.New("the replica is not incomplete, but its copy was not completed")
	case incomplete:
		err = c.checkVoid()
	case !c.empty && !c.begun:
		var got uint64
		if got, err = c.dst.Digest(0, copyVolume/BlockSize*BlockSize); err == nil && got != old {
			err = errors.New("the content from before has changed")
		}
	default:
		err = c.checkWhole()
	}
	c.unsure = incomplete && !c.empty
	c.reset = !incomplete && c.begun
	c.empty = c.reset
	c.whole, c.ending = c.reset, c.reset
	return err
}

// checkVoid checks that a copy that was broken off cannot go on.
func (c *copier) checkVoid() error {
	if err := c.dst.Import(0, BlockSize, make([]byte, BlockSize)); !errors.Is(err, ErrInvalid) {
		return fmt.Errorf("an import to a copy that was broken off: %w", err)
	}
	if err := c.dst.Complete(); !errors.Is(err, ErrIncomplete) {
		return fmt.Errorf("a copy that was broken off is completed: %w", err)
	}
	if _, n, err := c.dst.NextData(0); !c.empty && !c.spoilt && c.since == 0 && (n > 0 || err != nil) {
		return fmt.Errorf("a replica that was just emptied holds data, %w", err)
	}
	return nil
}

// checkWhole compares the target with the source, both at the end of the target's
// log. What is behind it, it gets again.
func (c *copier) checkWhole() error {
	_, last := c.dst.Last()
	if last < c.copied || int(last) > len(c.log) {
		return fmt.Errorf("the log ends at %d of %d, the copy reflects %d", last, len(c.log), c.copied)
	}
	if missing := c.log[last:]; len(missing) > 0 {
		if err := c.dst.Append(missing); err != nil {
			return err
		}
	}
	end := Seq(len(c.log))
	if err := errors.Join(c.src.Commit(end), c.dst.Commit(end)); err != nil {
		return err
	}
	if got, want := c.dst.Sessions(end).Append(nil), c.src.Sessions(end).Append(nil); !bytes.Equal(got, want) {
		return fmt.Errorf("the operations of the copy are\n%x, not\n%x", got, want)
	}
	const n = (copyVolume + BlockSize - 1) / BlockSize * BlockSize
	want, err := c.src.Digest(0, n)
	got, err2 := c.dst.Digest(0, n)
	if err := errors.Join(err, err2); err != nil || want != got {
		return fmt.Errorf("the copy differs, %w", err)
	}
	a, b := make([]byte, 48*BlockSize), make([]byte, 48*BlockSize)
	for area := range int64(3) {
		if err := errors.Join(c.src.ReadCommitted(a, area*pageSpan), c.dst.ReadCommitted(b, area*pageSpan)); err != nil || !bytes.Equal(a, b) {
			return fmt.Errorf("the copy is read differently, %w", err)
		}
	}
	return nil
}

package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"blkd/internal/env/crashfs"
)

// TestReplicaCrash drives a store as replication does: entries are appended,
// committed, cut off and appended again in a higher generation, with power
// losses between. After each the log must be a prefix of what was appended, not
// shorter than what was synced or committed and poured, with nothing that was
// cut, and the volume must be what that prefix makes of it.
func TestReplicaCrash(t *testing.T) {
	if seed, err := crashHunt(uint64(*crashSeeds)/2, replicaRun); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
}

// TestStagingCrash is TestReplicaCrash of a store without an image: entries are
// dropped, and whatever was not must be there.
func TestStagingCrash(t *testing.T) {
	if seed, err := crashHunt(uint64(*crashSeeds)/2, stagingRun); err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
}

const replicaVolume = 40 * BlockSize

type replicaRunner struct {
	rng    *rand.Rand
	fs     *crashfs.FS
	s      *Store
	log    []Entry // as the replica should hold it
	synced int     // entries known durable
	commit int
	keep   int
	gen    Generation

	staging bool
	dropped int // entries that may be gone

	logBytes int64
	high     uint64 // how far the log was ever written
}

func replicaRun(seed uint64) error { return runReplica(seed, false) }

func stagingRun(seed uint64) error { return runReplica(seed, true) }

func runReplica(seed uint64, staging bool) error {
	r := &replicaRunner{rng: rand.New(rand.NewPCG(seed, 5)), fs: crashfs.New(), gen: 1, logBytes: MinLog, staging: staging}
	if r.rng.IntN(2) == 0 {
		r.logBytes *= 4
	}
	if err := CreateStore(r.options(), replicaVolume); err != nil {
		return err
	}
	for round := range 4 {
		r.fs.FailAfter(1 + r.rng.Uint64N(60))
		if err := r.round(); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	return nil
}

func (r *replicaRunner) options() StoreOptions {
	return StoreOptions{FS: r.fs, Dir: "/v", Volume: "v", LogBytes: r.logBytes, Manual: true, Replica: true, Staging: r.staging, Elsewhere: elsewhere}
}

// elsewhere takes a range from the first byte of a block that is aside: what every third
// says is kept elsewhere.
func elsewhere(block []byte) (off, n int64) {
	if block[0]%3 != 0 {
		return 0, 0
	}
	return int64(block[0]%32) * BlockSize, int64(1+block[0]%8) * BlockSize
}

func (r *replicaRunner) round() error {
	var err error
	if r.s, err = OpenStore(r.options()); err == nil {
		if c := int(r.s.Committed()); c > r.commit {
			return fmt.Errorf("%d entries are committed after recovery, %d were before", c, r.commit)
		}
		r.commit = int(r.s.Committed())
	}
	for err == nil && !r.fs.Off() {
		if err = r.step(); err == nil {
			r.synced = max(r.synced, int(r.s.Durable()))
		}
	}
	if err != nil && !r.fs.Off() {
		return err
	}
	if r.rng.IntN(4) == 0 {
		r.fs.Kill()
	} else {
		r.fs = r.fs.Crash(r.rng.Uint64())
	}
	if r.s, err = OpenStore(r.options()); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	err = r.check()
	r.fs.Kill()
	return err
}

func (r *replicaRunner) step() error {
	switch n := r.rng.IntN(14); {
	case n == 12:
		r.keep = max(r.keep, r.rng.IntN(r.commit+1))
		r.s.Keep(Seq(r.keep))
		return nil
	case n == 13:
		return errors.Join(r.checkLog(), r.checkSessions())
	case n == 0:
		if err := r.s.Sync(); err != nil {
			return err
		}
		if d := int(r.s.Durable()); d != len(r.log) {
			return fmt.Errorf("synced: durable up to %d of %d", d, len(r.log))
		}
		return nil
	case n == 1 && r.staging:
		n := r.rng.IntN(r.commit + 1)
		r.dropped = max(r.dropped, n)
		return r.s.Drop(Seq(n))
	case n == 1:
		return r.s.Destage()
	case n < 5:
		return r.commitSome()
	case n < 7:
		return r.truncate()
	default:
		return r.append()
	}
}

func (r *replicaRunner) commitSome() error {
	n := r.commit + r.rng.IntN(len(r.log)-r.commit+1)
	if err := r.s.Commit(Seq(n)); err != nil {
		return err
	}
	r.commit = n
	return nil
}

func (r *replicaRunner) truncate() error {
	if r.commit > 0 {
		if err := r.s.Truncate(Seq(r.commit - 1)); !errors.Is(err, ErrInvalid) && !r.fs.Off() {
			return fmt.Errorf("cut a committed entry: %w", err)
		}
	}
	n := r.commit + r.rng.IntN(len(r.log)-r.commit+1)
	err := r.s.Truncate(Seq(n))
	if err != nil && !r.fs.Off() {
		return err
	}
	if err == nil {
		r.log, r.synced, r.gen = r.log[:n], min(r.synced, n), r.gen+1
	} else {
		r.synced = min(r.synced, n) // it may be cut, or not
	}
	return err
}

func (r *replicaRunner) append() error {
	var entries []Entry
	for range 1 + r.rng.IntN(3) {
		block := r.rng.Int64N(32)
		n := 1 + r.rng.Int64N(min(4, 32-block))
		if r.rng.IntN(4) == 0 {
			block, n = 16*r.rng.Int64N(2), 16
		}
		if r.staging && r.rng.IntN(6) == 0 {
			block, n = AsideOff/BlockSize, 1
		}
		e := Entry{Gen: r.gen, Seq: Seq(len(r.log) + len(entries) + 1), Kind: EntryWrite, Off: block * BlockSize, Len: n * BlockSize}
		switch r.rng.IntN(12) {
		case 0, 1:
			e.Kind = EntryZero
		case 2:
			e.Kind, e.Off, e.Len = EntryMark, 0, 0
		default:
			e.Data = bytes.Repeat([]byte{byte(r.rng.IntN(255) + 1)}, int(e.Len))
		}
		e.Origin = originOf(&e)
		entries = append(entries, e)
	}
	wrong := entries[0]
	wrong.Seq++
	if err := r.s.Append([]Entry{wrong}); !errors.Is(err, ErrNotNext) && !r.fs.Off() {
		return fmt.Errorf("an entry out of order: %w", err)
	}
	err := r.s.Append(entries)
	if errors.Is(err, ErrNoSpace) { // the log is full of what is not committed
		_, last := r.s.Last()
		entries, err = entries[:int(last)-len(r.log)], nil
	}
	r.log = append(r.log, entries...) // after a failure: some of them, maybe
	r.high = max(r.high, r.s.log.head)
	return err
}

// originOf makes operations of several clients of some entries, of which some go on
// in another one that never comes.
func originOf(e *Entry) Origin {
	if e.Kind == EntryMark || e.Seq%7 == 0 {
		return Origin{}
	}
	return Origin{Client: uint64(1 + e.Seq%3), Session: uint64(1 + e.Gen/3), Op: uint64(e.Seq), More: e.Seq%5 == 0}
}

// sessionsOf are the operations that entries are of.
func sessionsOf(log []Entry) *Sessions {
	t := new(Sessions)
	for i := range log {
		t.Add(log[i].Origin, log[i].Seq, log[i].Off+log[i].Len)
	}
	return t
}

// checkSessions compares the operations that the store knows with those of the log.
func (r *replicaRunner) checkSessions() error {
	least := r.commit
	if r.staging {
		least = min(least, r.dropped)
	}
	n := least + r.rng.IntN(len(r.log)-least+1)
	if got, want := r.s.Sessions(Seq(n)).Append(nil), sessionsOf(r.log[:n]).Append(nil); !bytes.Equal(got, want) {
		return fmt.Errorf("the operations up to entry %d of %d are\n%x, not\n%x", n, len(r.log), got, want)
	}
	return nil
}

// checkLog reads the log from a random entry on. What it returns is what was
// appended, and it may lack only what cannot be there any more.
func (r *replicaRunner) checkLog() error {
	for i, e := range r.log {
		if g, ok := r.s.GenAt(Seq(i + 1)); ok && g != e.Gen {
			return fmt.Errorf("entry %d has generation %d, not %d", e.Seq, e.Gen, g)
		}
	}
	after := r.rng.IntN(len(r.log) + 1)
	first := r.firstReadable()
	if r.rng.IntN(2) == 0 {
		after = max(after, first-1)
	}
	for next := after; ; {
		entries, err := r.s.ReadLog(Seq(next), 1+r.rng.IntN(300_000))
		if errors.Is(err, ErrTrimmed) && next+1 < first {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the log after %d of %d, %d kept, readable from %d: %w", next, len(r.log), r.keep, first, err)
		}
		if len(entries) == 0 && next < len(r.log) {
			return fmt.Errorf("the log ends at %d, not %d", next, len(r.log))
		}
		if len(entries) == 0 {
			return nil
		}
		for _, e := range entries {
			if want := r.log[next]; !reflect.DeepEqual(e, want) {
				return fmt.Errorf("entry (%d, %d) of kind %d is read as (%d, %d) of kind %d", want.Gen, want.Seq, want.Kind, e.Gen, e.Seq, e.Kind)
			}
			if g, ok := r.s.GenAt(e.Seq); !ok || g != e.Gen {
				return fmt.Errorf("entry %d has generation %d, not %d (%v)", e.Seq, e.Gen, g, ok)
			}
			next++
		}
	}
}

// firstReadable is the first entry that must be readable: it is not committed, or
// a member may lack it and neither the ring nor the room for payloads has come
// round since. A crash may take a quarter of the ring.
func (r *replicaRunner) firstReadable() int {
	const skip = 68 << 10 // of the lap that is unused, at most
	bytes := int64(r.high-r.s.log.head) + skip
	chunks := int64(0)
	for n := len(r.log); n > 0; n-- {
		e := &r.log[n-1]
		bytes += recHeader + originBytes + e.Len/BlockSize*(4+BlockSize)
		if e.Kind == EntryWrite && e.Len == chunkBytes {
			chunks++
		}
		if n <= r.commit && (!r.staging || n <= r.dropped) && (n <= r.keep || bytes > r.logBytes*3/4 || chunks > r.logBytes/chunkBytes) {
			return n + 1
		}
	}
	return 1
}

// check compares what recovery found with the log, and goes on from there.
func (r *replicaRunner) check() error {
	gen, seq := r.s.Last()
	n := int(seq)
	if n > len(r.log) || n < r.synced {
		return fmt.Errorf("the log ends at %d; appended %d, synced %d", n, len(r.log), r.synced)
	}
	if n > 0 && r.log[n-1].Gen != gen {
		return fmt.Errorf("entry %d has generation %d, appended in %d: it was cut", n, gen, r.log[n-1].Gen)
	}
	if d := int(r.s.Durable()); d != n {
		return fmt.Errorf("opened: durable up to %d of %d", d, n)
	}
	r.log = r.log[:n]
	if err := r.checkLog(); err != nil {
		return err
	}
	if err := r.s.Commit(seq); err != nil {
		return err
	}
	r.commit = n
	if err := r.checkSessions(); err != nil {
		return err
	}
	if r.staging {
		err := r.checkStaged()
		r.synced = n
		return errors.Join(err, r.s.Sync())
	}
	want := make([]byte, replicaVolume)
	for _, e := range r.log[:n] {
		clear(want[e.Off : e.Off+e.Len])
		copy(want[e.Off:], e.Data)
	}
	got := make([]byte, replicaVolume)
	if err := ReadAt(r.s, got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("the volume is not what the first %d entries make of it", n)
	}
	r.synced = n
	return r.s.Sync()
}

// TestMarkGrows: a mark makes a replica larger, for good, also if it is cut off; what
// lies beyond the old end can follow it at once; and a log that is read tells it.
func TestMarkGrows(t *testing.T) {
	const grown = 2*pageSpan + 512
	s, o := newReplica(t, StoreOptions{LogBytes: 1 << 20, Manual: true}, pageSpan)
	beyond := Entry{Gen: 1, Seq: 2, Kind: EntryWrite, Off: pageSpan, Len: BlockSize, Data: bytes.Repeat([]byte{7}, BlockSize)}
	if err := s.Append([]Entry{{Gen: 1, Seq: 1, Kind: EntryMark, Off: grown}, beyond}); err != nil {
		t.Fatal(err)
	}
	log, err := s.ReadLog(0, 1<<20)
	if err != nil || len(log) != 2 || log[0].Kind != EntryMark || log[0].Off != grown {
		t.Fatalf("the log says %+v, %v", log, err)
	}
	for _, bad := range []int64{grown + 1, MaxVolume + 512} {
		if err := s.Append([]Entry{{Gen: 1, Seq: 3, Kind: EntryMark, Off: bad}}); !errors.Is(err, ErrInvalid) {
			t.Errorf("a mark with size %d: %v", bad, err)
		}
	}
	check(t, s.Commit(2), s.Append([]Entry{{Gen: 1, Seq: 3, Kind: EntryMark, Off: 3 * pageSpan}}), s.Truncate(2))
	if got := s.Size(); got != 3*pageSpan {
		t.Errorf("%d bytes after a mark was cut off", got)
	}
	check(t, s.Close())
	again, err := OpenStore(o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	got := make([]byte, BlockSize)
	if err := ReadAt(again, got, pageSpan); err != nil || !bytes.Equal(got, beyond.Data) || again.Size() != 3*pageSpan {
		t.Errorf("%d bytes, read %v, %v", again.Size(), got[:4], err)
	}
}

// checkStaged compares what a staging store holds with the log: of each block, what
// the last entry that was not dropped has made of it.
func (r *replicaRunner) checkStaged() error {
	const aside, superseded = replicaVolume, -1 // its place here; in last: kept elsewhere
	want, last := make([]byte, aside+BlockSize), map[int64]int{}
	for i, e := range r.log {
		off := min(e.Off, aside)
		clear(want[off : off+e.Len])
		copy(want[off:], e.Data)
		for b := off / BlockSize; b < (off+e.Len)/BlockSize; b++ {
			last[b] = i + 1
		}
		if e.Off == AsideOff && e.Kind == EntryWrite {
			off, n := elsewhere(e.Data)
			for b := off / BlockSize; b < (off+n)/BlockSize; b++ {
				last[b] = superseded
			}
		}
	}
	got, held := make([]byte, len(want)), map[int64]bool{}
	for b := range int64(len(want) / BlockSize) {
		held[b] = true
	}
	missing := func(off, n int64) {
		for off = min(off, aside); n > 0; off, n = off+BlockSize, n-BlockSize {
			held[off/BlockSize] = false
		}
	}
	err := errors.Join(r.s.ReadStaged(got[:aside], 0, missing), r.s.ReadStaged(got[aside:], AsideOff, missing))
	for b := range int64(len(want) / BlockSize) {
		at := b * BlockSize
		switch {
		case err != nil:
		case held[b] && last[b] == superseded:
			err = fmt.Errorf("block %d is shown, and kept elsewhere", b)
		case !held[b] && last[b] > r.dropped:
			err = fmt.Errorf("block %d of entry %d is gone, dropped were the first %d", b, last[b], r.dropped)
		case held[b] && !bytes.Equal(got[at:at+BlockSize], want[at:at+BlockSize]):
			err = fmt.Errorf("block %d is not what entry %d made of it", b, last[b])
		}
	}
	upto, blocks, ok := r.s.Staged(3, Seq(len(r.log)))
	if err == nil && ok && (upto == 0 || int(upto) > len(r.log) || len(blocks) > 3+16) {
		err = fmt.Errorf("the oldest entries up to %d have blocks %v", upto, blocks)
	}
	for _, b := range blocks {
		if !held[min(b, aside/BlockSize)] {
			err = fmt.Errorf("block %d is staged, and not held", b)
		}
	}
	return err
}

// TestAside: the block of a staging store that is aside stays where it is while the
// volume grows, and no other store has it.
func TestAside(t *testing.T) {
	s, o := newReplica(t, StoreOptions{LogBytes: 1 << 20, Manual: true, Staging: true}, pageSpan)
	aside := func(seq Seq, b byte) Entry {
		return Entry{Gen: 1, Seq: seq, Kind: EntryWrite, Off: AsideOff, Len: BlockSize, Data: bytes.Repeat([]byte{b}, BlockSize)}
	}
	check(t, s.Append([]Entry{aside(1, 7), {Gen: 1, Seq: 2, Kind: EntryMark, Off: 3 * pageSpan}}), s.Commit(2))
	held := func(want byte) {
		t.Helper()
		got := make([]byte, BlockSize)
		err := s.ReadStaged(got, AsideOff, func(off, n int64) { t.Errorf("%d bytes at %d are missing", n, off) })
		if err != nil || got[0] != want {
			t.Errorf("read %d, %v", got[0], err)
		}
	}
	held(7)
	check(t, s.Append([]Entry{aside(3, 8)}), s.Commit(3), s.Drop(2))
	held(8)
	check(t, s.Close())
	again, err := OpenStore(o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	s.Store = again
	held(8)
	if got := s.Size(); got != 3*pageSpan {
		t.Errorf("%d bytes", got)
	}
	mirror, _ := newReplica(t, StoreOptions{LogBytes: 1 << 20, Manual: true}, pageSpan)
	defer mirror.Close()
	if err := mirror.Append([]Entry{aside(1, 7)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a store with an image: %v", err)
	}
}

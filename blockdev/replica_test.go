package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"blkd/internal/env/crashfs"
)

// TestReplicaCrash drives a store as replication does: entries are appended,
// committed, cut off and appended again in a higher generation, with power
// losses between. After each the log must be a prefix of what was appended, not
// shorter than what was synced or committed and poured, with nothing that was
// cut, and the volume must be what that prefix makes of it.
func TestReplicaCrash(t *testing.T) {
	if seed, err := crashHunt(uint64(*crashSeeds), replicaRun); err != nil {
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
	gen    Generation
}

func replicaRun(seed uint64) error {
	r := &replicaRunner{rng: rand.New(rand.NewPCG(seed, 5)), fs: crashfs.New(), gen: 1}
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
	return StoreOptions{FS: r.fs, Dir: "/v", Volume: "v", LogBytes: MinLog, Manual: true, Replica: true}
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
		err = r.step()
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
	switch n := r.rng.IntN(12); {
	case n == 0:
		if err := r.s.Sync(); err != nil {
			return err
		}
		r.synced = len(r.log)
		return nil
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
		e := Entry{Gen: r.gen, Seq: Seq(len(r.log) + len(entries) + 1), Kind: EntryWrite, Off: block * BlockSize, Len: n * BlockSize}
		if r.rng.IntN(6) == 0 {
			e.Kind = EntryZero
		} else {
			e.Data = bytes.Repeat([]byte{byte(r.rng.IntN(255) + 1)}, int(e.Len))
		}
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
	return err
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
	if err := r.s.Commit(seq); err != nil {
		return err
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
	r.log, r.synced, r.commit = r.log[:n], n, n
	return r.s.Sync()
}

package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"blkd/blockdev"
	"blkd/internal/erasure"
	"blkd/internal/mutant"
)

// Staging is the log of an erasure-coded volume: what is committed stays in it until
// it lies in the shards. It is a *blockdev.Store in staging mode, whose methods tell
// what they promise. The block at blockdev.AsideOff holds the newest decision (see
// [Coded]).
type Staging interface {
	Replica
	Sync() error
	ReadStaged(p []byte, off int64, missing func(off, n int64)) error
	StagedBlocks(off, n int64, f func(block int64, zero bool)) error
	Staged(most int) (upto Seq, blocks []int64, ok bool)
	Drop(Seq) error
	LogUsed() (used, size int64)
}

// Shard is the shard of one member: a *blockdev.Store in replica mode, whose log has
// the batches as its entries: those of one batch have its number as their generation,
// and the last of them is a mark.
type Shard interface {
	Append([]blockdev.Entry) error
	Sync() error
	Commit(Seq) error
	Truncate(Seq) error
	Last() (Generation, Seq)
	Committed() Seq
	GenAt(Seq) (Generation, bool)
	ReadLog(after Seq, maxBytes int) ([]blockdev.Entry, error)
	ReadCommitted(p []byte, off int64) error
	Extents(off, n int64, emit func(blockdev.Extent) bool) error
	Import(off, n int64, data []byte) error
	Reset(gen Generation, seq Seq) error
	Complete() error
	Incomplete() bool
	// How they bring content level by what has changed is told at Rejoiner.
	Base() (Generation, Seq, bool)
	Rejoin(gen Generation, seq Seq) error
	NextChange(since Seq, off int64) (start, n int64, err error)
	Size() int64
	Resize(size int64) error
}

// A blockdev.Store is each of them.
var (
	_ Staging = (*blockdev.Store)(nil)
	_ Shard   = (*blockdev.Store)(nil)
)

// StripeUnit is how many bytes of a volume in a row lie in one shard: a chunk of a
// store, so that whole stripes are stored without a detour.
const StripeUnit = 64 << 10

// batchID numbers a batch of a volume: it rises over all generations, and no two
// generations have one in common.
type batchID uint64

func newBatchID(g Generation, n uint32) batchID {
	if mutant.On(mutant.ReplicaReuseBatch) {
		g = 1
	}
	return batchID(uint64(g)<<32 | uint64(n))
}

// decision is an entry of the log: when it is committed, so is a batch, on every
// shard; and what the log holds up to the entry upto is in the shards.
type decision struct {
	seq   Seq
	batch batchID
	upto  Seq
}

const decisionMagic = 0x47545344 // "DSTG"

// encode makes the block that a decision is in the log.
func (d *decision) encode() []byte {
	b := make([]byte, blockSize)
	binary.LittleEndian.PutUint32(b, decisionMagic)
	binary.LittleEndian.PutUint64(b[8:], uint64(d.batch))
	binary.LittleEndian.PutUint64(b[16:], uint64(d.upto))
	return b
}

func decodeDecision(seq Seq, b []byte) (d decision, err error) {
	if len(b) != blockSize || binary.LittleEndian.Uint32(b) != decisionMagic {
		return d, errors.New("the log has a decision about a batch that is none")
	}
	return decision{seq, batchID(binary.LittleEndian.Uint64(b[8:])), Seq(binary.LittleEndian.Uint64(b[16:]))}, nil
}

// Coded is a member of an erasure-coded volume: its log, which every member has
// whole, and its shard. As a [Replica] it is the log; what the log decides about
// batches it does to the shard:
//
//	        PREPARE(d)              the decision about d is committed here
//	(none) ────────────► prepared ─────────────────────────────────────► current
//	   ▲                    │ PREPARE of another batch: d was never decided
//	   └────────────────────┘
//
// A batch is prepared when all of it is durable in the shard's log; until it is
// decided, reads see the batch before. The decision is an entry of the volume's log,
// so there is nothing else to recover from, and nobody to ask.
type Coded struct {
	Staging
	shard Shard
	code  *erasure.Code
	unit  int64        // bytes of the volume in a row that lie in one shard
	least atomic.Int64 // bytes of the smallest log of another member that has to hold what this one has; 0: not known

	writing sync.Mutex // one writer of the shard at a time

	mu       sync.Mutex
	pending  []decision // in the log, not committed
	decided  decision   // the newest that is committed
	current  batchID    // of the shard
	prepared decision   // batch, and as seq where it ends in the shard's log
	dropping bool
	dropped  Seq
	begin    batchID // what the next copy of the shard begins with
	points   []shardPoint
}

// NewCoded opens a member of a volume, which is as large as its log says, of which unit
// bytes in a row lie in one shard, and does to its shard what the log has decided.
func NewCoded(log Staging, shard Shard, code *erasure.Code, unit int64) (*Coded, error) {
	d := &Coded{Staging: log, shard: shard, code: code, unit: unit}
	if err := errors.Join(d.makeRoom(log.Size()), d.recover()); err != nil {
		return nil, err
	}
	return d, d.follow()
}

// ShardSize is how many bytes a shard of a volume has, of k data shards.
func ShardSize(size int64, k int) int64 { return shardSize(size, k, StripeUnit) }

func shardSize(size int64, k int, unit int64) int64 {
	stripe := int64(k) * unit
	return (size + stripe - 1) / stripe * unit
}

// recover finds the decisions in the log, and the batch that waits for one.
func (d *Coded) recover() error {
	block, held := make([]byte, blockSize), true
	if err := d.ReadStaged(block, blockdev.AsideOff, func(_, _ int64) { held = false }); err != nil {
		return err
	}
	if held {
		var err error
		if d.decided, err = decodeDecision(d.Staging.Committed(), block); err != nil {
			return err
		}
	}
	for after, last := d.Staging.Committed(), Seq(0); ; after = last {
		entries, err := d.ReadLog(after, 8<<20)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			break
		}
		if err := d.note(entries); err != nil {
			return err
		}
		last = entries[len(entries)-1].Seq
	}
	commit := d.shard.Committed()
	gen, _ := d.shard.GenAt(commit)
	d.current = batchID(gen)
	d.remember(commit)
	gen, last := d.shard.Last()
	if last <= commit {
		return nil
	}
	tail, err := d.shard.ReadLog(last-1, 1)
	if err != nil {
		return err
	}
	if len(tail) > 0 && tail[0].Kind == blockdev.EntryMark {
		// The process may have ended before it was synced.
		if !mutant.On(mutant.ReplicaPreparedVolatile) {
			if err := d.shard.Sync(); err != nil {
				return err
			}
		}
		d.prepared = decision{batch: batchID(gen), seq: last}
		if mutant.On(mutant.ReplicaNewestBatch) {
			d.decided.batch = batchID(gen)
		}
	}
	return nil
}

// note remembers the decisions among entries that were appended.
func (d *Coded) note(entries []blockdev.Entry) error {
	for i := range entries {
		if e := &entries[i]; e.Kind == blockdev.EntryWrite && e.Off == blockdev.AsideOff {
			x, err := decodeDecision(e.Seq, e.Data)
			if err != nil {
				return err
			}
			d.pending = append(d.pending, x)
		}
	}
	return nil
}

// follow makes the shard what the log has committed.
func (d *Coded) follow() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	commit := d.Staging.Committed()
	for len(d.pending) > 0 && d.pending[0].seq <= commit {
		d.decided = d.pending[0]
		d.pending = d.pending[1:]
		if err := d.makeCurrent(); err != nil {
			return err
		}
	}
	return d.makeCurrent()
}

// makeCurrent does what is decided. It holds mu.
func (d *Coded) makeCurrent() error {
	switch {
	case d.decided.batch <= d.current || d.shard.Incomplete() && d.prepared.batch != d.decided.batch:
		return nil
	case d.prepared.batch != d.decided.batch:
		return fmt.Errorf("the log has committed batch %x of the shards, and this one has batch %x: %w", uint64(d.decided.batch), uint64(d.current), blockdev.ErrIncomplete)
	}
	if err := d.shard.Commit(d.prepared.seq); err != nil {
		return err
	}
	end := d.prepared.seq
	d.current, d.prepared = d.decided.batch, decision{}
	d.remember(end)
	return nil
}

// Append implements Replica. A mark that makes the volume larger finds the shard made
// larger before.
func (d *Coded) Append(entries []blockdev.Entry) error {
	for i := range entries {
		if e := &entries[i]; e.Kind == entryMark && e.Off > d.Size() {
			if err := d.makeRoom(e.Off); err != nil {
				return err
			}
		}
	}
	if err := d.Staging.Append(entries); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.note(entries)
}

// Commit implements Replica. A batch that becomes decided is current when it returns.
func (d *Coded) Commit(seq Seq) error {
	return errors.Join(d.Staging.Commit(seq), d.follow())
}

// Truncate implements Replica.
func (d *Coded) Truncate(seq Seq) error {
	d.mu.Lock()
	for len(d.pending) > 0 && d.pending[len(d.pending)-1].seq > seq {
		d.pending = d.pending[:len(d.pending)-1]
	}
	d.mu.Unlock()
	return d.Staging.Truncate(seq)
}

// Reset implements Replica: log and shard are empty, and incomplete.
func (d *Coded) Reset(gen Generation, seq Seq) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending, d.decided, d.prepared, d.dropped = nil, decision{}, decision{}, 0
	d.current, d.points = d.begin, nil
	d.remember(1)
	// The shard first: it is what makes the member incomplete.
	return errors.Join(d.shard.Reset(Generation(d.begin), 1), d.Staging.Reset(gen, seq))
}

// keepShard is where a RESET says up to which entry content is kept: the shard is, and
// only the log begins anew.
const keepShard Seq = 1

// resetLog is a Reset that keeps the shard, which has the batch of beginWith.
func (d *Coded) resetLog(gen Generation, seq Seq) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending, d.decided, d.dropped = nil, decision{seq: seq, batch: d.begin, upto: seq}, seq
	return errors.Join(d.Staging.Reset(gen, seq), d.makeCurrent())
}

// beginWith says which batch content that the next Reset makes room for is of.
func (d *Coded) beginWith(b batchID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begin = b
}

// Import implements Replica: off is that of the shard.
func (d *Coded) Import(off, n int64, data []byte) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	return d.shard.Import(off, n, data)
}

// Complete implements Replica.
func (d *Coded) Complete() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	return errors.Join(d.Staging.Complete(), d.shard.Complete())
}

// Incomplete implements Replica.
func (d *Coded) Incomplete() bool { return d.Staging.Incomplete() || d.shard.Incomplete() }

// prepare stores a batch beside what the shard has, durably.
func (d *Coded) prepare(b batchID, entries []blockdev.Entry) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.mu.Lock()
	known := b == d.prepared.batch || b <= d.current
	d.mu.Unlock()
	if known {
		return nil // it is asked for again
	}
	if err := d.shard.Truncate(d.shard.Committed()); err != nil {
		return err
	}
	_, seq := d.shard.Last()
	for i := range entries {
		seq++
		entries[i].Gen, entries[i].Seq = Generation(b), seq
	}
	entries = append(entries, blockdev.Entry{Gen: Generation(b), Seq: seq + 1, Kind: blockdev.EntryMark})
	if err := errors.Join(d.shard.Append(entries), d.shard.Sync()); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.prepared = decision{batch: b, seq: seq + 1}
	return nil
}

// readShard fills p with ranges of the shard, one after the other, all of one batch,
// and tells which that is.
func (d *Coded) readShard(p []byte, at []missingRange) (batchID, error) {
	for {
		before, rest := d.batch(), p
		for _, r := range at {
			if err := d.shard.ReadCommitted(rest[:r.n], r.off); err != nil {
				return 0, err
			}
			rest = rest[r.n:]
		}
		if before == d.batch() {
			return before, nil
		}
	}
}

// batch is what the shard holds.
func (d *Coded) batch() batchID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current
}

// newest is the newest batch that the shard holds, decided or not.
func (d *Coded) newest() batchID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(d.current, d.prepared.batch)
}

// latest is the newest batch that is decided by what the log holds, but for one that
// is under way.
func (d *Coded) latest(but batchID) batchID {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := max(d.current, d.decided.batch)
	for _, x := range d.pending {
		if x.batch != but {
			b = max(b, x.batch)
		}
	}
	return b
}

// decision is the newest one that is committed.
func (d *Coded) decision() decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.decided
}

// toDrop is up to where the log may go now, once for each call of dropTo; 0: nothing.
func (d *Coded) toDrop() Seq {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dropping || d.decided.upto <= d.dropped || d.decided.batch > d.current {
		return 0
	}
	d.dropping = true
	return d.decided.upto
}

// dropTo lets the log up to seq go: it is in the shards.
func (d *Coded) dropTo(seq Seq) (err error) {
	d.writing.Lock() // keeps Reset away
	defer d.writing.Unlock()
	d.mu.Lock()
	valid := d.decided.upto >= seq
	d.mu.Unlock()
	if valid {
		err = d.Drop(seq)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dropping = false; valid {
		d.dropped = max(d.dropped, seq)
	}
	return err
}

// makeRoom makes the shard so large that it has its part of a volume of size bytes:
// stripes that were there stay where they are, and the others are zeros.
func (d *Coded) makeRoom(size int64) error {
	if need := shardSize(size, d.code.K(), d.unit); need > d.shard.Size() {
		return d.shard.Resize(need)
	}
	return nil
}

// Resize implements Replica.
func (d *Coded) Resize(size int64) error {
	if err := d.makeRoom(size); err != nil {
		return err
	}
	return d.Staging.Resize(size)
}

// Extents implements Disk. Nobody asks it: what is a hole, only all shards together know
// (see [Session.Extents]).
func (d *Coded) Extents(off, n int64, _ func(blockdev.Extent) bool) error {
	return fmt.Errorf("%w: extents of one shard's member", blockdev.ErrNotSupported)
}

// LogUsed implements Staging: no log is larger than the smallest that has to hold it. A
// member may have been made when the volume had another size.
func (d *Coded) LogUsed() (used, size int64) {
	used, size = d.Staging.LogUsed()
	if least := d.least.Load(); least > 0 {
		size = min(size, least)
	}
	return used, size
}

// crowded tells whether clients have to wait until more of the log is poured. Half of
// it is left to what is on its way, because members let it go later than the primary.
func (d *Coded) crowded() bool {
	used, size := d.LogUsed()
	return used > size/2
}

// place is where a byte of the volume lies: in which shard, and where in that.
func (d *Coded) place(off int64) (shard int, at int64) {
	unit, k := off/d.unit, int64(d.code.K())
	return int(unit % k), unit/k*d.unit + off%d.unit
}

// origin is the opposite of place.
func (d *Coded) origin(shard int, at int64) int64 {
	return (at/d.unit*int64(d.code.K())+int64(shard))*d.unit + at%d.unit
}

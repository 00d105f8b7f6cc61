package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"blkd/blockdev"
	"blkd/internal/erasure"
	"blkd/internal/mutant"
)

// Staging is the log of an erasure-coded volume: what is committed stays in it until
// it lies in the shards. It is a *blockdev.Store in staging mode, whose methods tell
// what they promise. The block at blockdev.AsideOff holds the newest decision (see
// [Coded]), and [Elsewhere] tells which range that supersedes.
type Staging interface {
	Replica
	Sync() error
	Durable() Seq
	ReadStaged(p []byte, off int64, missing func(off, n int64)) error
	StagedBlocks(off, n int64, f func(block int64, zero bool)) error
	Staged(most int, last Seq) (upto Seq, blocks []int64, ok bool)
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
// shard; and what the log holds up to the entry upto is in the shards. That of a large
// write is also the write: what the log has of n bytes from off, from before, is
// superseded by what the batch has brought into the shards.
type decision struct {
	seq    Seq
	batch  batchID
	upto   Seq
	off, n int64
}

const (
	decisionMagic = 0x47545344 // "DSTG"
	writtenMagic  = 0x57545344 // "DSTW": that of a large write, which has a range
)

// encode makes the block that a decision is in the log.
func (d *decision) encode() []byte {
	b := make([]byte, blockSize)
	binary.LittleEndian.PutUint32(b, decisionMagic)
	binary.LittleEndian.PutUint64(b[8:], uint64(d.batch))
	binary.LittleEndian.PutUint64(b[16:], uint64(d.upto))
	if d.n > 0 && !mutant.On(mutant.ReplicaShowSuperseded) {
		binary.LittleEndian.PutUint32(b, writtenMagic)
		binary.LittleEndian.PutUint64(b[24:], uint64(d.off))
		binary.LittleEndian.PutUint64(b[32:], uint64(d.n))
	}
	return b
}

func decodeDecision(seq Seq, b []byte) (d decision, err error) {
	if len(b) != blockSize {
		return d, fmt.Errorf("the log has a decision about a batch of %d bytes", len(b))
	}
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	d = decision{seq: seq, batch: batchID(u64(8)), upto: Seq(u64(16))}
	switch magic := binary.LittleEndian.Uint32(b); magic {
	case decisionMagic:
	case writtenMagic:
		if d.off, d.n = int64(u64(24)), int64(u64(32)); d.off < 0 || d.off%blockSize != 0 || d.n <= 0 || d.n%blockSize != 0 {
			return d, fmt.Errorf("the log has a decision about %d bytes at %d", d.n, d.off)
		}
	default:
		return d, fmt.Errorf("the log has a decision about a batch that is none, with magic %#08x", magic)
	}
	return d, nil
}

// Elsewhere tells which bytes a decision, the block that it is in the log, says are in
// the shards from then on, whatever the log had of them before; n is 0 if it says so of
// none. It is for blockdev.StoreOptions.
func Elsewhere(block []byte) (off, n int64) {
	d, err := decodeDecision(0, block)
	if err != nil {
		return 0, 0 // whoever follows the log refuses it
	}
	return d.off, d.n
}

// Coded is a member of an erasure-coded volume: its log, which every member has
// whole, and its shard. As a [Replica] it is the log; what the log decides about
// batches it does to the shard:
//
//	          PREPARE(d)          sync           the decision about d is committed, and durable here
//	(none) ──────────────► stored ──────► prepared ────────────────────────────────────────► current
//	   ▲                      │               │ PREPARE of a batch that follows one before d: d was given up
//	   └──────────────────────┴───────────────┘
//
// Batches form a chain: each follows another one, and is stored behind that. A batch is
// prepared when all of it is durable in the shard's log, with all that it follows; until
// it is decided, reads see the batch before. The decision is an entry of the volume's
// log, so there is nothing else to recover from, and nobody to ask. It is done to the
// shard when it is durable in this member's log: what is current cannot be taken back,
// so the best log must have it, whatever loses power.
type Coded struct {
	Staging
	shard Shard
	code  *erasure.Code
	unit  int64        // bytes of the volume in a row that lie in one shard
	least atomic.Int64 // bytes of the smallest log of another member that has to hold what this one has; 0: not known

	writing sync.Mutex // one writer of the shard at a time

	mu       sync.Mutex
	pending  []decision // in the log, not done to the shard
	decided  decision   // the newest that is committed
	current  batchID    // of the shard
	prepared []part     // behind that, in order
	stored   []part     // behind these, not known to be durable
	poured   Seq        // the log up to here is in what is current
	dropping bool
	dropped  Seq
	begin    batchID // what the next copy of the shard begins with
	points   []part  // which batches were current
}

// part is a batch in a shard's log, which ends at the entry end.
type part struct {
	batch batchID
	end   Seq
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
	if err := d.findParts(commit); err != nil {
		return err
	}
	if mutant.On(mutant.ReplicaNewestBatch) {
		d.decided.batch = d.newest()
	}
	return d.do(d.decided)
}

// findParts finds the batches that wait for a decision: those that are whole.
func (d *Coded) findParts(commit Seq) error {
	_, last := d.shard.Last()
	for seq := commit + 1; seq <= last; seq++ {
		gen, _ := d.shard.GenAt(seq)
		if seq < last {
			if next, _ := d.shard.GenAt(seq + 1); next == gen {
				continue
			}
		}
		tail, err := d.shard.ReadLog(seq-1, 1)
		if err != nil {
			return err
		}
		if len(tail) == 0 || tail[0].Kind != blockdev.EntryMark {
			break
		}
		d.prepared = append(d.prepared, part{batchID(gen), seq})
	}
	if len(d.prepared) == 0 || mutant.On(mutant.ReplicaPreparedVolatile) {
		return nil
	}
	return d.shard.Sync() // the process may have ended before it was
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

// follow does to the shard what the log has committed, as far as that is durable.
func (d *Coded) follow() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	commit := d.Staging.Committed()
	for _, x := range d.pending {
		if x.seq <= commit {
			d.decided = x
		}
	}
	if !mutant.On(mutant.ReplicaCurrentVolatile) {
		commit = min(commit, d.Staging.Durable())
	}
	for len(d.pending) > 0 && d.pending[0].seq <= commit {
		if err := d.do(d.pending[0]); err != nil {
			return err
		}
		d.pending = d.pending[1:]
	}
	return nil
}

// do does to the shard what is decided. It holds mu.
func (d *Coded) do(x decision) error {
	if x.batch > d.current {
		i := slices.IndexFunc(d.prepared, func(p part) bool { return p.batch == x.batch })
		switch {
		case i < 0 && d.shard.Incomplete():
			return nil
		case i < 0:
			return fmt.Errorf("the log has committed batch %x of the shards, and this one has batch %x: %w", uint64(x.batch), uint64(d.current), blockdev.ErrIncomplete)
		}
		if err := d.shard.Commit(d.prepared[i].end); err != nil {
			return err
		}
		for _, p := range d.prepared[:i+1] {
			d.current = p.batch
			d.remember(p.end)
		}
		d.prepared = d.prepared[i+1:]
	}
	d.poured = max(d.poured, x.upto)
	return nil
}

// unsettled tells whether something is decided that is not done to the shard, because
// it is not known to be durable, and whether that lets the log go.
func (d *Coded) unsettled() (some, room bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	some = len(d.pending) > 0 && d.pending[0].seq <= d.decided.seq
	return some, some && d.decided.upto > d.poured
}

// settle does to the shard all that is decided. It may wait for a sync.
func (d *Coded) settle() error {
	if some, _ := d.unsettled(); !some {
		return nil
	}
	if err := d.Staging.Sync(); err != nil {
		return err
	}
	return d.follow()
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

// Commit implements Replica.
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
	d.forget()
	d.remember(1)
	// The shard first: it is what makes the member incomplete.
	return errors.Join(d.shard.Reset(Generation(d.begin), 1), d.Staging.Reset(gen, seq))
}

// forget begins anew, with a shard of the batch of beginWith. It holds mu.
func (d *Coded) forget() {
	d.pending, d.decided, d.prepared, d.stored, d.points = nil, decision{}, nil, nil, nil
	d.poured, d.dropped, d.current = 0, 0, d.begin
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
	d.pending, d.decided, d.poured, d.dropped = nil, decision{seq: seq, batch: d.begin, upto: seq}, seq, seq
	return errors.Join(d.Staging.Reset(gen, seq), d.do(d.decided))
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

// prepare stores a batch beside what the shard has, behind the one that it follows. What
// else is there was given up, and is cut off. It is false if the one that it follows is
// not there. The next syncParts makes it durable.
func (d *Coded) prepare(prev, b batchID, entries []blockdev.Entry) (ok bool, err error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	seq, known, err := d.behind(prev, b)
	if known || seq == nowhere || err != nil {
		return known, err
	}
	if err := d.shard.Truncate(seq); err != nil {
		return false, err
	}
	for i := range entries {
		seq++
		entries[i].Gen, entries[i].Seq = Generation(b), seq
	}
	seq++
	entries = append(entries, blockdev.Entry{Gen: Generation(b), Seq: seq, Kind: blockdev.EntryMark})
	if err := d.shard.Append(entries); err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stored = append(d.stored, part{b, seq})
	return true, nil
}

// nowhere is where a batch ends that is not there.
const nowhere = ^Seq(0)

// behind finds where batch prev ends in the shard's log, for b to follow it, and forgets
// what is stored there; if b is there already, it is known.
func (d *Coded) behind(prev, b batchID) (end Seq, known bool, err error) {
	if prev == 0 { // of a primary that has no chain, or of the first batch
		if err := d.settle(); err != nil {
			return 0, false, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	beside := slices.Concat(d.prepared, d.stored)
	if b <= d.current || slices.ContainsFunc(beside, func(p part) bool { return p.batch == b }) {
		return 0, true, nil // it is asked for again
	}
	i := slices.IndexFunc(beside, func(p part) bool { return p.batch == prev })
	switch {
	case mutant.On(mutant.ReplicaChainAny):
		i = len(beside) - 1
		_, end = d.shard.Last()
	case i >= 0:
		end = beside[i].end
	case prev == d.current || prev == 0:
		end = d.shard.Committed()
	default:
		return nowhere, false, nil
	}
	for _, p := range beside[i+1:] {
		j := slices.IndexFunc(d.pending, func(x decision) bool { return x.batch == p.batch })
		switch {
		case j < 0:
		case d.pending[j].seq <= d.decided.seq:
			return 0, false, fmt.Errorf("batch %x shall follow batch %x, and batch %x, which is there, is decided", uint64(b), uint64(prev), uint64(p.batch))
		default:
			return nowhere, false, nil // the log here is not that of the primary yet
		}
	}
	sure := min(len(d.prepared), i+1)
	d.prepared, d.stored = beside[:sure:sure], beside[sure:i+1:i+1]
	return end, false, nil
}

// syncParts makes what is stored durable.
func (d *Coded) syncParts() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if !mutant.On(mutant.ReplicaPreparedHeld) {
		if err := d.shard.Sync(); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.prepared, d.stored = append(d.prepared, d.stored...), nil
	return nil
}

// readShard fills p with ranges of the shard, one after the other, all of one batch and
// with all that is decided done, and tells which that is.
func (d *Coded) readShard(p []byte, at []missingRange) (of batchID, err error) {
	err = d.steady(func() error {
		rest := p
		for _, r := range at {
			if err := d.shard.ReadCommitted(rest[:r.n], r.off); err != nil {
				return err
			}
			rest = rest[r.n:]
		}
		return nil
	}, &of)
	return of, err
}

// steady does all that is decided and calls f, again while another batch becomes
// current meanwhile. It tells which one is.
func (d *Coded) steady(f func() error, of *batchID) error {
	if err := d.settle(); err != nil {
		return err
	}
	for {
		*of = d.done()
		if err := f(); err != nil || *of == d.done() {
			return err
		}
	}
}

// done is the batch that the shard has.
func (d *Coded) done() batchID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current
}

// batch is what the shard has when all that is decided is done.
func (d *Coded) batch() batchID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(d.current, d.decided.batch)
}

// newest is the newest batch that the shard holds durably, decided or not.
func (d *Coded) newest() batchID {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.prepared); n > 0 {
		return d.prepared[n-1].batch
	}
	return d.current
}

// latest is the newest batch that is decided by what the log holds, but for those that
// are under way, from one on; 0: none is.
func (d *Coded) latest(underWay batchID) batchID {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := max(d.current, d.decided.batch)
	for _, x := range d.pending {
		if underWay == 0 || x.batch < underWay {
			b = max(b, x.batch)
		}
	}
	return b
}

// upto is up to where the log will be in the shards by all decisions that it has.
func (d *Coded) upto() Seq {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.pending); n > 0 {
		return d.pending[n-1].upto
	}
	return d.decided.upto
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
	if d.dropping || d.poured <= d.dropped {
		return 0
	}
	d.dropping = true
	return d.poured
}

// dropTo lets the log up to seq go: it is in the shards.
func (d *Coded) dropTo(seq Seq) (err error) {
	d.writing.Lock() // keeps Reset away
	defer d.writing.Unlock()
	d.mu.Lock()
	valid := d.poured >= seq
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

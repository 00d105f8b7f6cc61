package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"blkd/blockdev"
	"blkd/internal/erasure"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// CodedSeeds is the first seed of a volume with an erasure code; those below are of
// mirrors.
const CodedSeeds = 1_000_000_000

// codedSetup spreads seeds over codes.
func (c *setup) codedSetup(seed uint64, rnd *rand.Rand) {
	km := [][2]int{{2, 1}, {4, 2}, {1, 2}, {2, 2}, {2, 1}, {8, 3}}[seed%6]
	var err error
	if c.code, err = erasure.New(km[0], km[1]); err != nil {
		panic(err)
	}
	c.replicas, c.spares = km[0]+km[1], 0
	c.shape = replication.Shape{Policy: replication.AckAll, MinCopies: km[0], Durability: replication.DurableFlush}
	if km[0] >= km[1] && rnd.IntN(4) > 0 {
		c.shape.Policy = replication.AckMajority
	}
	if rnd.IntN(7) == 0 {
		c.shape.Durability = replication.DurableWrite
	}
	if rnd.IntN(5) == 0 {
		c.shape.MinCopies++
	}
	c.tempo = 1
	if rnd.IntN(2) == 0 {
		c.spares = 1
	}
}

// move begins to move the shard of a member to a node that has none.
func (s *sim) move(to *node) {
	var from []*node
	for _, m := range s.rec.Members {
		if m.Leaving {
			return
		}
		from = append(from, s.node(m.Node))
	}
	s.moveShard(from[s.rnd.IntN(len(from))], to)
}

func (s *sim) moveShard(x, to *node) {
	s.members("move "+string(x.name)+" to "+string(to.name), func(list []*metapb.Member) []*metapb.Member {
		m := &metapb.Member{Node: string(to.name), Incarnation: uint64(to.inc), State: metapb.ReplicaState_REPLICA_STATE_INCONSISTENT, Log: true}
		for _, old := range list {
			if old.Node == string(x.name) {
				old.Leaving, m.Shard = true, old.Shard
			}
		}
		return append(list, m)
	})
}

// stay ends a move that has not come to its end.
func (s *sim) stay(n *node) {
	m := s.rec.Member(n.name)
	if m == nil || m.State == replication.UpToDate || m.Leaving || !slices.ContainsFunc(s.rec.Members, func(x replication.Member) bool { return x.Leaving && x.Shard == m.Shard }) {
		return
	}
	s.members("do not move to "+string(n.name), func(list []*metapb.Member) []*metapb.Member {
		list = slices.DeleteFunc(list, func(x *metapb.Member) bool { return x.Node == string(n.name) })
		for _, x := range list {
			x.Leaving = false
		}
		return list
	})
}

// codedNode is what a node of an erasure-coded volume has besides its disk.
type codedNode struct {
	shard shard
	coded *replication.Coded
	tasks []*replication.Task // serial, not run
}

// replica is what a node's core keeps.
func (s *sim) replica(n *node) replication.Replica {
	if n.tasks = nil; s.code == nil {
		return n.disk
	}
	n.shard.commit = n.shard.known // as the disk knows
	var err error
	if n.coded, err = replication.NewCoded(n.disk, &n.shard, s.code, blockSize); err != nil {
		s.violate("S9", "%s cannot be opened: %v", n.name, err)
	}
	return n.coded
}

// runTask runs a task some time later; serial ones in order.
func (s *sim) runTask(n *node, core *replication.Core, t *replication.Task) {
	if t.Serial {
		if n.tasks = append(n.tasks, t); len(n.tasks) == 1 {
			s.later(n, s.delay(s.syncMs), func() { s.runSerial(n, core) })
		}
		return
	}
	s.later(n, s.delay(s.readMs), func() { s.finish(n, core, t) })
}

func (s *sim) runSerial(n *node, core *replication.Core) {
	if n.core != core || len(n.tasks) == 0 {
		return
	}
	t := n.tasks[0]
	if n.tasks = n.tasks[1:]; len(n.tasks) > 0 {
		s.later(n, s.delay(s.syncMs), func() { s.runSerial(n, core) })
	}
	s.finish(n, core, t)
}

func (s *sim) finish(n *node, core *replication.Core, t *replication.Task) {
	if n.core == core {
		err := t.Run()
		core.Finished(s.clock(n), t, err)
		s.effects(n)
	}
}

// pouring tells whether a batch is on its way to the shards.
func (s *sim) pouring() bool {
	return s.code != nil && slices.ContainsFunc(s.primaries(), func(n *node) bool { return n.core.Status().Pouring != "" })
}

// tear does a part of what a node is doing to its shard when it stops.
func (s *sim) tear(n *node) {
	if n.core != nil && len(n.tasks) > 0 && s.rnd.IntN(2) == 0 {
		n.shard.torn, n.shard.left = true, s.rnd.IntN(4)
		_ = n.tasks[0].Run()
		n.shard.torn = false
	}
}

// read fills a request as a volume does; rest: what is missing is in shards.
func (s *sim) read(n *node, r *replication.Request) (rest bool, err error) {
	if s.code == nil {
		return false, n.disk.read(r.Data, r.Off/blockSize*blockSize)
	}
	return n.coded.Read(r)
}

// stage remembers that the log has a block.
func (d *disk) stage(b int64, e *blockdev.Entry) {
	if d.staging {
		if d.staged[b] = e.Seq; b == decisions {
			d.decided = e.Data
			off, n := replication.Elsewhere(e.Data)
			for ; n > 0; off, n = off+blockSize, n-blockSize {
				d.staged[place(off)] = 0
			}
		}
	}
}

// Sync implements replication.Staging, like the methods below. What a core asks for, the
// simulation syncs by itself.
func (d *disk) Sync() error {
	if d.doomed {
		return errDisk
	}
	d.settle()
	return nil
}

// Durable is up to where the log survives power loss.
func (d *disk) Durable() replication.Seq { return d.durable() }

// ReadStaged reads what the log has.
func (d *disk) ReadStaged(p []byte, off int64, missing func(off, n int64)) error {
	for o := int64(0); o < int64(len(p)); o += blockSize {
		switch b := place(off + o); {
		case d.staged[b] == 0:
			missing(off+o, blockSize)
		case b == decisions:
			copy(p[o:], d.decided)
		default:
			clear(p[o : o+blockSize])
			putTag(p[o:], d.image[b])
		}
	}
	return nil
}

// StagedBlocks tells which blocks the log has.
func (d *disk) StagedBlocks(off, n int64, f func(block int64, zero bool)) error {
	for b := off / blockSize; b < (off+n)/blockSize; b++ {
		if d.staged[b] > 0 {
			f(b, d.image[b] == 0)
		}
	}
	return nil
}

// Staged lists the older half of what the log has up to an entry.
func (d *disk) Staged(_ int, last replication.Seq) (upto replication.Seq, blocks []int64, ok bool) {
	var seqs []replication.Seq
	for _, seq := range d.staged {
		if seq > 0 && seq <= last {
			seqs = append(seqs, seq)
		}
	}
	if slices.Sort(seqs); len(seqs) > 0 {
		upto = seqs[len(seqs)/2]
	}
	for b, seq := range d.staged {
		switch {
		case seq == 0 || seq > upto:
		case b == decisions:
			blocks = append(blocks, blockdev.AsideOff/blockSize)
		default:
			blocks = append(blocks, int64(b))
		}
	}
	return upto, blocks, upto > d.dropped
}

// Drop lets a part of the log go.
func (d *disk) Drop(seq replication.Seq) error {
	if seq > d.commit {
		return fmt.Errorf("drop up to %d, committed up to %d", seq, d.commit)
	}
	for b, at := range d.staged {
		if at <= seq {
			d.staged[b] = 0
		}
	}
	d.dropped = max(d.dropped, seq)
	d.settle()
	return nil
}

// LogUsed is such that a few blocks are worth a batch.
func (d *disk) LogUsed() (used, size int64) {
	for _, seq := range d.staged {
		if seq > 0 {
			used++
		}
	}
	return used, 24
}

// shard is a shard on a disk. What it is changed by is replaced, so that a copy of it
// stays as it is. Of each row it keeps the tag: beyond that, blocks are zeros, and so is
// what a code makes of them.
type shard struct {
	base       rows // of all entries up to known
	baseGen    replication.Generation
	known      replication.Seq // this is committed, as the disk knows
	log        []blockdev.Entry
	commit     replication.Seq
	synced     int // of log
	incomplete bool

	size int64 // bytes

	changed [decisions]replication.Seq // which entry up to known has changed a row last
	floor   replication.Seq            // changes before are not known
	copied  replication.Seq            // effects of entries up to here were imported
	good    replication.Seq            // incomplete: the content is good up to here; 0: it is not
	goodOf  replication.Generation

	rot [decisions]bool // rows that fail their check, until they are written

	torn bool // the machine stops after so many entries more
	left int
	// imports counts pieces of copies.
	imports int
}

var errTorn = errors.New("the machine has stopped")

func (m *shard) last() replication.Seq { return m.known + replication.Seq(len(m.log)) }

func (m *shard) at(seq replication.Seq) replication.Generation {
	if seq <= m.known {
		return m.baseGen
	}
	return m.log[seq-m.known-1].Gen
}

// Size implements replication.Shard, like the methods below.
func (m *shard) Size() int64 { return m.size }

// Resize makes it larger.
func (m *shard) Resize(size int64) error {
	m.size = size
	return nil
}

// Append appends. With an entry the disk
// gets to know what was committed before.
func (m *shard) Append(entries []blockdev.Entry) error {
	m.settle()
	m.log = slices.Clone(m.log)
	for _, e := range entries {
		if m.torn {
			if m.left--; m.left < 0 {
				return errTorn
			}
		}
		if e.Seq != m.last()+1 || e.Gen < m.at(m.last()) {
			return fmt.Errorf("entry (%d, %d) after (%d, %d)", e.Gen, e.Seq, m.at(m.last()), m.last())
		}
		if e.Off+e.Len > m.size {
			return fmt.Errorf("entry (%d, %d) covers %d bytes at %d of %d", e.Gen, e.Seq, e.Len, e.Off, m.size)
		}
		e.Data = slices.Clone(e.Data)
		m.log = append(m.log, e)
	}
	return nil
}

func (m *shard) settle() {
	n := int(m.commit - m.known)
	if n == 0 {
		return
	}
	m.change(m.log[:n])
	m.baseGen, m.known, m.log, m.synced = m.log[n-1].Gen, m.commit, m.log[n:], max(0, m.synced-n)
}

// change settles entries. Zeros over nothing change nothing.
func (m *shard) change(entries []blockdev.Entry) {
	for i := range entries {
		each(&entries[i], func(row int64, tag uint64) {
			if tag != 0 || m.base[row] != 0 {
				m.changed[row] = entries[i].Seq
			}
			m.base[row] = tag
		})
	}
}

// Base is the entry up to which the content is good.
func (m *shard) Base() (replication.Generation, replication.Seq, bool) {
	if m.incomplete {
		return m.goodOf, m.good, m.good > 0
	}
	return m.at(m.commit), m.commit, m.commit >= m.copied
}

// Rejoin is a Reset that keeps the content.
func (m *shard) Rejoin(gen replication.Generation, seq replication.Seq) error {
	of, good, ok := m.Base()
	if !ok || seq < good || m.torn {
		return fmt.Errorf("rejoin after %d, good up to (%d, %d): %v", seq, of, good, ok)
	}
	m.settle()
	m.log, m.synced, m.copied, m.incomplete, m.good, m.goodOf = nil, 0, 0, true, good, of
	m.baseGen, m.known, m.commit = gen, seq, seq
	return nil
}

// NextChange finds rows that entries behind since may have changed.
func (m *shard) NextChange(since replication.Seq, off int64) (start, n int64, err error) {
	if since < m.floor || m.incomplete {
		return 0, 0, fmt.Errorf("what has changed since %d, but to %d: %w", since, m.floor, blockdev.ErrTrimmed)
	}
	is := func(row int64) bool { return m.changed[row] > since || m.logged(row) }
	row, end := off/blockSize, m.size/blockSize
	for row < end && !is(row) {
		row++
	}
	from := row
	for row < end && is(row) {
		row++
	}
	return from * blockSize, (row - from) * blockSize, nil
}

// logged tells whether an entry of a row is not settled.
func (m *shard) logged(row int64) bool {
	return slices.ContainsFunc(m.log, func(e blockdev.Entry) bool { return e.Off <= row*blockSize && row*blockSize < e.Off+e.Len })
}

// rows are the tags of a shard's rows.
type rows [decisions]uint64

func (r *rows) apply(entries []blockdev.Entry) {
	for i := range entries {
		each(&entries[i], func(row int64, tag uint64) { r[row] = tag })
	}
}

// Sync makes entries durable.
func (m *shard) Sync() error {
	if m.torn {
		return errTorn
	}
	m.synced = len(m.log)
	return nil
}

// Commit moves the commit point.
func (m *shard) Commit(seq replication.Seq) error {
	for ; m.commit < min(seq, m.last()); m.commit++ {
		e := &m.log[m.commit-m.known]
		for off := int64(0); off < e.Len; off += blockSize {
			m.rot[(e.Off+off)/blockSize] = false
		}
	}
	return nil
}

// prepared tells whether the log has an entry that is not committed of a row.
func (m *shard) prepared(row int64) bool {
	return slices.ContainsFunc(m.log[m.commit-m.known:], func(e blockdev.Entry) bool {
		return e.Off <= row*blockSize && row*blockSize < e.Off+e.Len
	})
}

// Truncate cuts the end off the log.
func (m *shard) Truncate(seq replication.Seq) error {
	if seq < m.commit {
		return fmt.Errorf("truncate to %d below the commit point %d", seq, m.commit)
	}
	m.log = slices.Clip(m.log[:seq-m.known])
	m.synced = min(m.synced, len(m.log))
	return nil
}

// Last is the last entry.
func (m *shard) Last() (replication.Generation, replication.Seq) { return m.at(m.last()), m.last() }

// Committed is the commit point.
func (m *shard) Committed() replication.Seq { return m.commit }

// GenAt is the generation of an entry.
func (m *shard) GenAt(seq replication.Seq) (replication.Generation, bool) {
	return m.at(seq), seq >= m.known
}

// ReadLog returns what is kept after an entry.
func (m *shard) ReadLog(after replication.Seq, _ int) ([]blockdev.Entry, error) {
	return m.log[after-m.known:], nil
}

// ReadCommitted reads what is current.
func (m *shard) ReadCommitted(p []byte, off int64) error {
	var content rows
	m.view(uint64(m.at(m.commit)), &content)
	clear(p)
	for o := int64(0); o < int64(len(p)); o += blockSize {
		if m.rot[(off+o)/blockSize] {
			return &blockdev.ChecksumError{Off: off + o}
		}
		putTag(p[o:], content[(off+o)/blockSize])
	}
	return nil
}

// Extents tells which rows are data.
func (m *shard) Extents(off, n int64, emit func(blockdev.Extent) bool) error {
	var content rows
	m.view(uint64(m.at(m.commit)), &content)
	for o := off; o < off+n; o += blockSize {
		zero := content[o/blockSize] == 0
		emit(blockdev.Extent{Off: o, Len: blockSize, Hole: zero, Zero: zero})
	}
	return nil
}

// view tells the content as of a batch, if that is current, or prepared and would
// survive whatever happens now.
func (m *shard) view(batch uint64, content *rows) bool {
	*content = m.base
	if m.baseGen == replication.Generation(batch) {
		return true
	}
	for i := range m.log {
		if e := &m.log[i]; e.Gen == replication.Generation(batch) && e.Kind == blockdev.EntryMark && i < m.synced {
			content.apply(m.log[:i+1])
			return true
		}
	}
	return false
}

// Import puts a part of a copy under the log.
func (m *shard) Import(off, n int64, data []byte) error {
	for row := off / blockSize; row < (off+n)/blockSize; row++ {
		m.rot[row] = false
	}
	m.imports++
	m.settle()
	m.copied = max(m.copied, m.last())
	m.change([]blockdev.Entry{{Seq: m.last(), Kind: blockdev.EntryWrite, Off: off, Len: n, Data: data}})
	return nil
}

// Reset empties the shard.
func (m *shard) Reset(gen replication.Generation, seq replication.Seq) error {
	*m = shard{size: m.size, baseGen: gen, known: seq, commit: seq, incomplete: true, floor: seq, imports: m.imports}
	return nil
}

// Complete ends a copy.
func (m *shard) Complete() error {
	m.incomplete = false
	return nil
}

// Incomplete tells whether a copy is under way.
func (m *shard) Incomplete() bool { return m.incomplete }

func (m *shard) losePower(survive func(most int) int) {
	m.commit = m.known
	if lost := len(m.log) - m.synced; lost > 0 {
		m.log = slices.Clip(m.log[:m.synced+survive(lost)])
	}
}

package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"blkd/blockdev"
	"blkd/replication"
)

// volumeBlocks is the size of the volume at first; it grows up to the block decisions,
// which is that of an erasure code's log that is aside.
const (
	volumeBlocks = 64
	decisions    = 2 * volumeBlocks
	mostBlocks   = decisions + 1
)

const blockSize = blockdev.BlockSize

// disk is a replica and its promise on a disk that can forget what was not synced,
// fail, and rot. Of a block's content it keeps the first eight bytes, its tag.
type disk struct {
	content
	synced  content // what survives power loss
	retain  int     // entries kept behind the commit point
	keep    replication.Seq
	size    int64 // bytes
	staging bool  // the log of an erasure-coded volume
	lineage uint64
	prom    replication.Generation
	rot     [mostBlocks]bool // blocks that fail their check, until they are written

	broken bool // the next write or sync fails
	doomed bool // a sync has failed: what was not synced then never will be
	ops    int  // writes and syncs done
	strike *strike
	cuts   int // so often was the log cut, or begun anew

	imports, rejoins int

	onAppend func(prev replication.Generation, e *blockdev.Entry)
	onCommit func(e *blockdev.Entry)
	writes   watcher // told of what is done
}

// watcher is told of writes; nil fields: it is not.
type watcher struct{ promised, cut, emptied, committed func() }

func tell(f func()) {
	if f != nil {
		f()
	}
}

// content is what a disk holds. A copy of it stays as it is: slices are replaced,
// or only grow.
type content struct {
	baseGen    replication.Generation
	baseSeq    replication.Seq // before log[0]
	log        []blockdev.Entry
	commit     replication.Seq
	image      [mostBlocks]uint64 // committed tags
	incomplete bool
	base       replication.Seq // incomplete: up to here the content is good
	baseOf     replication.Generation
	copied     replication.Seq // effects of entries up to here were imported
	floor      replication.Seq // changes before are not known
	changed    [mostBlocks]replication.Seq
	staged     [mostBlocks]replication.Seq // of an erasure code: which entry of the log has the block; 0: none
	decided    []byte                      // what the last block of these holds
	dropped    replication.Seq
	sessions   *blockdev.Sessions // what the log held up to baseSeq; never changed, but replaced
	reigns     []reign            // also of entries that are not kept
}

// reign is where a generation's entries begin.
type reign struct {
	gen   replication.Generation
	first replication.Seq
}

var errDisk = errors.New("input/output error")

func newDisk() *disk {
	d := &disk{retain: 1 << 30, size: volumeBlocks * blockSize}
	d.sessions = new(blockdev.Sessions)
	d.synced = d.content
	return d
}

// empty makes a store anew, as a node does that has none; the promise stays.
func (d *disk) empty() {
	d.cuts++
	d.writes = watcher{}
	d.keep, d.size, d.content = 0, volumeBlocks*blockSize, content{sessions: new(blockdev.Sessions)}
	d.rot = [mostBlocks]bool{}
	d.synced = d.content
}

// strike cuts a node off in the midst of its work.
type strike struct {
	op    int // of its disk; 0: never
	after bool
	now   bool // it has been reached
}

// fails counts a write or sync, and tells, once, that a broken disk fails, or that
// the node ends before this one is done.
func (d *disk) fails() error {
	d.ops++
	if x := d.strike; x != nil && x.op == d.ops {
		x.now = true
		if !x.after {
			return errDisk
		}
	}
	if d.broken {
		d.broken = false
		return errDisk
	}
	return nil
}

// Promised implements replication.Gate.
func (d *disk) Promised() (uint64, replication.Generation) { return d.lineage, d.prom }

// Promise implements replication.Gate.
func (d *disk) Promise(lineage uint64, g replication.Generation) error {
	if err := d.fails(); err != nil {
		return err
	}
	d.lineage, d.prom = lineage, g
	tell(d.writes.promised)
	return nil
}

// Last implements replication.Replica, like the methods below.
func (d *disk) Last() (replication.Generation, replication.Seq) { return d.end() }

func (c *content) end() (replication.Generation, replication.Seq) {
	if n := len(c.log); n > 0 {
		return c.log[n-1].Gen, c.log[n-1].Seq
	}
	return c.baseGen, c.baseSeq
}

func (c *content) last() replication.Seq { return c.baseSeq + replication.Seq(len(c.log)) }

// Committed is the commit point.
func (d *disk) Committed() replication.Seq { return d.commit }

// GenAt is the generation of an entry, also of one that is not kept.
func (d *disk) GenAt(seq replication.Seq) (replication.Generation, bool) {
	switch {
	case seq == d.baseSeq:
		return d.baseGen, true
	case seq > d.last():
		return 0, false
	case seq < d.baseSeq:
		for _, r := range slices.Backward(d.reigns) {
			if r.first <= seq {
				return r.gen, true
			}
		}
		return 0, false
	}
	return d.log[seq-d.baseSeq-1].Gen, true
}

// ReadLog returns what is kept after an entry.
func (d *disk) ReadLog(after replication.Seq, maxBytes int) ([]blockdev.Entry, error) {
	if after < d.baseSeq {
		return nil, fmt.Errorf("entries after %d are trimmed, the log begins after %d", after, d.baseSeq)
	}
	rest := d.log[min(int(after-d.baseSeq), len(d.log)):]
	for n := range rest {
		if maxBytes -= 64 + len(rest[n].Data); n > 0 && maxBytes < 0 {
			rest = rest[:n]
			break
		}
	}
	return slices.Clone(rest), nil
}

// Append appends.
func (d *disk) Append(entries []blockdev.Entry) error {
	if err := d.fails(); err != nil {
		return err
	}
	for i := range entries {
		e := &entries[i]
		gen, seq := d.end()
		if e.Seq != seq+1 || e.Gen < gen {
			return fmt.Errorf("entry (%d, %d) after (%d, %d)", e.Gen, e.Seq, gen, seq)
		}
		if e.Kind == blockdev.EntryMark {
			d.size = max(d.size, e.Off)
		} else if e.Off+e.Len > d.size && !d.staging {
			return fmt.Errorf("entry (%d, %d) covers %d bytes at %d of %d", e.Gen, e.Seq, e.Len, e.Off, d.size)
		}
		d.push(*e)
		if d.onAppend != nil {
			d.onAppend(gen, e)
		}
	}
	return nil
}

func (c *content) push(e blockdev.Entry) {
	if gen, _ := c.end(); e.Gen != gen {
		c.reigns = append(c.reigns, reign{e.Gen, e.Seq})
	}
	c.log = append(c.log, e)
}

// Commit moves the commit point.
func (d *disk) Commit(seq replication.Seq) error {
	if d.commit < min(seq, d.last()) {
		defer tell(d.writes.committed)
	}
	for last := d.last(); d.commit < min(seq, last); {
		d.commit++
		e := &d.log[d.commit-d.baseSeq-1]
		if d.onCommit != nil {
			d.onCommit(e)
		}
		each(e, func(block int64, tag uint64) {
			d.rot[block], d.changed[block], d.image[block] = false, e.Seq, tag
			d.stage(block, e)
		})
	}
	free := min(d.commit, d.keep)
	if d.staging {
		free = min(free, d.dropped)
	}
	if n := int(free) - int(d.baseSeq) - d.retain; n > 0 {
		d.sessions = d.Sessions(d.log[n-1].Seq)
		d.baseGen, d.baseSeq = d.log[n-1].Gen, d.log[n-1].Seq
		d.log = slices.Clone(d.log[n:])
	}
	return nil
}

// Sessions are the operations that the log holds up to an entry.
func (d *disk) Sessions(upto replication.Seq) *blockdev.Sessions {
	t := d.sessions.Clone()
	for i := range d.log {
		if e := &d.log[i]; e.Seq <= upto {
			t.Add(e.Origin, e.Seq, e.Off+e.Len)
		}
	}
	return t
}

// Adopt says which operations the log held before it was reset.
func (d *disk) Adopt(t *blockdev.Sessions) { d.sessions = t.Clone() }

// each calls f for each block of an entry, with the tag that it gets.
func each(e *blockdev.Entry, f func(block int64, tag uint64)) {
	if e.Kind == blockdev.EntryMark {
		return
	}
	for off := int64(0); off < e.Len; off += blockSize {
		tag := uint64(0)
		if e.Kind == blockdev.EntryWrite {
			tag = tagOf(e.Data[off:])
		}
		f(place(e.Off+off), tag)
	}
}

// place is the block at off.
func place(off int64) int64 { return min(off/blockSize, decisions) }

// Keep protects a part of the log.
func (d *disk) Keep(after replication.Seq) { d.keep = max(d.keep, after) }

// Truncate cuts the end off the log.
func (d *disk) Truncate(seq replication.Seq) error {
	if err := d.fails(); err != nil {
		return err
	}
	if seq < d.commit {
		return fmt.Errorf("truncate to %d below the commit point %d", seq, d.commit)
	}
	d.log = slices.Clone(d.log[:seq-d.baseSeq])
	n := len(d.reigns)
	for n > 0 && d.reigns[n-1].first > seq {
		n--
	}
	d.reigns = slices.Clone(d.reigns[:n])
	d.settle()
	tell(d.writes.cut)
	return nil
}

// settle makes a change of the log durable that does not wait for a sync.
func (d *disk) settle() {
	d.cuts++
	d.synced = d.content
}

// Import puts a part of a copy under the log.
func (d *disk) Import(off, n int64, data []byte) error {
	if err := d.fails(); err != nil {
		return err
	}
	_, d.copied = d.end()
	for o := int64(0); o < n; o += blockSize {
		b := (off + o) / blockSize
		d.changed[b], d.image[b] = d.copied, 0
		if data != nil {
			d.image[b] = tagOf(data[o:])
		}
	}
	d.imports++
	return nil
}

// Reset empties the replica.
func (d *disk) Reset(gen replication.Generation, seq replication.Seq) error {
	if err := d.fails(); err != nil {
		return err
	}
	d.rot = [mostBlocks]bool{}
	d.content = content{baseGen: gen, baseSeq: seq, commit: seq, incomplete: true, floor: seq, sessions: new(blockdev.Sessions)}
	d.settle()
	tell(d.writes.emptied)
	return nil
}

// Complete ends a copy.
func (d *disk) Complete() error {
	if err := d.fails(); err != nil {
		return err
	}
	d.incomplete = false
	d.settle()
	return nil
}

// Size is the volume's length in bytes, as far as is known here.
func (d *disk) Size() int64 { return d.size }

// Resize makes the volume larger.
func (d *disk) Resize(size int64) error {
	if err := d.fails(); err != nil {
		return err
	}
	d.size = size
	return nil
}

// Incomplete tells whether a copy is under way.
func (d *disk) Incomplete() bool { return d.incomplete }

// Base is the entry up to which the content is good.
func (d *disk) Base() (replication.Generation, replication.Seq, bool) {
	if d.incomplete {
		return d.baseOf, d.base, d.base > 0
	}
	gen, known := d.GenAt(d.commit)
	return gen, d.commit, known && d.commit >= d.copied
}

// Rejoin begins a copy of what has changed after Base.
func (d *disk) Rejoin(gen replication.Generation, seq replication.Seq) error {
	baseOf, base, ok := d.Base()
	if !ok || seq < base {
		return errors.New("no base to rejoin from")
	}
	if err := d.fails(); err != nil {
		return err
	}
	d.rejoins++
	d.log, d.reigns, d.sessions = nil, nil, new(blockdev.Sessions)
	d.baseGen, d.baseSeq, d.commit, d.copied = gen, seq, seq, 0
	d.incomplete, d.base, d.baseOf = true, base, baseOf
	d.settle()
	tell(d.writes.emptied)
	return nil
}

// NextChange finds what entries after since have changed.
func (d *disk) NextChange(since replication.Seq, off int64) (int64, int64, error) {
	if since < d.floor || d.incomplete {
		return 0, 0, fmt.Errorf("changes are known from %d on", d.floor)
	}
	return run(off, func(b int64) bool { return d.changed[b] > since })
}

// NextData finds what is allocated.
func (d *disk) NextData(off int64) (int64, int64, error) {
	return run(off, func(b int64) bool { return d.image[b] != 0 })
}

// run finds the first run of blocks at or after off of which is holds.
func run(off int64, is func(block int64) bool) (start, n int64, err error) {
	b := off / blockSize
	for b < mostBlocks && !is(b) {
		b++
	}
	from := b
	for b < mostBlocks && is(b) {
		b++
	}
	return from * blockSize, (b - from) * blockSize, nil
}

// Digest sums up tags.
func (d *disk) Digest(off, n int64) (sum uint64, err error) {
	for b := off / blockSize; b < (off+n)/blockSize; b++ {
		sum = (sum ^ d.image[b]) * 1099511628211
	}
	return sum, nil
}

// durable is up to where the log survives power loss.
func (d *disk) durable() replication.Seq { return min(d.synced.last(), d.last()) }

// holds tells whether an entry is in the log or the image.
func (d *disk) holds(gen replication.Generation, seq replication.Seq) bool {
	if d.incomplete || seq > d.last() {
		return false
	}
	g, ok := d.GenAt(seq)
	return !ok || g == gen
}

// losePower takes what was not synced; of the end of the log, a part may have reached
// the disk, which survive draws.
func (d *disk) losePower(survive func(most int) int) {
	lost := d.content
	d.content = d.synced
	if d.incomplete || lost.incomplete {
		return
	}
	more := int(lost.last()) - int(d.last())
	if at := int(d.last()) - int(lost.baseSeq); more > 0 && at >= 0 {
		for _, e := range lost.log[at : at+survive(more)] {
			d.content = d.content.grown(e)
		}
	}
	d.synced = d.content
}

// grown is a content with one more entry, whose memory is its own.
func (c content) grown(e blockdev.Entry) content {
	c.log, c.reigns = slices.Clip(c.log), slices.Clip(c.reigns)
	c.push(e)
	return c
}

// read fills p with the tags of the blocks from off.
func (d *disk) read(p []byte, off int64) error {
	for o := int64(0); o < int64(len(p)); o += blockSize {
		if d.rot[(off+o)/blockSize] {
			return &blockdev.ChecksumError{Volume: volumeName, Off: off + o}
		}
		putTag(p[o:], d.image[(off+o)/blockSize])
	}
	return nil
}

func tagOf(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

func putTag(b []byte, tag uint64) { binary.LittleEndian.PutUint64(b, tag) }

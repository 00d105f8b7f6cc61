package replication

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"blkd/blockdev"
)

// memReplica is a replica in memory that can forget what was not synced.
type memReplica struct {
	memState
	synced  memState // what survives power loss
	retain  int      // entries kept behind the commit point
	lineage uint64
	prom    Generation
	size    int64
	keep    Seq
	imports int
	rejoins int
	cuts    int            // so often was the log cut, or begun anew
	rot     map[int64]bool // blocks that fail their check, until they are written

	onAppend func(prev Generation, e blockdev.Entry)
	onCommit func(blockdev.Entry)
}

type memState struct {
	baseGen    Generation
	baseSeq    Seq // before log[0]
	log        []blockdev.Entry
	commit     Seq
	image      map[int64]uint64 // committed content by block
	incomplete bool
	base       Seq // incomplete: up to here the content is good
	baseOf     Generation
	copied     Seq           // effects of entries up to here were imported
	floor      Seq           // changes before are not known
	changed    map[int64]Seq // by block
	gens       []memGen      // also of entries that are not kept
}

type memGen struct {
	gen   Generation
	first Seq
}

func (s memState) clone() memState {
	s.log = slices.Clone(s.log)
	s.image, s.changed, s.gens = maps.Clone(s.image), maps.Clone(s.changed), slices.Clone(s.gens)
	return s
}

func newMemReplica() *memReplica {
	r := &memReplica{retain: 1 << 30, size: simSize, rot: map[int64]bool{}}
	r.image, r.changed = map[int64]uint64{}, map[int64]Seq{}
	r.synced = r.memState.clone()
	return r
}

func (r *memReplica) Promised() (uint64, Generation) { return r.lineage, r.prom }
func (r *memReplica) Promise(l uint64, g Generation) error {
	r.lineage, r.prom = l, g
	return nil
}

func (r *memReplica) Last() (Generation, Seq) {
	if n := len(r.log); n > 0 {
		return r.log[n-1].Gen, r.log[n-1].Seq
	}
	return r.baseGen, r.baseSeq
}

func (r *memReplica) Committed() Seq { return r.commit }

func (r *memReplica) GenAt(seq Seq) (Generation, bool) {
	switch {
	case seq == r.baseSeq:
		return r.baseGen, true
	case seq > r.baseSeq+Seq(len(r.log)):
		return 0, false
	case seq < r.baseSeq:
		for _, g := range slices.Backward(r.gens) {
			if g.first <= seq {
				return g.gen, true
			}
		}
		return 0, false
	}
	return r.log[seq-r.baseSeq-1].Gen, true
}

func (r *memReplica) ReadLog(after Seq, maxBytes int) ([]blockdev.Entry, error) {
	if after < r.baseSeq {
		return nil, fmt.Errorf("entries after %d are trimmed, the log begins after %d", after, r.baseSeq)
	}
	var out []blockdev.Entry
	for _, e := range r.log[min(int(after-r.baseSeq), len(r.log)):] {
		if maxBytes -= 64 + len(e.Data); len(out) > 0 && maxBytes < 0 {
			break
		}
		out = append(out, e)
	}
	return out, nil
}

func (r *memReplica) Append(entries []blockdev.Entry) error {
	for _, e := range entries {
		gen, seq := r.Last()
		if e.Seq != seq+1 || e.Gen < gen {
			return fmt.Errorf("entry (%d, %d) after (%d, %d)", e.Gen, e.Seq, gen, seq)
		}
		if e.Kind == entryMark {
			r.size = max(r.size, e.Off)
		} else if e.Off+e.Len > r.size {
			return fmt.Errorf("entry (%d, %d) covers %d bytes at %d of %d", e.Gen, e.Seq, e.Len, e.Off, r.size)
		}
		e.Data = slices.Clone(e.Data)
		if e.Gen != gen {
			r.gens = append(r.gens, memGen{e.Gen, e.Seq})
		}
		r.log = append(r.log, e)
		if r.onAppend != nil {
			r.onAppend(gen, e)
		}
	}
	return nil
}

func (r *memReplica) Commit(seq Seq) error {
	_, last := r.Last()
	for r.commit < min(seq, last) {
		r.commit++
		e := r.log[r.commit-r.baseSeq-1]
		if r.onCommit != nil {
			r.onCommit(e)
		}
		for off := int64(0); off < e.Len; off += blockSize {
			b := (e.Off + off) / blockSize
			delete(r.rot, b)
			r.changed[b] = e.Seq
			if e.Kind == blockdev.EntryWrite {
				r.image[b] = tagOf(e.Data[off:])
			} else {
				delete(r.image, b)
			}
		}
	}
	if n := int(min(r.commit, r.keep)) - int(r.baseSeq) - r.retain; n > 0 {
		r.baseGen, r.baseSeq = r.log[n-1].Gen, r.log[n-1].Seq
		r.log = slices.Clone(r.log[n:])
	}
	return nil
}

func (r *memReplica) Keep(after Seq) { r.keep = max(r.keep, after) }

func (r *memReplica) Truncate(seq Seq) error {
	if seq < r.commit {
		return fmt.Errorf("truncate to %d below the commit point %d", seq, r.commit)
	}
	r.log = slices.Clone(r.log[:seq-r.baseSeq])
	for len(r.gens) > 0 && r.gens[len(r.gens)-1].first > seq {
		r.gens = r.gens[:len(r.gens)-1]
	}
	r.cuts++
	r.synced = r.memState.clone()
	return nil
}

func (r *memReplica) Import(off, n int64, data []byte) error {
	_, r.copied = r.Last()
	for o := int64(0); o < n; o += blockSize {
		r.changed[(off+o)/blockSize] = r.copied
		delete(r.image, (off+o)/blockSize)
		if data != nil && tagOf(data[o:]) != 0 {
			r.image[(off+o)/blockSize] = tagOf(data[o:])
		}
	}
	r.imports++
	return nil
}

func (r *memReplica) Reset(gen Generation, seq Seq) error {
	r.cuts++
	clear(r.rot)
	r.memState = memState{baseGen: gen, baseSeq: seq, commit: seq, image: map[int64]uint64{}, incomplete: true,
		floor: seq, changed: map[int64]Seq{}}
	r.synced = r.memState.clone()
	return nil
}

func (r *memReplica) Complete() error {
	r.incomplete = false
	r.cuts++
	r.synced = r.memState.clone()
	return nil
}

func (r *memReplica) Base() (Generation, Seq, bool) {
	if r.incomplete {
		return r.baseOf, r.base, r.base > 0
	}
	gen, known := r.GenAt(r.commit)
	return gen, r.commit, known && r.commit >= r.copied
}

func (r *memReplica) Rejoin(gen Generation, seq Seq) error {
	baseOf, base, ok := r.Base()
	if !ok || seq < base {
		return fmt.Errorf("no base to rejoin from")
	}
	r.cuts++
	r.rejoins++
	r.log, r.gens = nil, nil
	r.baseGen, r.baseSeq, r.commit, r.copied = gen, seq, seq, 0
	r.incomplete, r.base, r.baseOf = true, base, baseOf
	r.synced = r.memState.clone()
	return nil
}

func (r *memReplica) NextChange(since Seq, off int64) (int64, int64, error) {
	if since < r.floor || r.incomplete {
		return 0, 0, fmt.Errorf("changes are known from %d on", r.floor)
	}
	for b := off / blockSize; b < r.size/blockSize; b++ {
		if r.changed[b] > since {
			n := int64(1)
			for r.changed[b+n] > since {
				n++
			}
			return b * blockSize, n * blockSize, nil
		}
	}
	return r.size, 0, nil
}

func (r *memReplica) Size() int64 { return r.size }

func (r *memReplica) Resize(size int64) error {
	r.size = size
	return nil
}

func (r *memReplica) Incomplete() bool { return r.incomplete }

func (r *memReplica) NextData(off int64) (int64, int64, error) {
	for b := off / blockSize; b < r.size/blockSize; b++ {
		if _, ok := r.image[b]; ok {
			n := int64(1)
			for _, ok := r.image[b+n]; ok; _, ok = r.image[b+n] {
				n++
			}
			return b * blockSize, n * blockSize, nil
		}
	}
	return r.size, 0, nil
}

func (s *memState) last() Seq { return s.baseSeq + Seq(len(s.log)) }

// durable is up to where the log survives power loss.
func (r *memReplica) durable() Seq { return min(r.synced.last(), r.memState.last()) }

// holds tells whether an entry is in the log or the image.
func (r *memReplica) holds(gen Generation, seq Seq) bool {
	if r.incomplete || seq > r.memState.last() {
		return false
	}
	g, ok := r.GenAt(seq)
	return !ok || g == gen
}

// losePower takes what was not synced; of the end of the log, any part may have
// reached the disk.
func (r *memReplica) losePower(rnd *rand.Rand) {
	lost := r.memState
	r.memState = r.synced.clone()
	if r.incomplete || lost.incomplete {
		return
	}
	more := int(lost.last()) - int(r.memState.last())
	if at := int(r.memState.last()) - int(lost.baseSeq); more > 0 && at >= 0 {
		for _, e := range lost.log[at : at+rnd.IntN(more+1)] {
			if gen, _ := r.Last(); gen != e.Gen {
				r.gens = append(r.gens, memGen{e.Gen, e.Seq})
			}
			r.log = append(r.log, e)
		}
	}
	r.synced = r.memState.clone()
}

// read fills p with the tags of the blocks from off.
func (r *memReplica) read(p []byte, off int64) error {
	for o := int64(0); o < int64(len(p)); o += blockSize {
		if r.rot[(off+o)/blockSize] {
			return &blockdev.ChecksumError{Volume: "sim", Off: off + o}
		}
		putTag(p[o:], r.image[(off+o)/blockSize])
	}
	return nil
}

// A block of the simulation is its first eight bytes.
func tagOf(b []byte) uint64 {
	var v uint64
	for i := range 8 {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

func putTag(b []byte, v uint64) {
	for i := range 8 {
		b[i] = byte(v >> (8 * i))
	}
}

// Digest sums up the tags of the blocks from off.
func (r *memReplica) Digest(off, n int64) (sum uint64, err error) {
	for b := off / blockSize; b < (off+n)/blockSize; b++ {
		sum = (sum ^ r.image[b]) * 1099511628211
	}
	return sum, nil
}

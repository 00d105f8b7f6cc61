package replication

import (
	"blkd/blockdev"
	"blkd/internal/mutant"
)

// A map of an erasure-coded volume tells what is data, for block status: it is a read
// that brings a bit for each block instead of its content. So it waits for what is
// under way and needs a lease, and that of a shard that cannot be asked is made of k
// others. A block that is not said to be data reads as zeros.

// blockMap has a bit for each block of a range, the lowest of a byte first.
type blockMap []byte

// mapBytes is how long the map of n bytes is.
func mapBytes(n int64) int64 { return (n/blockSize + 7) / 8 }

func (m blockMap) has(block int64) bool { return m[block/8]>>(block%8)&1 != 0 }

func (m blockMap) set(block int64) { m[block/8] |= 1 << (block % 8) }

// maxMap is the longest range of a shard, in bytes, that a member is asked to map at
// once.
const maxMap = 64 << 20

// readMap is [Coded.Read] of a map.
func (d *Coded) readMap(r *Request) (rest bool, err error) {
	if r.serve != nil {
		r.Map, r.batch, err = d.mapShard(r.since, r.Off, r.Len)
		return false, err
	}
	r.missing = nil
	next := r.Off
	gap := func(end int64) {
		if next < end {
			r.missing = append(r.missing, missingRange{next, end - next})
		}
	}
	if !mutant.On(mutant.ReplicaMapPoured) {
		err = d.StagedBlocks(r.Off, r.Len, func(block int64, zero bool) {
			gap(block * blockSize)
			next = (block + 1) * blockSize
			if !zero {
				blockMap(r.Map).set(block - r.Off/blockSize)
			}
		})
	}
	gap(r.Off + r.Len)
	return err == nil && len(r.missing) > 0, err
}

// mapShard maps a range of the shard: what is data, or has changed since a batch, if that
// is not 0. It tells of which batch that is.
func (d *Coded) mapShard(since batchID, off, n int64) (m blockMap, of batchID, err error) {
	if since != 0 {
		return d.changes(since, off, n)
	}
	err = d.steady(func() error {
		m = make(blockMap, mapBytes(n))
		return d.shard.Extents(off, n, func(e blockdev.Extent) bool {
			for at := e.Off; at < e.Off+e.Len && !e.Zero; at += blockSize {
				m.set((at - off) / blockSize)
			}
			return true
		})
	}, &of)
	return m, of, err
}

// scatterMap puts the map of a range of a shard where it belongs in that of a range of
// the volume, which begins at off.
func (d *Coded) scatterMap(m blockMap, off int64, r missingRange, shard int, f *fetch) {
	for i := range f.n / blockSize {
		at := d.origin(shard, f.off+i*blockSize)
		if blockMap(f.got[shard]).has(i) && at >= r.off && at < r.off+r.n {
			m.set((at - off) / blockSize)
		}
	}
}

// mergeMaps is what the map of another shard is made of: where all the others are zeros,
// it is too.
func mergeMaps(made []byte, from [][]byte) {
	for _, m := range from {
		for i := range made {
			made[i] |= m[i]
		}
	}
}

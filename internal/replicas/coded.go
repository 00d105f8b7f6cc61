package replicas

import (
	"path"

	"blkd/blockdev"
	"blkd/internal/erasure"
	"blkd/metadata/metapb"
	"blkd/replication"
)

const (
	// shardLog is the log of a shard, bytes: batches go through it.
	shardLog = 64 << 20
	mostLog  = 1 << 30
)

// codedLog is the size of the log of an erasure-coded volume, bytes. It is the same on
// all members, whatever they are configured with: one with a smaller log than the
// primary's could hold up the pouring that it waits for.
func codedLog(shard int64) int64 {
	return min(max(shard/64/blockdev.BlockSize*blockdev.BlockSize, leastLog), mostLog)
}

// openCoded opens log and shard of a member of an erasure-coded volume, and makes what
// is not there. If one of them is gone, both are made anew from other members.
func (r *replica) openCoded(o blockdev.StoreOptions, v *metapb.Volume) (made bool, err error) {
	code, err := erasure.New(int(v.Layout.Data), int(v.Layout.Parity))
	if err != nil {
		return false, err
	}
	size := replication.ShardSize(v.SizeBytes, code.K())
	shard := o
	shard.Dir, shard.LogBytes = path.Join(path.Dir(o.Dir), shardDir), shardLog
	madeShard := false
	if r.shard, madeShard, err = openStore(shard, size); err != nil {
		return false, err
	}
	o.Staging, o.LogBytes = true, codedLog(size)
	if r.store, made, err = openStore(o, v.SizeBytes); err != nil {
		return false, err
	}
	if made != madeShard {
		r.log.Warn("a part of this replica was lost: its shard is rebuilt from other members")
		for _, s := range []*blockdev.Store{r.shard, r.store} {
			if err := s.Reset(0, 0); err != nil {
				return false, err
			}
		}
	}
	r.coded, err = replication.NewCoded(r.store, r.shard, code, replication.StripeUnit)
	return made, err
}

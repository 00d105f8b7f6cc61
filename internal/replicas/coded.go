package replicas

import (
	"path"

	"blkd/blockdev"
	"blkd/internal/erasure"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// Each member has two logs beside its shard. They are made with it and keep their size,
// whatever the node is configured with: less than 3 % of a shard of 3.5 GiB, and less of
// larger ones.
const (
	logShare      = 128 // each is this part of the shard, but
	mostLog       = 1 << 30
	leastShardLog = 32 << 20 // a batch goes through it, of which one shard has up to 17 MiB
	mostShardLog  = 64 << 20
)

// codedLog is the size of the log of an erasure-coded volume, bytes.
func codedLog(shard int64) int64 { return logSize(shard, leastLog, mostLog) }

// shardLog is the size of the log through which batches go into a shard, bytes.
func shardLog(shard int64) int64 { return logSize(shard, leastShardLog, mostShardLog) }

func logSize(shard, least, most int64) int64 {
	return min(max(shard/logShare/blockdev.BlockSize*blockdev.BlockSize, least), most)
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
	shard.Dir, shard.LogBytes = path.Join(path.Dir(o.Dir), shardDir), shardLog(size)
	madeShard := false
	if r.shard, madeShard, err = openStore(shard, size); err != nil {
		return false, err
	}
	o.Staging, o.LogBytes, o.Elsewhere = true, codedLog(size), replication.Elsewhere
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

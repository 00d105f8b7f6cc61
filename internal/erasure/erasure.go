// Package erasure is the erasure code of volumes: of k data shards it makes m parity
// shards, so that any k of the k+m bring all of them back. It is Reed-Solomon over
// GF(2^8), from github.com/klauspost/reedsolomon; byte i of every shard depends on
// byte i of the others only.
package erasure

import (
	"fmt"
	"slices"

	"github.com/klauspost/reedsolomon"
)

// MaxShards bounds k+m.
const MaxShards = 32

// Code makes parity and brings back what is lost. It is safe for concurrent use.
type Code struct {
	k, m int
	rs   reedsolomon.Encoder
}

// New makes the code of k data and m parity shards.
func New(k, m int) (*Code, error) {
	if k < 1 || m < 1 || k+m > MaxShards {
		return nil, fmt.Errorf("an erasure code of %d data and %d parity shards: it has at least one of each, and at most %d in all", k, m, MaxShards)
	}
	// The matrix is part of what volumes have on disk. One goroutine: the caller's,
	// which is one of many.
	rs, err := reedsolomon.New(k, m, reedsolomon.WithCauchyMatrix(), reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		return nil, fmt.Errorf("an erasure code of %d data and %d parity shards: %w", k, m, err)
	}
	return &Code{k, m, rs}, nil
}

// K is the number of data shards, whose numbers come first.
func (c *Code) K() int { return c.k }

// M is the number of parity shards.
func (c *Code) M() int { return c.m }

// Encode fills the parity shards, the last m, from the first k. There are k+m, of the
// same length, which may be 0.
func (c *Code) Encode(shards [][]byte) error {
	if len(shards[0]) == 0 {
		return nil
	}
	return c.rs.Encode(shards)
}

// Rebuild fills dst with shard want, from k others: from[i] is shard have[i].
func (c *Code) Rebuild(dst []byte, want int, have []int, from [][]byte) error {
	if len(have) != c.k || len(from) != c.k {
		return fmt.Errorf("a shard of %d+%d is rebuilt from %d others, not from %d", c.k, c.m, c.k, len(have))
	}
	shards := make([][]byte, c.k+c.m)
	for i, h := range have {
		if h < 0 || h >= len(shards) || shards[h] != nil {
			return fmt.Errorf("shards %v do not bring the others of %d+%d back: one is not there, or named twice", have, c.k, c.m)
		}
		shards[h] = from[i]
	}
	if i := slices.Index(have, want); i >= 0 {
		copy(dst, from[i])
		return nil
	}
	required := make([]bool, len(shards))
	required[want], shards[want] = true, dst[:0]
	return c.rs.ReconstructSome(shards, required)
}

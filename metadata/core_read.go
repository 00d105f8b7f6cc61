package metadata

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"go.etcd.io/raft/v3"
)

// pendingRead is a read that the leader has answered and the state is too old for.
type pendingRead struct{ id, index uint64 }

// newNonce returns what marks the reads of one run of one member. An answer that
// was meant for an earlier run of the same id must not satisfy a read of this one.
func newNonce(id uint64) ([]byte, error) {
	nonce := binary.LittleEndian.AppendUint64(make([]byte, 8), id)
	if _, err := rand.Read(nonce[:8]); err != nil {
		return nil, fmt.Errorf("draw a random number: %w", err)
	}
	return nonce, nil
}

// readContext makes an id unique among all members and their runs.
func (c *Core) readContext(id uint64) []byte {
	return binary.LittleEndian.AppendUint64(append([]byte(nil), c.nonce...), id)
}

func (c *Core) noteReads(list []raft.ReadState) {
	for _, r := range list {
		id, ok := bytes.CutPrefix(r.RequestCtx, c.nonce)
		if ok && len(id) == 8 {
			c.reads = append(c.reads, pendingRead{binary.LittleEndian.Uint64(id), r.Index})
		}
	}
}

func (c *Core) releaseReads(out *Output) {
	wait := c.reads[:0]
	for _, r := range c.reads {
		if r.index <= c.applied.index {
			out.Reads = append(out.Reads, r.id)
		} else {
			wait = append(wait, r)
		}
	}
	c.reads = wait
}

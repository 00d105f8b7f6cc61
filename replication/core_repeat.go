package replication

import (
	"fmt"

	"blkd/blockdev"
	"blkd/internal/mutant"
)

// A client that gets no answer sends a mutation again: over another connection, or to
// the next primary. In between another client may have written the same blocks, so it
// must not act twice. Each entry tells whose operation it is of ([blockdev.Origin]),
// and every member keeps which operations its log holds. A primary begins with what
// is in the log that it has chosen; before it serves, all of that is committed.

// repeated answers a mutation that was done before, when it is committed. One that was
// done in part, because the log was cut off behind that, is cut down to the rest. last
// is the entry behind which the next one comes.
func (c *Core) repeated(r *Request, last Seq) bool {
	if r.Origin.Client == 0 || !r.Op.Mutates() || mutant.On(mutant.ReplicaRepeat) {
		return false
	}
	switch progress, end := c.p.sessions.Find(r.Origin); progress {
	case blockdev.OpDone:
		r.last = last // what it did lies before that
		if r.last <= c.p.commit || mutant.On(mutant.ReplicaRepeatEarly) {
			c.committed(r)
		} else {
			c.p.inflight.push(flight{last: last, req: r})
		}
		return true
	case blockdev.OpOld:
		c.finish(r, ErrMoved) // nobody waits for an answer
		return true
	case blockdev.OpBegun:
		c.cutDown(r, end)
	}
	return false
}

// cutDown leaves of a mutation what is behind an offset.
func (c *Core) cutDown(r *Request, end int64) {
	n := end - r.Off
	switch {
	case n <= 0 || mutant.On(mutant.ReplicaRepeatWhole):
		return
	case n >= r.Len:
		panic(fmt.Sprintf("replication: operation %d of client %x goes on behind %d, and ends at %d", r.Origin.Op, r.Origin.Client, end, r.Off+r.Len))
	}
	r.Off, r.Len = end, r.Len-n
	if r.Data != nil {
		r.Data = r.Data[n:]
	}
}

// sign says of which operation entries are, all that a request has.
func (c *Core) sign(entries []blockdev.Entry, r *Request) {
	if r.Origin.Client == 0 {
		return
	}
	if progress, end := c.p.sessions.Find(r.Origin); progress == blockdev.OpDone || progress == blockdev.OpOld || progress == blockdev.OpBegun && entries[0].Off < end {
		if !mutant.On(mutant.ReplicaRepeat) && !mutant.On(mutant.ReplicaRepeatWhole) {
			panic(fmt.Sprintf("replication: operation %d of client %x is done twice", r.Origin.Op, r.Origin.Client))
		}
	}
	for i := range entries {
		e := &entries[i]
		e.Origin = r.Origin
		e.Origin.More = i < len(entries)-1
		c.p.sessions.Add(e.Origin, e.Seq, e.Off+e.Len)
	}
}

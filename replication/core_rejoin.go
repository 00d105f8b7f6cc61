package replication

import (
	"blkd/blockdev"
	"blkd/internal/mutant"
)

// A blockdev.Store is one.
var _ Rejoiner = (*blockdev.Store)(nil)

// Rejoiner is a [Replica] that can be brought level by what has changed since it
// was here, when the log does not reach it any more. What its methods promise is
// told at *blockdev.Store.
type Rejoiner interface {
	// Base is the entry up to which the content here is good; false if only a
	// copy of everything helps.
	Base() (Generation, Seq, bool)
	// Rejoin is a Reset that keeps the content up to Base.
	Rejoin(gen Generation, seq Seq) error
	// NextChange finds the first range at or after off that entries after since
	// may have changed; n is 0 if there is none.
	NextChange(since Seq, off int64) (start, n int64, err error)
}

// tellBase puts into a JOINED up to where this replica's content is good: Held,
// which is PrevSeq then.
func (c *Core) tellBase(m *Message) {
	d, ok := c.disk.(Rejoiner)
	if !ok {
		return
	}
	if gen, seq, ok := d.Base(); ok {
		m.PrevGen, m.PrevSeq, m.Held = gen, seq, seq
	}
}

// changesSince is the entry behind which what has changed brings a joiner level;
// 0 if everything must be copied. Both logs must be the same there.
func (c *Core) changesSince(p *peer, m *Message) Seq {
	d, ok := c.disk.(Rejoiner)
	if !ok || m.Held == 0 || m.Held > c.p.commit || c.p.base.member(p.node).State == Inconsistent {
		return 0
	}
	if g, known := c.disk.GenAt(m.Held); !known || g != m.PrevGen && !mutant.On(mutant.ReplicaRejoinAny) {
		return 0
	}
	if _, _, err := d.NextChange(m.Held, 0); err != nil {
		return 0 // it was copied itself later than that
	}
	return m.Held
}

// restart begins a copy here: of what has changed behind since, or of everything.
func (c *Core) restart(m *Message) (ok bool) {
	gen, seq, since := m.PrevGen, m.PrevSeq, m.Commit
	c.restarts++
	if since == 0 {
		return c.must("reset", c.disk.Reset(gen, seq))
	}
	if c.coded != nil && since == keepBase {
		ok, err := c.coded.rejoin(gen, seq, batchID(m.Lease))
		return c.must("rejoin", err) && ok
	}
	if c.coded != nil {
		return c.must("rejoin", c.coded.resetLog(gen, seq))
	}
	d, _ := c.disk.(Rejoiner)
	if d == nil {
		return false
	}
	if _, base, ok := d.Base(); !ok || base != since {
		return false // the answer was to an older question
	}
	return c.must("rejoin", d.Rejoin(gen, seq))
}

// nextPiece finds what is to be copied from the cursor on.
func (c *Core) nextPiece(j *join) (off, n int64, err error) {
	if c.coded != nil {
		if j.behind != keepShard {
			n, _ = c.nextChanged(j)
		}
		return j.cursor, n, nil
	}
	if d, ok := c.disk.(Rejoiner); ok && j.behind > 0 {
		return d.NextChange(j.behind, j.cursor)
	}
	return c.disk.NextData(j.cursor)
}

package sim

import (
	"slices"

	"blkd/blockdev"
	"blkd/replication"
)

// pouring is what the log of an erasure-coded volume has decided about the shards.
type pouring struct {
	seen      int // so many committed entries are in
	decisions []decided
	at        [decisions]replication.Seq // the newest committed entry of each block
	written   [decisions]replication.Seq // the newest that is a large write of it
	content   [decisions]uint64          // what the shards hold: of all entries up to the newest decision's, and of large writes
	poured    replication.Seq            // of those

	// Of one check, kept for the next.
	have  []int
	views []rows // by shard
	from  [][]byte
	got   []byte
}

// decided is a committed decision: what the log held up to an entry is in the shards,
// as of a batch.
type decided struct {
	seq   replication.Seq
	batch uint64
	upto  replication.Seq
}

func decisionOf(e *blockdev.Entry) (d decided, ok bool) {
	d.seq = e.Seq
	d.batch, d.upto, ok = replication.Decision(e)
	return d, ok
}

// wrote finds out what a large write has written, of which the log has the decision only:
// what shards have stored of its batch.
func (s *sim) wrote(e *blockdev.Entry) {
	batch, off, n := largeWrite(e)
	if n == 0 || s.written[batch] != nil {
		return
	}
	views := make([]*rows, s.code.K()+s.code.M())
	var have []int
	for _, m := range s.rec.Members {
		if v := new(rows); views[m.Shard] == nil && s.node(m.Node).shard.view(batch, v) {
			views[m.Shard], have = v, append(have, m.Shard)
		}
	}
	k := int64(s.code.K())
	if len(have) < int(k) {
		s.violate("S9", "batch %x of a large write is decided, and only shards %v have it", batch, have)
	}
	have = have[:k]
	for b := off / blockSize; b < (off+n)/blockSize; b++ {
		from, got := make([][]byte, k), make([]byte, 8)
		for i, h := range have {
			from[i] = make([]byte, 8)
			putTag(from[i], views[h][b/k])
		}
		if err := s.code.Rebuild(got, int(b%k), have, from); err != nil {
			s.violate("S9", "%v", err)
		}
		s.written[batch] = append(s.written[batch], tagOf(got))
	}
}

// largeWrite tells which range, in bytes, an entry has written as a large write, and of
// which batch; n is 0 if it is none.
func largeWrite(e *blockdev.Entry) (batch uint64, off, n int64) {
	batch, _, ok := replication.Decision(e)
	if ok {
		off, n = replication.Elsewhere(e.Data)
	}
	return batch, off, n
}

// acts calls f for each block that an entry changes, with its tag: also for those of a
// large write.
func (s *sim) acts(e *blockdev.Entry, f func(block int64, tag uint64)) {
	each(e, f)
	if batch, off, n := largeWrite(e); n > 0 {
		for i, tag := range s.written[batch] {
			f(off/blockSize+int64(i), tag)
		}
	}
}

// learn takes in what was committed since.
func (s *sim) learn(p *pouring) {
	for ; p.seen < len(s.committed); p.seen++ {
		e := &s.committed[p.seen]
		_, _, large := largeWrite(e)
		s.acts(e, func(b int64, tag uint64) {
			if b < decisions {
				p.at[b] = e.Seq
				if large > 0 {
					p.written[b], p.content[b] = e.Seq, tag
				}
			}
		})
		if d, ok := decisionOf(e); ok {
			p.decisions = append(p.decisions, d)
		}
	}
	for ; p.poured < p.newest().upto; p.poured++ {
		e := &s.committed[p.poured]
		each(e, func(b int64, tag uint64) {
			if b < decisions && e.Seq > p.written[b] {
				p.content[b] = tag
			}
		})
	}
}

func (p *pouring) newest() (d decided) {
	if n := len(p.decisions); n > 0 {
		d = p.decisions[n-1]
	}
	return d
}

// checkShards checks as if everything stopped now: what the log has decided is on
// every shard that counts, and any k of these, whichever others are lost, bring back
// what was written, but for what the log still has.
func (s *sim) checkShards() {
	if s.code == nil || s.damaged {
		return
	}
	p := &s.poured
	s.learn(p)
	batch := p.newest().batch
	if p.views == nil {
		p.views = make([]rows, s.code.K()+s.code.M())
	}
	have := p.have[:0]
	for i := range s.rec.Members {
		m := &s.rec.Members[i]
		if m.State != replication.UpToDate {
			continue
		}
		n := s.node(m.Node)
		if m.Incarnation != n.inc && n.registered || n.old || n.emptied {
			continue
		}
		if !n.shard.view(batch, &p.views[m.Shard]) {
			s.violate("S9", "%s counts, and its shard has not batch %x, which is decided: it has %x, and %x", n.name, batch, n.shard.at(n.shard.commit), n.shard.at(n.shard.last()))
		}
		have = append(have, m.Shard)
	}
	slices.Sort(have)
	have = slices.Compact(have)
	p.have = have
	k := s.code.K()
	if len(have) < k {
		return
	}
	s.dice.Shuffle(len(have), func(i, j int) { have[i], have[j] = have[j], have[i] })
	s.compareRows(have[:k])
	s.checkStaged()
}

// compareRows compares what these shards bring back with what was written. Of all rows
// at once: byte i of a shard depends on byte i of the others only.
func (s *sim) compareRows(have []int) {
	p, k := &s.poured, s.code.K()
	used := (decisions + k - 1) / k
	if p.from == nil {
		p.from, p.got = make([][]byte, k), make([]byte, 8*used)
		for i := range p.from {
			p.from[i] = make([]byte, 8*used)
		}
	}
	for i, h := range have {
		for row := range used {
			putTag(p.from[i][8*row:], p.views[h][row])
		}
	}
	for shard := range k {
		if err := s.code.Rebuild(p.got, shard, have, p.from); err != nil {
			s.violate("S9", "%v", err)
		}
		for b := shard; b < decisions; b += k {
			if p.at[b] > p.poured && p.at[b] != p.written[b] {
				continue
			}
			if tag := tagOf(p.got[b/k*8:]); tag != p.content[b] {
				s.violate("I14", "block %d is %d in shards %v of batch %x; what was written is %d", b, tag, have, p.newest().batch, p.content[b])
			}
			s.Rebuilt++
		}
	}
}

// checkStaged checks that a member that counts has in its log what is committed there
// and not in the shards: it may be the next primary.
func (s *sim) checkStaged() {
	m := &s.rec.Members[s.dice.IntN(len(s.rec.Members))]
	n := s.node(m.Node)
	if m.State != replication.UpToDate || m.Amnesiac || n.core == nil || n.inc != m.Incarnation {
		return
	}
	if n.disk.incomplete || n.shard.incomplete {
		s.violate("S9", "%s counts, and is incomplete", n.name)
	}
	// A shard that was rebuilt has a batch whose decision its log may have still to
	// commit.
	upto, batch := replication.Seq(0), uint64(n.shard.at(n.shard.commit))
	for _, d := range s.poured.decisions {
		if d.seq <= n.disk.commit || d.batch <= batch {
			upto = d.upto
		}
	}
	var newer [mostBlocks]bool
	for i := min(int(n.disk.commit), len(s.committed)) - 1; i >= int(upto); i-- {
		e := &s.committed[i]
		s.acts(e, func(b int64, tag uint64) {
			in := e.Seq
			if _, _, large := largeWrite(e); large > 0 && b < decisions {
				in = 0 // it is in the shards
			}
			if x := n.disk.staged[b]; !newer[b] && x != in {
				s.violate("S9", "the log of %s shows block %d of entry %d, not %d, which is of entry %d; the shards have the log up to %d", n.name, b, x, in, e.Seq, upto)
			}
			newer[b] = true
		})
	}
	for b, seq := range s.poured.written {
		if x := n.disk.staged[b]; seq <= n.disk.commit && x > 0 && x < seq {
			s.violate("S9", "the log of %s shows block %d of entry %d, which entry %d has superseded", n.name, b, x, seq)
		}
	}
}

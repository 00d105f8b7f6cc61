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
	content   [decisions]uint64          // what the shards hold: of all entries up to the newest decision's
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

// learn takes in what was committed since.
func (p *pouring) learn(committed []blockdev.Entry) {
	for ; p.seen < len(committed); p.seen++ {
		e := &committed[p.seen]
		each(e, func(b int64, _ uint64) {
			if b < decisions {
				p.at[b] = e.Seq
			}
		})
		if d, ok := decisionOf(e); ok {
			p.decisions = append(p.decisions, d)
		}
	}
	for ; p.poured < p.newest().upto; p.poured++ {
		each(&committed[p.poured], func(b int64, tag uint64) {
			if b < decisions {
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
	p.learn(s.committed)
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
			if p.at[b] > p.poured {
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
		each(e, func(b int64, _ uint64) {
			if x := n.disk.staged[b]; !newer[b] && x != e.Seq {
				s.violate("S9", "the log of %s lacks block %d of entry %d: it has that of %d; the shards have the log up to %d", n.name, b, e.Seq, x, upto)
			}
			newer[b] = true
		})
	}
}

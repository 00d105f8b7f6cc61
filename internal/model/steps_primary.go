package model

// choose lets node i take the best log of any seals that suffice of those that have
// come, and begin its generation.
func (x step) choose(i int) {
	s := x.s
	if s.role[i] != Sealing {
		return
	}
	var answered uint8
	for r := range x.Nodes {
		if s.seal[i][r] != 0 {
			answered |= bit(r)
		}
	}
	var done []logbook
	for some := uint8(0); some <= members; some++ {
		if some&^answered != 0 || some&^s.counts[i] != 0 || x.rules().Choose(x.set(s.counts[i]), Nodes(some)|Bit(i)) != "" {
			continue
		}
		l := x.bestSeal(i, some)
		known := false
		for _, d := range done {
			known = known || d == l
		}
		if known || l.len() >= mostEntries {
			continue
		}
		done = append(done, l)
		n := *s
		g := s.of[i]
		x.write(&n, i, l)
		n.role[i], n.sentUnder[i] = Chosen, n.counts[i]
		if x.Bug == NoGenerationEntry {
			n.role[i], n.commit[i], n.bound = Serving, uint8(l.len()), max(n.bound, g)
		} else {
			x.write(&n, i, l.with(g<<2))
		}
		n.sent[g] = n.log[i]
		x.to(n, "", "n%d has enough seals, and takes the best log: %d entries, with GENERATION; it ended in generation %d", i, n.log[i].len(), l.gen())
	}
}

// fetch lets node i, which is promoted, have a part of a better log that was sealed:
// what that does not have is cut off, or an entry is taken.
func (x step) fetch(i int) {
	s := x.s
	if s.role[i] != Sealing {
		return
	}
	for r := range x.Nodes {
		l := s.seal[i][r] &^ sealed
		same := s.log[i].common(l)
		if s.seal[i][r] == 0 || !l.beats(s.log[i]) || s.counts[i]&bit(r) == 0 {
			continue
		}
		n := *s
		if same < s.log[i].len() {
			x.cut(&n, i, same)
			x.to(n, "", "n%d cuts off what n%d does not have, behind entry %d", i, r, same)
		} else {
			x.write(&n, i, l.first(same+1))
			x.to(n, "", "n%d fetches from n%d entry %d", i, r, same+1)
		}
	}
}

// bestSeal is the best log of some that have answered, and of node i itself.
func (x step) bestSeal(i int, some uint8) logbook {
	best := x.s.log[i]
	for r := range x.Nodes {
		if some&bit(r) == 0 || x.Bug == OwnLog {
			continue
		}
		l := x.s.seal[i][r] &^ sealed
		if l.beats(best) && x.Bug != LongestLog || l.len() > best.len() && (l.gen() == best.gen() || x.Bug == LongestLog) {
			best = l
		}
	}
	return best
}

// commit moves the commit point of primary i as far as it can be.
func (x step) commit(i int) {
	s := x.s
	if s.role[i] < Chosen {
		return
	}
	g := s.of[i]
	for k := s.log[i].len(); k > int(s.commit[i]); k-- {
		if !x.committable(i, k) {
			continue
		}
		n := *s
		for j := int(s.commit[i]) + 1; j <= k; j++ {
			e := s.log[i].at(j)
			switch {
			case e>>2 != g:
			case e&3 == 0:
				n.role[i], n.bound = Serving, max(n.bound, g)
			case x.Bug != CommitHeld:
				n.mon = n.mon.acked(e&3, x.open(&n))
			}
		}
		n.commit[i] = uint8(k)
		violation := ""
		if c := s.log[i].first(k); n.committed.begins(c) {
			n.committed = c
		} else if !c.begins(n.committed) && !x.Visible {
			violation = "S5: two logs are committed, and neither begins the other"
		}
		x.to(n, violation, "n%d commits %d entries in generation %d, and answers", i, k, int(g))
		return
	}
}

func (x step) committable(i, k int) bool {
	s := x.s
	c := Commit{Gen: uint64(s.of[i]), Entry: uint64(s.log[i].at(k) >> 2), Set: x.set(s.counts[i]), Asked: x.set(s.asked[i]),
		Holders: x.holders(s, i, k, x.Durability == Write && x.Bug != CommitHeld)}
	if j := int(s.joins[i]); j != 0 {
		c.Joins = Bit(j - 1)
	}
	switch {
	case x.Bug == SetOfSending:
		c.Set, c.Asked, c.Joins = x.set(s.sentUnder[i]), Set{}, 0
	case x.Bug == ServeAlone && s.role[i] == Chosen:
		c.Holders = members
	}
	return x.rules().Commit(c) == ""
}

// change lets primary i ask for another set: without a member, with one that joins or
// has caught up, or under the other policy.
func (x step) change(i int) {
	s := x.s
	if s.asked[i] != 0 || int(s.number) >= x.Records {
		return
	}
	known := int(s.commit[i])
	if s.role[i] == Chosen && x.Bug != ShrinkKnown {
		known = s.log[i].len() // any of the chosen log may be committed
	}
	durable := x.Durability != Always && x.Bug != MoveVolatile
	holders := x.holders(s, i, known, durable)
	for r := range x.Nodes {
		if r != i && s.counts[i]&bit(r) != 0 && s.joins[i] == 0 {
			x.ask(i, s.counts[i]&^bit(r)&^(bit(r)<<amnesiacs), holders)
		}
	}
	if s.role[i] < Chosen {
		return
	}
	if x.Policy && s.joins[i] == 0 && s.counts[i]&otherWay == 0 {
		x.ask(i, s.counts[i]|otherWay, holders)
	}
	if x.Bug == GrowEarly {
		holders = x.holders(s, i, int(s.commit[i]), durable)
	}
	if r := int(s.joins[i]) - 1; r >= 0 {
		x.ask(i, s.counts[i]|bit(r), holders)
	}
	for r := range x.Nodes {
		if s.joins[i] == 0 && s.counts[i]>>amnesiacs&bit(r) != 0 {
			x.ask(i, s.counts[i]&^(bit(r)<<amnesiacs), holders)
		}
	}
}

// ask lets primary i ask for a set, if these nodes have enough for it.
func (x step) ask(i int, set uint8, holders Nodes) {
	if x.rules().Change(Change{x.s.role[i], x.s.asked[i] != 0, x.set(x.s.counts[i]), x.set(set), holders}) != "" {
		return
	}
	n := *x.s
	n.asked[i] = set
	if n.of[i] == n.gen && n.knows[i] == n.number {
		n.request = set
	}
	x.to(n, "", "n%d asks the quorum for the set %06b", i, int(set))
}

// learn lets node i know the record with the next number, or give a change up that it
// may not.
func (x step) learn(i int) {
	s := x.s
	if s.asked[i] != 0 && x.Bug == ForgetChange {
		n := *s
		n.asked[i] = 0
		x.to(n, "", "n%d forgets what it has asked for", i)
	}
	if s.number <= s.knows[i] {
		return
	}
	next := s.knows[i] + 1
	mine := s.pastGen[next] == s.of[i]
	if s.asked[i] == 0 && !mine {
		return
	}
	n := *s
	if !mine {
		n.stepDown(i)
		x.to(n, "", "n%d learns that its generation is over", i)
		return
	}
	was := n.counts[i]
	n.knows[i], n.counts[i], n.asked[i] = next, s.pastSet[next], 0
	if x.Bug == JoinerUncounted && was&^n.counts[i] == 0 {
		n.counts[i] = was
	}
	if j := int(n.joins[i]); j != 0 && n.counts[i]&bit(j-1) != 0 {
		n.joins[i] = 0
	}
	for r := range x.Nodes {
		if n.counts[i]>>amnesiacs&^(was>>amnesiacs)&bit(r) != 0 || n.counts[i] == was && was>>amnesiacs&bit(r) != 0 {
			n.held[i][r], n.durable[i][r] = 0, 0 // nothing that the run before said counts
		}
	}
	x.to(n, "", "n%d learns the set %06b", i, int(n.counts[i]))
}

// lease lets node i get and lose leases, and give them up.
func (x step) lease(i int) {
	s := x.s
	if !x.Leases {
		return
	}
	if (x.Handover || x.Bug == NamelessRelease) && s.believes[i] != 0 {
		n := *s
		n.released |= n.believes[i]
		n.believes[i] = 0
		x.to(n, "", "n%d gives its leases up", i)
	}
	for r := range x.Nodes {
		if s.believes[i]&bit(r) != 0 {
			n := *s
			n.believes[i] &^= bit(r)
			x.to(n, "", "for n%d the lease from n%d ends", i, r)
		} else if r != i && (s.counts[i]|s.asked[i])&members&bit(r) != 0 && s.prom[r] == s.of[i] && !x.isDown(r) && s.role[i] == Serving {
			n := *s
			n.believes[i] |= bit(r)
			n.grants[r] = 1
			if x.Bug != NamelessRelease {
				n.released &^= bit(r) // a release names its lease
			}
			x.to(n, "", "n%d gets a lease from n%d", i, r)
		}
	}
}

func (x step) read(i int) {
	s := x.s
	if !x.reads(s, i) || int(s.commit[i]) != s.log[i].len() && !(x.Bug == ServeEarly && s.role[i] == Chosen) {
		return
	}
	n := *s
	v := s.log[i].value()
	if n.mon = n.mon.read(v, x.open(&n)); n != *s {
		x.to(n, "", "n%d answers a read: %d", i, int(v))
	}
}

func (x step) flush(i int) {
	s := x.s
	if x.Durability != Flush {
		return
	}
	k := int(s.commit[i])
	c := s.log[i].first(k)
	if k > 0 && c != s.flushed && s.flushed.begins(c) && x.rules().Flush(s.role[i], x.set(s.counts[i]), x.set(s.asked[i]), x.holders(s, i, k, true)) == "" {
		n := *s
		n.flushed = c
		x.to(n, "", "n%d answers a flush up to entry %d", i, k)
	}
}

// invite lets primary i bring nodes level that do not count, one at a time.
func (x step) invite(i int) {
	s := x.s
	if !x.Joins || s.asked[i] != 0 || s.role[i] < Chosen {
		return
	}
	g := int(s.of[i])
	for r := range x.Nodes {
		outside := s.counts[i]&bit(r) == 0
		if r == i || x.isDown(r) || !outside && s.counts[i]>>amnesiacs&bit(r) == 0 {
			continue
		}
		if s.joinSent[g]&bit(r) == 0 && int(s.prom[r]) < g {
			n := *s
			n.joinSent[g] |= bit(r)
			x.to(n, "", "n%d invites n%d", i, r)
		}
		if outside && s.joins[i] == 0 && int(s.prom[r]) == g {
			n := *s
			n.joins[i] = uint8(r) + 1
			x.to(n, "", "n%d begins to bring n%d level", i, r)
		}
		invited, same := !outside || int(s.joins[i]) == r+1, s.log[i].common(s.log[r])
		if invited && s.log[r] != 0 && int(s.prom[r]) == g && x.rules().Empty(x.set(s.counts[i]), r, uint64(s.synced[i]), uint64(same)) == "" {
			n := *s
			n.log[r], n.synced[r], n.held[i][r], n.durable[i][r] = 0, 0, 0, 0
			x.to(n, "", "n%d empties n%d, to copy everything", i, r)
		}
	}
	if s.joins[i] != 0 {
		n := *s
		n.joins[i] = 0
		x.to(n, "", "n%d gives the join up", i)
	}
}

// begin lets a client write at node i.
func (x step) begin(i int) {
	s := x.s
	if x.rules().Begin(s.role[i]) != "" || int(s.invoked) >= x.Writes || s.log[i].len() >= mostEntries {
		return
	}
	n := *s
	g := s.of[i]
	n.invoked++
	n.writeGen[n.invoked-1] = g
	x.write(&n, i, n.log[i].with(g<<2|n.invoked))
	n.sent[g] = n.log[i]
	n.sentUnder[i] = 0
	if x.Bug == SetOfSending {
		n.sentUnder[i] = n.counts[i]
	}
	n.mon = n.mon.closure(x.open(&n))
	x.to(n, "", "a client begins to write %d at n%d, as entry %d", int(n.invoked), i, n.log[i].len())
}

package model

// promote lets the quorum make node i primary of the next generation.
func (x step) promote(i int) {
	s := x.s
	if int(s.gen) >= x.Generations || int(s.number) >= x.Records || x.isDown(i) || x.rules().Promote(x.set(s.set), i) != "" {
		return
	}
	n := *s
	n.gen++
	n.number++
	n.set |= bit(i)
	n.primary[n.gen], n.setOf[n.gen], n.recordOf[n.gen] = uint8(i), n.set, n.number
	n.record()
	x.to(n, "", "the quorum makes n%d primary of generation %d, members %03b", i, int(n.gen), int(n.set&members))
}

// decide lets the quorum decide the change that it was asked for. One that is of an
// older record is never asked for.
func (x step) decide() {
	s := x.s
	if s.request == 0 || int(s.number) >= x.Records {
		return
	}
	n := *s
	n.set = n.request
	n.number++
	n.record()
	x.to(n, "", "the quorum records the set %06b", int(n.set))
}

// register lets a node that has lost power make itself known: as an amnesiac, if it is
// a member.
func (x step) register(i int) {
	s := x.s
	if !x.isDown(i) || int(s.number) >= x.Records {
		return
	}
	n := *s
	n.down &^= bit(i)
	if n.set&bit(i) != 0 {
		n.number++
		n.set |= bit(i) << amnesiacs
		n.record()
	} else {
		if n.request&bit(i) != 0 {
			n.request = 0 // it names the run that is over
		}
		for q := range x.Nodes {
			n.held[q][i], n.durable[q][i] = 0, 0
			if int(n.joins[q]) == i+1 {
				n.joins[q], n.asked[q] = 0, 0
			}
		}
	}
	x.to(n, "", "n%d registers a new run, which has forgotten", i)
}

// recover ends a recovery: too few members are sound to promote one, all have told what
// they have, and the best log is that of the next generation, with its node as the only
// member. What clients were told before counts no more, but for what was flushed.
func (x step) recover() {
	s := x.s
	in := s.set & members
	if x.Durability != Flush || s.down&in != 0 || x.rules().Recover(x.set(s.set), true, true) != "" {
		return
	}
	for i := range x.Nodes {
		if in&bit(i) != 0 && s.role[i] >= Chosen {
			return // a primary that has its log refuses
		}
	}
	l := best(s, in)
	if !s.flushed.begins(l) {
		x.to(*s, "I13: what was flushed is lost", "all logs are read, and none has it")
		return
	}
	if int(s.gen) >= x.Generations || int(s.number) >= x.Records {
		return
	}
	for i := range x.Nodes {
		if in&bit(i) == 0 || x.rules().Recover(x.set(s.set), s.log[i] == l, int(s.synced[i]) >= s.log[i].len()) != "" {
			continue
		}
		if !s.flushed.begins(s.log[i]) {
			x.to(*s, "I13: what was flushed is lost", "the volume would be recovered with the log of n%d", i)
			return
		}
		n := *s
		for q := range x.Nodes {
			if in&bit(q) != 0 {
				n.stepDown(q) // its seals cannot come
			}
		}
		n.gen++
		n.number++
		for q := range x.Nodes {
			if s.set>>amnesiacs&in&bit(q) != 0 {
				n.since[q] = n.gen
			}
		}
		n.set = bit(i) | s.set&otherWay
		n.primary[n.gen], n.setOf[n.gen], n.recordOf[n.gen] = uint8(i), n.set, n.number
		n.record()
		n.committed = s.log[i]
		n.mon = monitorAt(n.committed, x.open(&n))
		x.to(n, "", "the volume is recovered with the log of n%d, in generation %d", i, int(n.gen))
	}
}

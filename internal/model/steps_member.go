package model

// activate lets node i, which was promoted to generation g, seal itself.
func (x step) activate(i, g int) {
	s := x.s
	if g > int(s.gen) || x.isDown(i) || s.setOf[g] == 0 || int(s.primary[g]) != i {
		return
	}
	fresh := x.rules().Activate(Promise{uint64(s.prom[i]), uint64(g), true, false, s.grants[i] != 0}) == ""
	resumed := x.Bug == Resume && int(s.prom[i]) == g && s.role[i] == Secondary && s.sent[g] != 0
	if !fresh && !resumed {
		return
	}
	n := *s
	n.stepDown(i)
	n.prom[i] = uint8(g)
	n.role[i], n.of[i], n.knows[i], n.counts[i] = Sealing, uint8(g), n.recordOf[g], n.setOf[g]
	n.sealSent[g] = n.counts[i] & members &^ bit(i)
	if fresh {
		n.grants[i] = 0
	}
	if resumed {
		n.role[i] = Serving
		n.sent[g] = n.log[i]
	}
	x.to(n, "", "n%d seals itself for generation %d", i, g)
}

// seal lets node i promise generation g and answer with its log, which the promoted
// node has at once: a log that cannot be fetched is one of the planted bugs.
func (x step) seal(i, g int) {
	s := x.s
	asked := s.sealSent[g]&bit(i) != 0 && g >= int(s.since[i])
	if x.isDown(i) || !asked || x.rules().Seal(Promise{uint64(s.prom[i]), uint64(g), asked, x.forgotten(i), s.grants[i] != 0}) != "" {
		return
	}
	n := *s
	if n.role[i] != Secondary {
		n.stepDown(i)
	}
	n.prom[i] = uint8(g)
	n.sealSent[g] &^= bit(i)
	for q := range x.Nodes {
		if n.role[q] == Sealing && int(n.of[q]) == g {
			n.seal[q][i] = sealed | n.log[i]
		}
	}
	x.to(n, "", "n%d seals generation %d, its log ends in generation %d", i, g, s.log[i].gen())
}

// receive lets node i take the next entry of generation g, or acknowledge what it has
// once more.
func (x step) receive(i, g int) {
	s := x.s
	sent := s.sent[g]
	same := s.log[i].common(sent)
	taking := func(k, follows int) bool {
		return x.rules().Take(Taking{uint64(s.prom[i]), uint64(g), uint64(same), uint64(k), uint64(follows)}) == ""
	}
	if sent == 0 || g < int(s.since[i]) || x.isDown(i) || s.role[i] != Secondary && int(s.of[i]) == g || !taking(same, same) {
		return
	}
	leader := -1
	for j := range x.Nodes {
		if s.role[j] >= Chosen && int(s.of[j]) == g {
			leader = j
		}
	}
	if x.forgotten(i) && (leader < 0 || s.counts[leader]>>amnesiacs&bit(i) == 0) {
		return // what is sent is for the run that is over
	}
	if same < sent.len() && taking(same+1, same+1) {
		x.take(i, g, leader, same+1, sent.first(same+1))
	}
	if same < sent.len() && same < s.log[i].len() {
		n := *s
		x.cut(&n, i, same)
		x.to(n, "", "n%d cuts off what generation %d does not have, behind entry %d, and takes nothing yet", i, g, same)
	}
	if same > 0 && leader >= 0 && int(s.held[leader][i]) < same && (same == sent.len() || x.Bug == OldEntries) {
		n := *s
		n.held[leader][i] = uint8(same)
		x.to(n, "", "n%d acknowledges once more what it has of generation %d: %d entries", i, g, same)
	}
	for k := 1; k < s.log[i].len() && k <= same && taking(k, k); k++ {
		n := *s
		n.log[i] = s.log[i].first(k)
		n.synced[i] = min(n.synced[i], uint8(k))
		x.to(n, "", "n%d takes an append of generation %d again, up to entry %d", i, g, k)
	}
	for k := same + 2; k <= sent.len() && k <= s.log[i].len()+1 && taking(k, same); k++ {
		x.take(i, g, leader, k, s.log[i].first(k-1).with(sent.at(k)))
	}
}

func (x step) take(i, g, leader, k int, l logbook) {
	n := *x.s
	x.write(&n, i, l)
	if leader >= 0 {
		n.held[leader][i] = max(n.held[leader][i], uint8(k))
	}
	x.to(n, "", "n%d takes an append of generation %d up to entry %d", i, g, k)
}

// join lets node i promise generation g because it was invited.
func (x step) join(i, g int) {
	s := x.s
	asked := s.joinSent[g]&bit(i) != 0 && g >= int(s.since[i])
	if x.isDown(i) || !asked || x.rules().Join(Promise{Had: uint64(s.prom[i]), New: uint64(g), Asked: asked}) != "" {
		return
	}
	n := *s
	if n.role[i] != Secondary {
		n.stepDown(i)
	}
	n.prom[i] = uint8(g)
	x.to(n, "", "n%d promises generation %d, to join", i, g)
}

// grant lets the lease that node i gave end: by time, never before nobody believes in
// it, or by a release.
func (x step) grant(i int) {
	s := x.s
	if s.grants[i] != 0 {
		believed := false
		for q := range x.Nodes {
			believed = believed || s.believes[q]&bit(i) != 0
		}
		if !believed {
			n := *s
			n.grants[i] = 0
			x.to(n, "", "the lease that n%d gave ends", i)
		}
	}
	if s.released&bit(i) != 0 {
		n := *s
		n.released &^= bit(i)
		n.grants[i] = 0
		x.to(n, "", "n%d hears of a release", i)
	}
}

// crash restarts the process of node i, which forgets what is not on its disk.
func (x step) crash(i int) {
	s := x.s
	if int(s.crashes) >= x.Crashes || x.isDown(i) {
		return
	}
	n := *s
	n.stepDown(i)
	if x.Bug == ForgetGrant {
		n.grants[i] = 0
	}
	if x.Bug == VolatilePromise {
		n.prom[i] = 1
	}
	if n != *s {
		n.crashes++
		x.to(n, "", "n%d starts again", i)
	}
}

// losePower takes from node i what was not synced.
func (x step) losePower(i int) {
	s := x.s
	if x.Durability == Always || int(s.powers) >= x.Powers || x.isDown(i) {
		return
	}
	n := *s
	n.stepDown(i)
	n.powers++
	n.log[i] = s.log[i].first(int(s.synced[i]))
	if x.Durability == Flush {
		n.down |= bit(i)
		for g := 2; g <= x.Generations && x.Bug != PromotionOfAnyRun; g++ {
			if n.setOf[g] != 0 && int(n.primary[g]) == i {
				n.setOf[g] = 0 // it named the run that is over
			}
		}
	}
	x.to(n, "", "n%d loses power, %d entries are left", i, int(s.synced[i]))
}

func (x step) sync(i int) {
	s := x.s
	if x.Durability == Always || x.isDown(i) || int(s.synced[i]) >= s.log[i].len() {
		return
	}
	n := *s
	n.synced[i] = uint8(n.log[i].len())
	x.to(n, "", "n%d has synced %d entries", i, int(n.synced[i]))
}

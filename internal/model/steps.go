package model

// step is a state whose successors are wanted.
type step struct {
	*Model
	s     *state
	visit func(label, *state, string)
}

// steps calls visit for every successor of a state, with what is wrong with it.
func (m *Model) steps(s *state, visit func(l label, n *state, violation string)) {
	x := step{m, s, visit}
	for i := range m.Nodes {
		x.promote(i)
		for g := 2; g <= m.Generations; g++ {
			x.activate(i, g)
			x.seal(i, g)
		}
		for g := 1; g <= m.Generations; g++ {
			x.receive(i, g)
			x.join(i, g)
		}
		x.grant(i)
		x.crash(i)
		x.losePower(i)
		x.register(i)
		x.sync(i)
		if s.role[i] != Secondary {
			x.lead(i)
		}
	}
	x.decide()
	x.recover()
}

// lead is what node i does as more than a member.
func (x step) lead(i int) {
	x.fetch(i)
	x.choose(i)
	x.commit(i)
	x.change(i)
	x.learn(i)
	x.lease(i)
	x.read(i)
	x.flush(i)
	x.invite(i)
	x.begin(i)
}

// to is a successor.
func (x step) to(n state, violation, what string, args ...int) {
	x.normalize(&n)
	if violation == "" {
		violation = x.check(&n)
	}
	l := label{what: what}
	for i, p := range []*int{&l.a, &l.b, &l.c} {
		if i < len(args) {
			*p = args[i]
		}
	}
	x.visit(l, &n, violation)
}

func (x step) isDown(i int) bool { return x.s.down&bit(i) != 0 }

// forgotten tells whether node i is recorded as an amnesiac member.
func (x step) forgotten(i int) bool { return x.s.set>>amnesiacs&x.s.set&bit(i) != 0 }

// record notes the record as it is now.
func (s *state) record() {
	s.pastSet[s.number], s.pastGen[s.number] = s.set, s.gen
	s.request = 0
}

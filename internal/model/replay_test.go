package model

import "testing"

// course is three nodes of which the first has begun generation 1 with a majority, and
// has written entry 2, which the second one has as well; the third has all but that.
func course(broken func(step string)) (r *Replay, k *Known) {
	r = NewReplay(3, func(step string, _ int, _ string) { broken(step) })
	set := Set{Members: 7, Majority: true}
	rec := Record{Gen: 1, Number: 1, Set: set, Runs: [MostNodes]uint64{11, 12, 13}}
	r.Recorded(rec, false, false, false, 0)
	k = &Known{Number: 1, Set: set, Runs: rec.Runs}
	for i := range 3 {
		r.Opened(i, 11+uint64(i), 0, Log{}, 0)
	}
	r.Promised(0, 1, false)
	r.Became(0, Sealing, 1, k)
	for i := 1; i < 3; i++ {
		r.SentSeal(0, i, 1, 11+uint64(i))
		r.Heard(i, 1)
		r.Promised(i, 1, false)
		r.SaidLog(i, 1, true, 0, 0, 0, 0)
		k.Sealed |= Bit(i)
	}
	r.Became(0, Chosen, 1, k)
	for i := range 3 {
		r.Appended(i, 1, 1)
	}
	r.SaidHeld(1, 1, 1, 0)
	k.Held = [MostNodes]uint64{1, 1}
	r.Committed(0, 1, k)
	r.Became(0, Serving, 1, k)
	r.Appended(0, 1, 2)
	r.Appended(1, 1, 2)
	r.SaidHeld(1, 1, 2, 0)
	k.Held[0] = 2
	r.Synced(0, 2, false)
	return r, k
}

// TestReplay takes steps that the rules allow, and steps that they do not: each is told
// by its name.
func TestReplay(t *testing.T) {
	without := Set{Members: 3, Majority: true}
	tests := []struct {
		name, broken string
		steps        func(r *Replay, k *Known)
	}{
		{"it is committed when it is known that two have it", "", func(r *Replay, k *Known) { k.Held[1] = 2; r.Committed(0, 2, k) }},
		{"it is committed before", "commit", func(r *Replay, k *Known) { r.Committed(0, 2, k) }},
		{"who has it is counted without an answer", "count", func(r *Replay, k *Known) { k.Held[2] = 2; r.Knows(0, k) }},
		{"what is not there is acknowledged", "acknowledge", func(r *Replay, _ *Known) { r.SaidHeld(2, 1, 2, 0) }},
		{"what is not synced is acknowledged as durable", "acknowledge", func(r *Replay, _ *Known) { r.SaidHeld(1, 1, 2, 2) }},
		{"a member commits before its primary", "follow", func(r *Replay, k *Known) { r.Committed(1, 2, k) }},
		{"a member takes what its primary has", "", func(r *Replay, _ *Known) { r.Appended(2, 1, 2) }},
		{"a member takes what its primary does not have", "take", func(r *Replay, _ *Known) { r.Appended(1, 1, 3) }},
		{"a member takes what an older generation sends", "take", func(r *Replay, _ *Known) {
			r.Recorded(Record{Gen: 2, Number: 2, Set: Set{Members: 7, Majority: true}, Primary: 1, Runs: [MostNodes]uint64{11, 12, 13}}, false, false, false, 0)
			r.reigns[2].invited[2].seal = 13
			r.Promised(2, 2, false)
			r.Heard(2, 1)
			r.Appended(2, 1, 2)
		}},
		{"a member cuts off what its primary has", "cut", func(r *Replay, _ *Known) { r.CutOff(1, 1) }},
		{"nobody has asked for a promise", "seal", func(r *Replay, _ *Known) { r.Promised(2, 2, false) }},
		{"somebody believes in a lease from who seals", "seal", func(r *Replay, _ *Known) {
			r.reigns[2] = &reign{primary: 1, run: 12}
			r.reigns[2].invited[2].seal = 13
			r.Promised(2, 2, true)
		}},
		{"a change without what is durable", "change", func(r *Replay, k *Known) { k.Asked = without; r.Knows(0, k) }},
		{"a change with what is durable", "", func(r *Replay, k *Known) {
			k.Durable = [MostNodes]uint64{1, 1}
			k.Asked = without
			r.Knows(0, k)
			r.Recorded(Record{Gen: 1, Number: 2, Set: without, Runs: k.Runs}, true, false, false, 0)
			k.Number, k.Set, k.Asked = 2, without, Set{}
			r.Knows(0, k)
		}},
		{"a change is recorded that nobody has asked for", "decide", func(r *Replay, k *Known) {
			r.Recorded(Record{Gen: 1, Number: 2, Set: without, Runs: k.Runs}, true, false, false, 0)
		}},
		{"a change is forgotten", "change", func(r *Replay, k *Known) {
			k.Durable = [MostNodes]uint64{1, 1}
			k.Asked = without
			r.Knows(0, k)
			k.Asked = Set{}
			r.Knows(0, k)
		}},
		{"who counts is emptied", "empty", func(r *Replay, k *Known) { r.SentReset(0, 2, 1, 13, k) }},
		{"a read without leases", "read", func(r *Replay, k *Known) { r.Read(0, k) }},
		{"a read with one lease of two", "", func(r *Replay, k *Known) { k.Lent = Bit(2); r.Read(0, k) }},
		{"a flush of what one has durably", "flush", func(r *Replay, k *Known) { k.Durable[0] = 1; r.Flushed(0, 1, k) }},
		{"a promotion of a node that is no member", "promote", func(r *Replay, k *Known) {
			r.record.Set = without
			r.Recorded(Record{Gen: 2, Number: 2, Set: without, Primary: 2, Runs: k.Runs}, false, false, false, 0)
		}},
		{"what was synced is lost", "lose power", func(r *Replay, _ *Known) { r.LostPower(0, 1, 1, 1) }},
		{"what was lost is missed by nobody", "register", func(r *Replay, k *Known) {
			r.LostPower(1, 1, 1, 1)
			k.Runs[1] = 22
			r.Recorded(Record{Gen: 1, Number: 2, Set: Set{Members: 7, Majority: true}, Runs: k.Runs}, false, false, false, 0)
		}},
		{"a run forgets its promise", "restart", func(r *Replay, _ *Known) { r.Reopened(1, 22, 0, 1, 2, 0) }},
		{"a restarted run begins its generation again", "activate", func(r *Replay, k *Known) {
			r.Reopened(0, 21, 1, 1, 2, 1)
			r.Became(0, Sealing, 1, k)
		}},
		{"a recovery although a member can be promoted", "recover", func(r *Replay, k *Known) {
			r.Recorded(Record{Gen: 2, Number: 2, Set: without, Runs: k.Runs}, true, true, false, 0)
		}},
	}
	for _, x := range tests {
		got := ""
		r, k := course(func(step string) {
			if got == "" {
				got = step
			}
		})
		if got != "" {
			t.Fatalf("%s is refused of a course that is right", got)
		}
		if x.steps(r, k); got != x.broken {
			t.Errorf("%s: refused is %q, not %q", x.name, got, x.broken)
		}
	}
}

// TestLog compares logs by where their generations begin.
func TestLog(t *testing.T) {
	log := func(gens ...uint64) (l Log) {
		for i, g := range gens {
			l.Add(g, uint64(i+1))
		}
		return l
	}
	for _, x := range []struct {
		a, b   Log
		common uint64
		beats  bool
	}{
		{log(), log(), 0, false},
		{log(1), log(), 0, true},
		{log(1, 1, 2), log(1, 1, 2, 2), 3, false},
		{log(1, 1, 3), log(1, 1, 2, 2), 2, true},
		{log(1, 1, 2, 3), log(1, 2, 2, 2), 1, true},
		{log(2), log(1, 1), 0, true},
		{log(1, 1, 1), log(1, 1, 2), 2, false},
		{log(1, 1, 2, 4).first(2), log(1, 1), 2, false},
	} {
		if n := x.a.common(&x.b); n != x.common || x.b.common(&x.a) != n || x.a.beats(&x.b) != x.beats {
			t.Errorf("%v and %v: %d in common, not %d; the first is better: %v, not %v", x.a, x.b, n, x.common, x.a.beats(&x.b), x.beats)
		}
	}
}

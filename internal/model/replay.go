package model

import "fmt"

// MostNodes bounds a cluster that is replayed.
const MostNodes = 16

// Replay follows a cluster that runs, and asks the rules for each of its steps. Who runs
// it tells of what happens to its nodes, in order, by the methods below; a step that no
// rule allows is told to broken, by its name.
//
// A step of the code is one of the model's, or several, or none: all of a log's entries
// may be taken, cut off or committed in one call, and an answer is counted later than
// it was given, when it may be too old to tell all. What the model leaves out is not
// asked for: the content of entries, copies of images, leases but for who believes in
// one, shards. Numbers begin at 1.
type Replay struct {
	Steps   int // that were asked for
	rules   Rules
	broken  func(step string, node int, why string)
	nodes   []node
	reigns  map[uint64]*reign
	record  Record
	records map[uint64]Record // by number
	asked   map[uint64]Set    // by the number of the record that is to be changed
}

// Record is what the quorum has decided.
type Record struct {
	Lineage     uint64
	Gen, Number uint64
	Set         Set
	Primary     int               // -1: none
	Runs        [MostNodes]uint64 // of the members
}

// node is what a node has.
type node struct {
	run   uint64
	heard uint64 // the generation of the message that it acts on
	promised
	before promised // what it promised last
	synced uint64
	lost   bool // entries, by a loss of power
	half   bool // a copy has begun, and is not complete

	role    Role
	of      uint64
	knows   uint64 // record number
	asked   Set
	refused bool // what it has asked for
	held    [MostNodes]uint64
}

// promised is the newest promise, and the log under it.
type promised struct {
	prom   uint64
	log    Log
	commit uint64
}

// under is the log of the promise of a generation, if that was one of the last two: what
// is said under one may be sent when the next one is made.
func (n *node) under(g uint64) (p promised, ok bool) {
	if g == n.before.prom && g != n.prom {
		return n.before, true
	}
	return n.promised, g == n.prom
}

// reign is a generation.
type reign struct {
	primary int
	run     uint64 // of the primary
	begun   bool
	first   uint64 // its GENERATION entry; 0: no log is chosen
	log     Log    // of its primary, from then on
	commit  uint64
	invited [MostNodes]struct{ seal, join, empty uint64 } // runs
	said    [MostNodes]answer
}

// answer is what a run of a node has told a primary.
type answer struct {
	run           uint64
	sealed        bool
	log           Log // with SEALED or JOINED
	held, durable uint64
}

// Known is what a promoted node goes by.
type Known struct {
	Number        uint64 // of the record
	Set, Asked    Set    // no members: nothing is asked for
	Strict        bool   // what is held counts when it is durable
	Held, Durable [MostNodes]uint64
	Runs          [MostNodes]uint64
	Sealed, Lent  Nodes
}

// NewReplay follows so many nodes.
func NewReplay(nodes int, broken func(step string, node int, why string)) *Replay {
	return &Replay{broken: broken, nodes: make([]node, nodes), reigns: map[uint64]*reign{}, records: map[uint64]Record{}, asked: map[uint64]Set{}}
}

// step tells of a step that may not be taken, if why says so.
func (r *Replay) step(name string, i int, why string, format string, args ...any) {
	r.Steps++
	if why != "" {
		r.broken(name, i, why+": "+fmt.Sprintf(format, args...))
	}
}

// reign is a generation, of which nothing may be known.
func (r *Replay) reign(g uint64) *reign {
	if w := r.reigns[g]; w != nil {
		return w
	}
	return &reign{primary: -1}
}

// Opened tells that a run of node i has a replica open that it has not had before.
func (r *Replay) Opened(i int, run, prom uint64, log Log, commit uint64) {
	r.nodes[i] = node{run: run, promised: promised{prom, log, commit}}
}

// Reopened tells that a run of node i has the replica open that the run before had.
func (r *Replay) Reopened(i int, run, prom, gen, last, commit uint64) {
	n := &r.nodes[i]
	why := ""
	g, seq := n.log.End()
	switch {
	case prom != n.prom:
		why = "it had promised something else"
	case last != seq || gen != g:
		why = "its log was another one"
	}
	r.step("restart", i, why, "promised is %d, was %d; the log ends at (%d, %d), was (%d, %d)", prom, n.prom, gen, last, g, seq)
	r.Opened(i, run, prom, n.log, commit)
}

// LostPower tells what node i has left.
func (r *Replay) LostPower(i int, gen, last, commit uint64) {
	n := &r.nodes[i]
	why := ""
	switch {
	case last < n.synced:
		why = "what was synced is lost"
	case last > n.log.last || n.log.gen(last) != gen:
		why = "it has what it never had"
	}
	r.step("lose power", i, why, "the log ends at (%d, %d), up to %d it was synced", gen, last, n.synced)
	n.lost = n.lost || last < n.log.last
	n.log, n.commit = n.log.first(last), commit
}

// Replaced tells that node i has the disk of another time.
func (r *Replay) Replaced(i int) { r.nodes[i].lost = false }

// Heard tells that node i acts on a message of a generation.
func (r *Replay) Heard(i int, gen uint64) { r.nodes[i].heard = gen }

// Synced tells up to where the log of node i survives a loss of power, and whether a copy
// to it is not complete.
func (r *Replay) Synced(i int, seq uint64, half bool) { r.nodes[i].synced, r.nodes[i].half = seq, half }

// Promised tells that node i has promised a generation. Lent: somebody who was promoted
// before believes in a lease that it gave. A new lineage begins with generation 0.
func (r *Replay) Promised(i int, g uint64, lent bool) {
	n, w := &r.nodes[i], r.reign(g)
	p := Promise{Had: n.prom, New: g, Forgot: r.record.Set.Amnesiacs.Has(i), Lent: lent}
	n.before, n.prom = n.promised, g
	ask := w.invited[i]
	switch {
	case g == 0:
		return
	case w.primary == i:
		p.Asked = w.run == n.run
		r.step("activate", i, r.rules.Activate(p), "%+v", p)
	case ask.join == n.run && (ask.seal != n.run || r.rules.Join(p) == ""):
		p.Asked = true
		r.step("join", i, r.rules.Join(p), "%+v", p)
	default:
		p.Asked = ask.seal == n.run
		r.step("seal", i, r.rules.Seal(p), "%+v", p)
	}
}

// Became tells of the role of node i in a generation.
func (r *Replay) Became(i int, role Role, g uint64, k *Known) {
	n, w := &r.nodes[i], r.reign(g)
	n.role = role
	switch role {
	case Secondary:
		n.of, n.knows, n.asked, n.refused, n.held = 0, 0, Set{}, false, [MostNodes]uint64{}
	case Sealing:
		why := ""
		if w.primary != i || w.run != n.run || w.begun || n.prom != g {
			why = "this run of it has begun that before, or may not"
		}
		r.step("activate", i, why, "generation %d, promised is %d", g, n.prom)
		w.begun = true
		n.of, n.knows = g, k.Number
	case Chosen:
		seals := Bit(i)
		for j := range r.nodes {
			if x := &w.said[j]; k.Sealed.Has(j) && x.sealed && x.run == k.Runs[j] && !x.log.beats(&n.log) && k.Set.sound().Has(j) {
				seals |= Bit(j)
			}
		}
		end, seq := n.log.End()
		r.step("choose", i, r.rules.Choose(k.Set, seals), "generation %d, a log up to (%d, %d), of %v by %v", g, end, seq, k.Set, seals)
		w.log, w.first, w.commit = n.log, seq+1, n.commit
	case Serving:
		why := ""
		if w.commit < w.first {
			why = "its first entry is not committed"
		}
		r.step("serve", i, why, "generation %d, committed up to %d", g, w.commit)
	}
}

// Appended tells that the log of node i has another entry.
func (r *Replay) Appended(i int, gen, seq uint64) {
	n := &r.nodes[i]
	switch w := r.reign(n.of); n.role {
	case Secondary:
		r.take(i, gen, seq)
	case Sealing:
		why := "nobody who has sealed has that"
		for j := range r.nodes {
			if x := &w.said[j]; x.sealed && x.log.gen(seq) == gen && x.log.gen(seq-1) == n.log.gen(seq-1) {
				why = ""
			}
		}
		r.step("fetch", i, why, "entry (%d, %d) in generation %d", gen, seq, n.of)
	default:
		if why := r.rules.Begin(n.role); seq != w.first || why != "" && n.role != Chosen {
			r.step("begin", i, why, "entry (%d, %d) in generation %d", gen, seq, n.of)
		}
		w.log.Add(gen, seq)
	}
	n.log.Add(gen, seq)
}

func (r *Replay) take(i int, gen, seq uint64) {
	n := &r.nodes[i]
	w := r.reign(n.heard)
	t := Taking{Promised: n.prom, Gen: n.heard, Same: n.log.common(&w.log), New: seq}
	if t.Follows = t.Same; t.Same == n.log.last && w.log.gen(seq) == gen {
		t.Follows = seq
	}
	r.step("take", i, r.rules.Take(t), "entry (%d, %d): %+v", gen, seq, t)
}

// CutOff tells that the log of node i ends earlier.
func (r *Replay) CutOff(i int, seq uint64) {
	n := &r.nodes[i]
	switch n.role {
	case Secondary:
		w := r.reign(n.heard)
		t := Taking{Promised: n.prom, Gen: n.heard, Same: n.log.common(&w.log), New: seq}
		t.Follows = min(t.Same, seq)
		r.step("cut", i, r.rules.Cut(t), "%+v", t)
	case Sealing:
		why := "nobody who has sealed has a better log that differs"
		w := r.reign(n.of)
		for j := range r.nodes {
			if x := &w.said[j]; x.sealed && x.log.beats(&n.log) && x.log.common(&n.log) <= seq {
				why = ""
			}
		}
		r.step("fetch", i, why, "it cuts its log off after %d", seq)
	default:
		r.step("cut", i, "it leads", "up to %d", seq)
	}
	n.log = n.log.first(seq)
}

// Emptied tells that node i has forgotten its log, to get all up to an entry by a copy.
func (r *Replay) Emptied(i int, gen, seq uint64) {
	n, w := &r.nodes[i], r.reign(r.nodes[i].heard)
	why := ""
	switch {
	case n.role != Secondary:
		why = "it leads"
	case seq > 0 && (w.invited[i].empty != n.run || n.heard != n.prom):
		why = "nobody has asked this run of it to"
	case seq == 0 && r.record.Set.sound().Has(i) && r.record.Runs[i] == n.run:
		why = "it counts"
	case w.log.gen(seq) != gen:
		why = "the primary's log is another one"
	}
	r.step("empty", i, why, "up to (%d, %d) in generation %d, promised is %d", gen, seq, n.heard, n.prom)
	n.log, n.commit, n.half = w.log.first(seq), seq, true
}

// Committed tells that node i has committed its log up to an entry; k is what it knows
// if it is promoted.
func (r *Replay) Committed(i int, seq uint64, k *Known) {
	n := &r.nodes[i]
	if n.role < Chosen {
		w := r.reign(n.heard)
		why := ""
		switch {
		case n.role == Sealing:
			why = "its log is not chosen"
		case n.heard != n.prom:
			why = "another generation is promised"
		case seq > w.commit:
			why = "its primary has not"
		case seq > n.log.common(&w.log):
			why = "its primary's log is another one"
		}
		r.step("follow", i, why, "up to %d in generation %d, committed up to %d", seq, n.heard, w.commit)
		n.commit = seq
		return
	}
	r.Knows(i, k)
	w := r.reign(n.of)
	c := Commit{Gen: n.of, Entry: n.log.gen(seq), Set: k.Set, Asked: k.Asked, Holders: r.holders(i, seq, k, k.Strict)}
	r.step("commit", i, r.rules.Commit(c), "up to %d: %+v", seq, c)
	n.commit, w.commit = seq, max(w.commit, seq)
}

// holders are the nodes of which primary i knows that they hold its log up to seq.
func (r *Replay) holders(i int, seq uint64, k *Known, durable bool) (set Nodes) {
	for j := range r.nodes {
		has := k.Held[j]
		if durable {
			has = k.Durable[j]
		}
		if has >= seq {
			set |= Bit(j)
		}
	}
	return set
}

// Knows tells what node i, which is promoted, goes by after a step.
func (r *Replay) Knows(i int, k *Known) {
	n := &r.nodes[i]
	if k.Number != n.knows {
		rec, why := r.records[k.Number], ""
		if rec.Gen != n.of || rec.Set != k.Set || k.Number < n.knows {
			why = "that is not what was recorded"
		}
		r.step("learn", i, why, "record %d is %+v, it counts over %v", k.Number, rec, k.Set)
		n.knows, n.asked, n.refused = k.Number, Set{}, false
	}
	if k.Asked != n.asked {
		r.ask(i, k)
	}
	r.counts(i, k)
}

// ask is a change that primary i asks for, or has given up.
func (r *Replay) ask(i int, k *Known) {
	n := &r.nodes[i]
	if n.asked.Members != 0 && !n.refused {
		r.step("change", i, "what it has asked for is not decided", "it forgets %v", n.asked)
	}
	n.asked, n.refused = k.Asked, false
	if k.Asked.Members == 0 {
		return
	}
	r.asked[k.Number] = k.Asked
	if k.Asked == k.Set {
		return // nobody counts who did not
	}
	known := n.commit
	if n.role == Chosen {
		known = n.log.last // any of the chosen log may be committed
	}
	c := Change{Role: n.role, From: k.Set, To: k.Asked, Holders: r.holders(i, known, k, true)}
	for j := range r.nodes {
		if x := &r.nodes[j]; x.half && x.run == k.Runs[j] {
			c.Holders &^= Bit(j)
		}
	}
	r.step("change", i, r.rules.Change(c), "up to entry %d: %+v", known, c)
}

// counts checks that whoever counts has told primary i what it counts.
func (r *Replay) counts(i int, k *Known) {
	n, w := &r.nodes[i], r.reign(r.nodes[i].of)
	in := k.Set.sound() | k.Asked.sound()
	for j := range r.nodes {
		if k.Held[j] == n.held[j] {
			continue
		}
		if x := &w.said[j]; k.Held[j] > n.held[j] && j != i && in.Has(j) {
			told := x.held
			if x.log.last > 0 {
				told = max(told, x.log.common(&w.log))
			}
			why := ""
			if x.run != k.Runs[j] || k.Held[j] > told {
				why = "it was not told so"
			}
			r.step("count", i, why, "n%d is to hold its log up to %d, and has said %d", j+1, k.Held[j], told)
		}
		n.held[j] = k.Held[j]
	}
}

// Refused tells node i that the quorum has refused what it had asked for, for good.
func (r *Replay) Refused(i int) { r.nodes[i].refused = true }

// SentSeal tells that node i asks a run of node j to promise its generation.
func (r *Replay) SentSeal(i, j int, g, run uint64) {
	r.leads("seal", i, g, false)
	r.reign(g).invited[j].seal = run
}

// SentJoin tells that node i invites a run of node j.
func (r *Replay) SentJoin(i, j int, g, run uint64) {
	r.leads("join", i, g, true)
	r.reign(g).invited[j].join = run
}

// SentReset tells that node i lets a run of node j forget its log.
func (r *Replay) SentReset(i, j int, g, run uint64, k *Known) {
	r.leads("empty", i, g, true)
	w := r.reign(g)
	same := w.log.common(&r.nodes[j].log)
	r.step("empty", i, r.rules.Empty(k.Set, j, r.nodes[i].synced, same), "n%d, synced are %d, and both have %d entries", j+1, r.nodes[i].synced, same)
	w.invited[j].empty = run
}

// leads checks that node i has begun a generation, or has its log: it may have stepped
// down in the same call.
func (r *Replay) leads(step string, i int, g uint64, hasLog bool) {
	if w := r.reign(g); w.primary != i || w.run != r.nodes[i].run || !w.begun || hasLog && w.first == 0 {
		r.step(step, i, "it does not lead that", "generation %d of n%d, begun: %v, with a log: %v", g, w.primary+1, w.begun, w.first > 0)
	}
}

// SaidLog tells that node i answers SEAL or JOIN of a generation with its log.
func (r *Replay) SaidLog(i int, g uint64, sealed bool, end, last, commit, durable uint64) {
	n, w, why := &r.nodes[i], r.reign(g), ""
	p, ok := n.under(g)
	gen, seq := p.log.End()
	switch {
	case !ok:
		why = "another generation is promised"
	case sealed && r.record.Set.Amnesiacs.Has(i):
		why = "it may have lost entries"
	case sealed && n.half:
		why = "a copy of its content is not complete"
	case end != gen || last != seq || commit != p.commit || durable > n.synced:
		why = "its log is another one"
	}
	r.step("seal", i, why, "generation %d, log up to (%d, %d), committed %d, durable %d", g, end, last, commit, durable)
	w.said[i] = answer{run: n.run, sealed: sealed, log: p.log}
}

// SaidHeld tells that node i acknowledges entries of a generation.
func (r *Replay) SaidHeld(i int, g, held, durable uint64) {
	n, w, why := &r.nodes[i], r.reign(g), ""
	p, ok := n.under(g)
	switch {
	case !ok:
		why = "another generation is promised"
	case held > p.log.common(&w.log):
		why = "it does not have them"
	case durable > n.synced:
		why = "they are not durable"
	}
	r.step("acknowledge", i, why, "generation %d, entries up to %d, durable up to %d of %d", g, held, durable, n.synced)
	x := &w.said[i]
	if x.run != n.run {
		*x = answer{run: n.run}
	}
	x.held, x.durable = max(x.held, held), max(x.durable, durable)
}

// Read tells that node i answers a read.
func (r *Replay) Read(i int, k *Known) {
	x := Reading{r.nodes[i].role, k.Set, k.Asked, k.Lent}
	r.step("read", i, r.rules.Read(x), "%+v", x)
}

// Flushed tells that node i answers a flush up to an entry.
func (r *Replay) Flushed(i int, seq uint64, k *Known) {
	h := r.holders(i, seq, k, true)
	r.step("flush", i, r.rules.Flush(r.nodes[i].role, k.Set, k.Asked, h), "up to %d: %v of %v, asked for %v", seq, h, k.Set, k.Asked)
}

// Recorded tells what the quorum has decided. Asked: a core has asked for it, else an
// operator or a node that registers. Strict: what was acknowledged survived a loss of
// power. Outside are nodes with another disk, of which nobody knows what they have.
func (r *Replay) Recorded(rec Record, asked, recovery, strict bool, outside Nodes) {
	old := r.record
	r.record, r.records[rec.Number] = rec, rec
	if old.Number > 0 {
		switch {
		case rec.Lineage != old.Lineage: // an operator forces it, and answers for what is lost
		case recovery:
			r.recovered(old, rec, outside)
		case rec.Gen != old.Gen:
			why := r.rules.Promote(old.Set, rec.Primary)
			if why == "" && !rec.Set.alike(old.Set) {
				why = "the set changes with it"
			}
			r.step("promote", rec.Primary, why, "generation %d, of %v", rec.Gen, old.Set)
		default:
			r.decided(old, rec, asked, strict, outside)
		}
	}
	if rec.Gen != old.Gen && rec.Primary >= 0 {
		r.reigns[rec.Gen] = &reign{primary: rec.Primary, run: rec.Runs[rec.Primary]}
	}
}

// decided is a change of the set that was asked for, or a run that registers.
func (r *Replay) decided(old, rec Record, asked, strict bool, outside Nodes) {
	switch {
	case rec.Set.alike(old.Set):
	case asked && rec.Set.alike(r.asked[old.Number]):
		r.step("decide", rec.Primary, "", "")
	case rec.Set.Members != old.Set.Members || rec.Set.Majority != old.Set.Majority || old.Set.Amnesiacs&^rec.Set.Amnesiacs != 0:
		r.step("decide", rec.Primary, "nobody has asked for that", "the set is %v, was %v, and asked for was %v", rec.Set, old.Set, r.asked[old.Number])
	}
	for i := range r.nodes {
		if n := &r.nodes[i]; n.lost && !strict && !outside.Has(i) && rec.Set.sound().Has(i) && old.Runs[i] != rec.Runs[i] && old.Set.sound().Has(i) {
			r.step("register", i, "it has lost entries, and counts", "%+v", rec)
		}
	}
}

// recovered is the end of a recovery.
func (r *Replay) recovered(old, rec Record, outside Nodes) {
	i := rec.Primary
	n := &r.nodes[i]
	if outside.Has(i) {
		return
	}
	best := true
	for j := range r.nodes {
		if x := &r.nodes[j]; old.Set.Members.Has(j) && !outside.Has(j) && !x.half && x.log.beats(&n.log) {
			best = false
		}
	}
	end, seq := n.log.End()
	r.step("recover", i, r.rules.Recover(old.Set, best, n.synced >= seq), "with a log up to (%d, %d), durable up to %d, of %v", end, seq, n.synced, old.Set)
}

// Stepped tells where the log of node i ends after a step, as it should by what was told.
func (r *Replay) Stepped(i int, gen, last uint64) {
	why := ""
	g, seq := r.nodes[i].log.End()
	if g != gen || seq != last {
		why = "its log is not what was written"
	}
	r.step("stutter", i, why, "it ends at (%d, %d), that of the model at (%d, %d)", gen, last, g, seq)
}

package sim

import (
	crand "crypto/rand"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"time"
)

// Tally counts what has happened in runs, so that runs in which nothing does are
// noticed.
type Tally struct {
	Answered, Reads, Flushes, Takeovers, Generations, Certified, Failovers, Recoveries, Shapes, Evictions, Resizes, Mended, Unmended,
	Comparisons, Replaced, OldDisks, DiskErrors, Copies, Rejoins, Rebuilt, Repeated, Torn, Holes, Moves, Large,
	Elections, VoterChanges, QuorumReads, Refused, Modelled int
}

// Add adds what has happened in another run.
func (t *Tally) Add(o Tally) {
	for _, x := range []struct {
		to   *int
		from int
	}{
		{&t.Answered, o.Answered}, {&t.Reads, o.Reads}, {&t.Flushes, o.Flushes}, {&t.Takeovers, o.Takeovers},
		{&t.Generations, o.Generations}, {&t.Certified, o.Certified}, {&t.Failovers, o.Failovers}, {&t.Recoveries, o.Recoveries},
		{&t.Shapes, o.Shapes}, {&t.Evictions, o.Evictions}, {&t.Resizes, o.Resizes}, {&t.Mended, o.Mended}, {&t.Unmended, o.Unmended},
		{&t.Comparisons, o.Comparisons}, {&t.Replaced, o.Replaced}, {&t.OldDisks, o.OldDisks}, {&t.DiskErrors, o.DiskErrors},
		{&t.Copies, o.Copies}, {&t.Rejoins, o.Rejoins}, {&t.Rebuilt, o.Rebuilt},
		{&t.Repeated, o.Repeated}, {&t.Torn, o.Torn}, {&t.Holes, o.Holes}, {&t.Moves, o.Moves}, {&t.Large, o.Large},
		{&t.Elections, o.Elections}, {&t.VoterChanges, o.VoterChanges}, {&t.QuorumReads, o.QuorumReads}, {&t.Refused, o.Refused}, {&t.Modelled, o.Modelled},
	} {
		*x.to += x.from
	}
}

// Result is what a run has come to.
type Result struct {
	Violation *Violation    // nil: none
	Hash      uint64        // of everything that has happened: the same for the same schedule
	Simulated time.Duration // time that has passed in the simulation
	Tally     Tally
}

// Run runs a schedule, and writes a trace to out if that is not nil. It does not
// return before everything is level again, or a rule is broken.
func Run(p Schedule, out io.Writer) Result {
	c := setupOf(p.Seed)
	if c.raft = p.Raft; c.raft {
		defer seedRandomness(p.Seed)()
	}
	s := newSim(p.Seed, c, out)
	v := s.guarded(func() {
		s.build()
		for _, f := range p.Faults {
			s.at(instant(f.At), nil, func() {
				if !s.quiet {
					s.disturb(f)
				}
			})
		}
		s.run(p.Length)
		s.settle()
	})
	return s.result(v)
}

// seedRandomness puts what Raft draws from crypto/rand, its election timeouts, into the
// hands of a seed, until the function that it returns is called.
func seedRandomness(seed uint64) (restore func()) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	old := crand.Reader
	crand.Reader = rand.NewChaCha8(key)
	return func() { crand.Reader = old }
}

func (s *sim) result(v *Violation) Result {
	for _, n := range s.nodes {
		s.Copies += n.disk.imports + n.shard.imports
		s.Rejoins += n.disk.rejoins
	}
	if s.replay != nil {
		s.Modelled = s.replay.Steps
	}
	return Result{Violation: v, Hash: s.hash, Simulated: time.Duration(s.now), Tally: s.Tally}
}

// After the last fault everything has to be level within settleTime, with at most
// settleChanges of the record.
const (
	settleTime    = 90 * time.Second
	settleChanges = 100
)

// settle ends all faults and checks that everything becomes level and serves, and
// what clients were told meanwhile.
func (s *sim) settle() {
	deadline := s.now + instant(settleTime)
	for round := 0; round == 0 || !s.level() || !s.levelQuorum(); round++ {
		s.calm()
		s.idle = round%8 >= 2 // clients help plans on, but nothing is level under them
		s.run(s.scaled(300 * time.Millisecond))
		s.bare = false
		if s.now > deadline {
			s.violate("L1", "not level so long after the last fault: %s", s.describe())
		}
	}
	if s.changes > settleChanges {
		s.violate("L2", "the record has changed %d times since the last fault, until all was level", s.changes)
	}
	s.idle = false
	for answered := s.Answered; s.Answered == answered; s.run(s.scaled(100 * time.Millisecond)) {
		if s.now > deadline {
			s.violate("L1", "all is level, and no request is answered: %s", s.describe())
		}
	}
	s.checkHistory()
	if s.raft {
		s.checkVoters()
	}
}

package sim

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"blkd/replication"
)

// Schedule is all that a run depends on.
type Schedule struct {
	Seed   uint64        `json:"seed"`
	Length time.Duration `json:"length"` // of the time in which faults happen; then everything has to become level
	Faults []Fault       `json:"faults"`
	Raft   bool          `json:"raft,omitempty"` // the quorum is Raft on all nodes, not one list
	// Rule is the one that was broken when the schedule was kept; empty for a plan.
	Rule string `json:"rule,omitempty"`
	Note string `json:"note,omitempty"`
}

// Fault is something that breaks, or mends, or that an operator does.
type Fault struct {
	At   time.Duration `json:"at"` // simulated
	Kind string        `json:"kind"`
	A    int           `json:"a"`    // index of a node
	B    int           `json:"b"`    // of another one, maybe the same
	Draw uint64        `json:"draw"` // whatever else is random of it
}

// String tells the fault on one line.
func (f Fault) String() string {
	return fmt.Sprintf("%10.3fms %s n%d n%d (%d)", float64(f.At)/1e6, f.Kind, f.A+1, f.B+1, f.Draw)
}

// The profiles of faults, for it takes different ones to find different bugs.
const (
	mixed    = iota
	splits   // networks and pauses; nothing is lost
	crashes  // of processes
	powers   // all lose power
	resyncs  // members leave and come back
	profiles = iota
)

// setupOf spreads the seeds over the kinds of clusters.
func setupOf(seed uint64) setup {
	rnd := rand.New(rand.NewPCG(seed, 1))
	c := setup{shape: replication.Shape{Policy: replication.AckAll, MinCopies: 1, Durability: replication.DurableFlush},
		replicas: 2 + int(seed%2), scale: 1, faults: []float64{0.5, 1, 3}[seed%3]}
	switch seed % 8 {
	case 3, 7:
		c.shape.Policy, c.shape.MinCopies = replication.AckMajority, 2
	case 4:
		c.shape.MinCopies = 2
	}
	switch seed % 10 {
	case 5:
		c.shape.Durability = replication.DurableWrite
	case 6:
		c.replicas = 1
		c.shape.Policy, c.shape.MinCopies = replication.AckAll, 1
	case 9:
		c.replicas = 5
		c.shape.Policy, c.shape.MinCopies = replication.AckMajority, 2
	}
	if seed >= CodedSeeds {
		c.codedSetup(seed, rnd)
	}
	if rnd.IntN(3) > 0 {
		c.scale = 6
	}
	c.profile = rnd.IntN(profiles)
	if rnd.IntN(2) == 0 {
		c.limits = replication.Limits{EntryBytes: blockSize, SendBytes: 10000, CopyBytes: blockSize, LagBytes: 1 << 13}
	}
	if c.code != nil && seed/6%4 > 0 {
		c.limits.LargeBytes = int64(c.code.K()) * blockSize // a stripe
	}
	c.external = rnd.IntN(3) > 0
	if c.replicas < 5 && rnd.IntN(4) == 0 && c.code == nil {
		c.spares = 1
	}
	if c.code == nil { // as many nodes as a code has are slow to simulate
		c.tempo = []float64{1, 1, 4, 16}[rnd.IntN(4)]
	}
	return c
}

// nodes is how many nodes may fail.
func (c setup) nodes() int {
	n := c.replicas + c.spares
	if !c.external && n == 2 {
		n++ // the witness
	}
	return n
}

// Plan draws the schedule of a seed.
func Plan(seed uint64) Schedule {
	c := setupOf(seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	p := Schedule{Seed: seed, Length: time.Duration(float64(3*time.Second) * c.tempo), Raft: !c.external}
	sum := 0.0
	for i := range faults {
		sum += faults[i].weight[c.profile]
	}
	gap := float64(time.Second) * c.tempo / c.faults / sum
	nodes := c.nodes()
	for at := rnd.ExpFloat64() * gap; at < float64(p.Length); at += rnd.ExpFloat64() * gap {
		x := rnd.Float64() * sum
		i := 0
		for i < len(faults)-1 && x >= faults[i].weight[c.profile] {
			x -= faults[i].weight[c.profile]
			i++
		}
		p.Faults = append(p.Faults, Fault{time.Duration(at), faults[i].kind, rnd.IntN(nodes), rnd.IntN(nodes), rnd.Uint64() >> 1})
	}
	return p
}

// Load reads a schedule that was kept.
func Load(file string) (Schedule, error) {
	var p Schedule
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return p, fmt.Errorf("%s is no schedule: %w", file, err)
	}
	for i, f := range p.Faults {
		known := slices.ContainsFunc(faults, func(k fault) bool { return k.kind == f.Kind })
		if n := setupOf(p.Seed).nodes(); !known || f.A < 0 || f.B < 0 || f.A >= n || f.B >= n {
			return p, fmt.Errorf("%s: fault %d (%v): there is no such fault, or node, for this seed", file, i, f)
		}
	}
	return p, nil
}

// Save keeps a schedule.
func (p Schedule) Save(file string) error {
	text, err := json.MarshalIndent(p, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o666)
}

// Shrink cuts a schedule down to few faults and a short time with which it still
// breaks p.Rule. Try runs a schedule and tells which rule it breaks, and whether there
// is time to try more.
func Shrink(p Schedule, try func(Schedule) (rule string, more bool)) Schedule {
	more := true
	fails := func(q Schedule) bool {
		var rule string
		if more {
			rule, more = try(q)
		}
		return rule != "" && rule == p.Rule
	}
	for size := len(p.Faults); more && size > 0; size /= 2 {
		for at := 0; more && at < len(p.Faults); {
			q := p
			q.Faults = slices.Delete(slices.Clone(p.Faults), at, min(at+size, len(p.Faults)))
			if fails(q) {
				p = q
			} else {
				at += size
			}
		}
	}
	for _, part := range []time.Duration{8, 4, 2} { // eighths off the end
		q := p
		q.Length -= q.Length / part
		q.Faults = slices.DeleteFunc(slices.Clone(q.Faults), func(f Fault) bool { return f.At > q.Length })
		if fails(q) {
			p = q
		}
	}
	return p
}

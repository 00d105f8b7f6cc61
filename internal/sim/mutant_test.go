//go:build mutants

package sim

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"blkd/internal/mutant"
)

var (
	onlyMutant   = flag.String("mutant", "", "plant only the bugs whose names contain this")
	mutantSeeds  = flag.Uint64("mutant.seeds", 2000, "seeds within which the simulation has to find a bug")
	writeMutants = flag.Bool("mutant.write", false, "write the table of what found each bug")
)

// foundBy is the table of what has found each bug, for people and for the next hunt.
const foundBy = "testdata/mutants.md"

// simulated are the parts whose bugs the simulation has to find.
var simulated = []string{"replica", "cluster", "core", "log"}

const (
	keptSeeds     = "testdata/seeds"
	goldenScripts = "testdata/core"
)

const foundHead = `# Which rule finds which bug
Written by ` + "`go test -tags mutants -run ReplicaMutants ./internal/sim -mutant.write`" + `, and read by it: what is named here is tried first.

| planted bug | rule | found by | seed | step of the model |
| --- | --- | --- | --- | --- |
`

// TestReplicaMutants plants each bug of the cores in turn: what has found it before, a
// scenario, a kept schedule, a golden script of a core, or the simulation within 2,000
// seeds, has to find it.
func TestReplicaMutants(t *testing.T) {
	table := []byte(foundHead)
	known, err := readFound()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutant.All() {
		kind, _, _ := strings.Cut(m.Name, "/")
		if !slices.Contains(simulated, kind) || !strings.Contains(m.Name, *onlyMutant) {
			continue
		}
		begun := time.Now()
		mutant.Set(m.ID, true)
		deafToModel = true
		by := known[m.Name]
		v := by.run()
		if v == nil {
			by, v = hunt(*mutantSeeds, m.ID >= mutant.ReplicaUnprepared && m.ID <= mutant.ReplicaPreparedStale)
		}
		deafToModel = false
		step := stepOf(by.run(), v)
		mutant.Set(m.ID, false)
		if v == nil {
			t.Errorf("%-26s survived %d seeds: %s", m.Name, *mutantSeeds, m.Text)
			continue
		}
		if v := by.run(); v != nil {
			t.Errorf("%-26s is not found by seed %d of %s, which fails without it too: %v", m.Name, by.seed, by.what, v)
			continue
		}
		t.Logf("%-26s %-9s %6.2f s  seed %d of %s: %.100s; by the model: %s", m.Name, v.Rule, time.Since(begun).Seconds(), by.seed, by.what, v.Text, step)
		table = fmt.Appendf(table, "| `%s` | %s | %s | %d | %s |\n", m.Name, v.Rule, by.what, by.seed, step)
	}
	if *writeMutants {
		if err := os.WriteFile(foundBy, table, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// stepOf names the step that the model does not allow in a run, and tells how much sooner
// that was seen than what other checkers have found; empty: the model allows all.
func stepOf(v, other *Violation) string {
	if v == nil || v.Rule != "model" {
		return ""
	}
	step, _, _ := strings.Cut(v.Text, " of ")
	if other != nil && other.At > v.At {
		step += fmt.Sprintf(", %v sooner", time.Duration(other.At-v.At).Round(time.Millisecond))
	}
	return step
}

// finder is a run that finds a bug: what is a scenario's name, a kept schedule's or a
// golden script's file, or one of these.
type finder struct {
	what string
	seed uint64
}

const (
	ofMirrors = "mirrors"
	ofCodes   = "erasure codes"
)

// run tells which rule is broken, if one is. The zero finder finds nothing.
func (f finder) run() *Violation {
	switch f.what {
	case ofMirrors:
		return Run(Plan(f.seed), nil).Violation
	case ofCodes:
		return Run(Plan(CodedSeeds+f.seed), nil).Violation
	}
	for i := range scenarios {
		if scenarios[i].name == f.what {
			return scenarios[i].run(f.seed, nil).Violation
		}
	}
	if plan, err := Load(filepath.Join(keptSeeds, f.what)); err == nil {
		return Run(plan, nil).Violation
	}
	if script, err := os.ReadFile(filepath.Join(goldenScripts, f.what)); err == nil {
		return playedAnew(script)
	}
	return nil
}

// playedAnew tells whether a core asks for something else than its script has.
func playedAnew(script []byte) *Violation {
	got, err := playGolden(string(script))
	if err == nil && bytes.Equal(got, script) {
		return nil
	}
	was, is := strings.Split(string(script), "\n"), strings.Split(string(got), "\n")
	n := 0
	for n < min(len(was), len(is)) && was[n] == is[n] {
		n++
	}
	return &Violation{Rule: "golden", Text: fmt.Sprintf("the core asks for something else in line %d (%v)", n+1, err)}
}

// readFound reads the table of what has found each bug.
func readFound() (map[string]finder, error) {
	text, err := os.ReadFile(foundBy)
	if err != nil {
		return nil, err
	}
	known := map[string]finder{}
	for line := range strings.Lines(string(text)) {
		cell := strings.Split(strings.TrimRight(line, "\n"), " | ")
		if len(cell) != 5 {
			continue
		}
		if seed, err := strconv.ParseUint(cell[3], 10, 64); err == nil {
			known[strings.Trim(cell[0], "|` ")] = finder{cell[2], seed}
		}
	}
	return known, nil
}

// hunt tells what breaks a rule, and which: of erasure codes, if the bug is one of those.
func hunt(seeds uint64, coded bool) (by finder, v *Violation) {
	for seed := uint64(1); seed <= scenarioSeeds; seed++ {
		for i := range scenarios {
			by = finder{scenarios[i].name, seed}
			if v = by.run(); v != nil {
				return by, v
			}
		}
	}
	files, _ := filepath.Glob(filepath.Join(keptSeeds, "*.json"))
	for _, file := range files {
		by = finder{filepath.Base(file), 1}
		if v = by.run(); v != nil {
			return by, v
		}
	}
	files, _ = filepath.Glob(filepath.Join(goldenScripts, "*.txt"))
	for _, file := range files {
		by = finder{filepath.Base(file), 1}
		if v = by.run(); v != nil {
			return by, v
		}
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		by = finder{ofMirrors, seed}
		if coded {
			by.what = ofCodes
		}
		if v = by.run(); v != nil {
			return by, v
		}
	}
	return finder{}, nil
}

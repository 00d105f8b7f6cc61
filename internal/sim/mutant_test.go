//go:build mutants

package sim

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blkd/internal/mutant"
)

var (
	onlyMutant  = flag.String("mutant", "", "plant only the bugs whose names contain this")
	mutantSeeds = flag.Uint64("mutant.seeds", 2000, "seeds within which the simulation has to find a bug")
	mutantTable = flag.String("mutant.table", "", "write the table of what found each bug into this file")
)

// TestReplicaMutants plants each bug of the core in turn: a scenario, or the
// simulation within 2,000 seeds, has to find it.
func TestReplicaMutants(t *testing.T) {
	var table strings.Builder
	for _, m := range mutant.All() {
		if !strings.HasPrefix(m.Name, "replica/") && !strings.HasPrefix(m.Name, "cluster/") || !strings.Contains(m.Name, *onlyMutant) {
			continue
		}
		begun := time.Now()
		mutant.Set(m.ID, true)
		v, by, seeds, again := hunt(*mutantSeeds, m.ID >= mutant.ReplicaUnprepared && m.ID <= mutant.ReplicaChangesFew)
		mutant.Set(m.ID, false)
		if v == nil {
			t.Errorf("%-26s survived %d seeds: %s", m.Name, *mutantSeeds, m.Text)
			continue
		}
		if v := again(); v != nil {
			t.Errorf("%-26s is not found by %s, seed %d, which fails without it too: %v", m.Name, by, seeds, v)
			continue
		}
		t.Logf("%-26s %-9s %5d seeds %6.2f s  %s: %.100s", m.Name, v.Rule, seeds, time.Since(begun).Seconds(), by, v.Text)
		fmt.Fprintf(&table, "| `%s` | %s | %s | %d |\n", m.Name, v.Rule, by, seeds)
	}
	if *mutantTable != "" {
		if err := os.WriteFile(*mutantTable, []byte(table.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// hunt tells which rule was broken, in what, and after how many seeds: of erasure
// codes, if it is a bug of those. What broke it can be run again.
func hunt(seeds uint64, coded bool) (v *Violation, by string, ran uint64, again func() *Violation) {
	for seed := uint64(1); seed <= scenarioSeeds; seed++ {
		for i := range scenarios {
			again = func() *Violation { return scenarios[i].run(seed, nil).Violation }
			if v := again(); v != nil {
				return v, "“" + scenarios[i].name + "”", seed, again
			}
		}
	}
	files, _ := filepath.Glob("testdata/seeds/*.json")
	for _, file := range files {
		plan, err := Load(file)
		if err != nil {
			return &Violation{Rule: "scenario", Text: err.Error()}, file, 1, nil
		}
		again = func() *Violation { return Run(plan, nil).Violation }
		if v := again(); v != nil {
			return v, "the kept seed " + strings.TrimSuffix(filepath.Base(file), ".json"), 1, again
		}
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		plan, by := Plan(seed), "seeds"
		if coded {
			plan, by = Plan(CodedSeeds+seed), "seeds of erasure codes"
		}
		again = func() *Violation { return Run(plan, nil).Violation }
		if v := again(); v != nil {
			return v, by, seed, again
		}
	}
	return nil, "", seeds, nil
}

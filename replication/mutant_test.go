//go:build mutants

package replication

import (
	"flag"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"blkd/internal/mutant"
)

var (
	onlyMutant  = flag.String("mutant", "", "plant only the bugs of the core whose names contain this")
	mutantSeeds = flag.Uint64("mutant.seeds", 2000, "seeds within which the simulation has to find a bug")
)

// TestReplicaMutants plants each bug of the core in turn: a scenario, or the
// simulation within 2,000 seeds, has to find it.
func TestReplicaMutants(t *testing.T) {
	for _, m := range mutant.All() {
		if !strings.HasPrefix(m.Name, "replica/") || !strings.Contains(m.Name, *onlyMutant) {
			continue
		}
		mutant.Set(m.ID, true)
		found := huntCore(*mutantSeeds)
		mutant.Set(m.ID, false)
		if found == "" {
			t.Errorf("%-22s survived %d seeds: %s", m.Name, *mutantSeeds, m.Text)
			continue
		}
		t.Logf("%-22s %.160s", m.Name, found)
	}
}

// huntCore tells what found the bug; empty: nothing did.
func huntCore(seeds uint64) string {
	for _, c := range scenarios {
		for seed := uint64(1); seed <= 3; seed++ {
			if err := caught(func(t failer) { c.run(t, seed) }); err != nil {
				return fmt.Sprintf("scenario %q: %v", c.name, err)
			}
		}
	}
	for seed := uint64(1); seed <= seeds; seed++ {
		if err := caught(func(t failer) { runSeed(t, seed, false) }); err != nil {
			return fmt.Sprintf("seed %d: %v", seed, err)
		}
	}
	return ""
}

// caught runs a test and returns why it failed.
func caught(test func(failer)) (err error) {
	f := &failure{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				f.err = fmt.Errorf("panic: %v", p)
			}
		}()
		test(f)
	}()
	<-done
	return f.err
}

// failure is a failer that ends its goroutine.
type failure struct{ err error }

func (f *failure) Helper()             {}
func (f *failure) Logf(string, ...any) {}
func (f *failure) Fatalf(format string, args ...any) {
	f.err = fmt.Errorf(format, args...)
	runtime.Goexit()
}

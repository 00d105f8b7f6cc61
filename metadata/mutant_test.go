//go:build mutants

package metadata

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"blkd/internal/mutant"
)

// huntMutants plants each bug whose name begins with a prefix in turn: hunt has to
// find it, and nothing where there is none. A panic is a find.
func huntMutants(t *testing.T, prefix string, hunt func() error) {
	if err := hunt(); err != nil {
		t.Fatalf("without a planted bug: %v", err)
	}
	for _, m := range mutant.All() {
		if !strings.HasPrefix(m.Name, prefix) {
			continue
		}
		mutant.Set(m.ID, true)
		err := caught(hunt)
		mutant.Set(m.ID, false)
		if err == nil {
			t.Errorf("%-24s survived: %s", m.Name, m.Text)
			continue
		}
		t.Logf("%-24s found: %.150s", m.Name, strings.ReplaceAll(err.Error(), "\n", " "))
	}
}

// caught turns a broken invariant into an error.
func caught(hunt func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	return hunt()
}

// huntTraces returns the first trace that is another one.
func huntTraces(pattern string, run func(script string) ([]byte, error)) error {
	files, _ := filepath.Glob(pattern)
	for _, file := range files {
		if err := compareTrace(file, run, false); err != nil {
			return err
		}
	}
	return nil
}

// TestStateMutants plants each bug of the state; random commands alone have to
// find it.
func TestStateMutants(t *testing.T) {
	huntMutants(t, "state/", func() error {
		for seed := range uint64(40) {
			if err := stateSeed(seed, 200); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestStewardMutants plants each bug of the steward.
func TestStewardMutants(t *testing.T) {
	huntMutants(t, "steward/", func() error { return huntSteward("testdata/steward/*.txt") })
}

// TestFailoverMutants plants each bug of failover.
func TestFailoverMutants(t *testing.T) {
	huntMutants(t, "failover/", func() error { return huntSteward("testdata/failover/*.txt") })
}

func huntSteward(traces string) error {
	for seed := range uint64(10) {
		if err := stewardSeed(seed); err != nil {
			return err
		}
	}
	return huntTraces(traces, stewardTrace)
}

// TestCoreMutants plants each bug of Core and Log; the crash test has to find it.
func TestCoreMutants(t *testing.T) {
	hunt := func() error {
		var stats simStats
		for seed := range uint64(300) {
			if err := coreSeed(seed, 150, &stats); err != nil {
				return err
			}
		}
		return nil
	}
	huntMutants(t, "core/", hunt)
	huntMutants(t, "log/", hunt)
}

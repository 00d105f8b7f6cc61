//go:build mutants

package blockdev

import (
	"fmt"
	"strings"
	"testing"

	"blkd/internal/mutant"
)

// TestStoreMutants plants each bug of the store in turn: an edge case, or a crash
// test within 1,000 seeds, has to find it.
func TestStoreMutants(t *testing.T) {
	for _, m := range mutant.All() {
		if !strings.HasPrefix(m.Name, "store/") {
			continue
		}
		mutant.Set(m.ID, true)
		seed, err := huntAll()
		mutant.Set(m.ID, false)
		if err == nil {
			t.Errorf("%-24s survived: %s", m.Name, m.Text)
			continue
		}
		t.Logf("%-24s found by seed %d: %.100s", m.Name, seed, err)
	}
}

// huntAll returns the first failure of any test, with few seeds of each at first.
func huntAll() (seed uint64, err error) {
	if err := edgesRun(); err != nil {
		return 0, err
	}
	for _, seeds := range []uint64{50, 1000} {
		for _, run := range []func(uint64) error{storeRun, replicaRun, copyRun, stagingRun} {
			if seed, err := crashHunt(seeds, run); err != nil {
				return seed, err
			}
		}
	}
	return 0, nil
}

// edgesRun returns the first error of the edge cases.
func edgesRun() error {
	for _, e := range edges {
		if err := e.run(); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

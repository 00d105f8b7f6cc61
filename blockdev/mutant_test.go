//go:build mutants

package blockdev

import (
	"fmt"
	"strings"
	"testing"

	"blkd/internal/mutant"
)

// TestStoreMutants plants each bug of the store in turn: an edge case, or the
// crash test within 1,000 seeds, has to find it.
func TestStoreMutants(t *testing.T) {
	const seeds = 1000
	for _, m := range mutant.All() {
		if !strings.HasPrefix(m.Name, "store/") {
			continue
		}
		mutant.Set(m.ID, true)
		seed, err := uint64(0), edgesRun()
		if err == nil {
			seed, err = crashHunt(seeds, storeRun)
		}
		if err == nil {
			seed, err = crashHunt(seeds, replicaRun)
		}
		if err == nil {
			seed, err = crashHunt(seeds, copyRun)
		}
		mutant.Set(m.ID, false)
		if err == nil {
			t.Errorf("%-24s survived %d seeds: %s", m.Name, seeds, m.Text)
			continue
		}
		t.Logf("%-24s found by seed %d: %.100s", m.Name, seed, err)
	}
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

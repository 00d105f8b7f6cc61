//go:build mutants

package fencing

import (
	"errors"
	"strings"
	"testing"

	"blkd/internal/mutant"
)

// TestGateMutants plants each bug of the gate in turn: the crash test has to find
// it.
func TestGateMutants(t *testing.T) {
	for _, m := range mutant.All() {
		if !strings.HasPrefix(m.Name, "gate/") {
			continue
		}
		mutant.Set(m.ID, true)
		err := errors.Join(gateCrashes(), gateFailures())
		mutant.Set(m.ID, false)
		if err == nil {
			t.Errorf("%-24s survived: %s", m.Name, m.Text)
			continue
		}
		t.Logf("%-24s found: %.120s", m.Name, err)
	}
}

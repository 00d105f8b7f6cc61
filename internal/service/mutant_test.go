//go:build mutants

package service

import (
	"strings"
	"testing"

	"blkd/internal/mutant"
)

// TestServiceMutants plants each bug of Manager: a course of events has to find it.
func TestServiceMutants(t *testing.T) {
	hunt := func() error {
		for seed := range uint64(60) {
			if err := course(t, seed); err != nil {
				return err
			}
		}
		return nil
	}
	for _, m := range mutant.All() {
		if !strings.HasPrefix(m.Name, "service/") {
			continue
		}
		mutant.Set(m.ID, true)
		err := hunt()
		mutant.Set(m.ID, false)
		if err == nil {
			t.Errorf("%-24s survived: %s", m.Name, m.Text)
			continue
		}
		t.Logf("%-24s found: %.150s", m.Name, err)
	}
}

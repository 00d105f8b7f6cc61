//go:build mutants

package metadata

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blkd/internal/mutant"
)

// TestDetectorMutants plants each bug of the detector in turn: a trace or a
// simulation has to find it.
func TestDetectorMutants(t *testing.T) {
	if err := detectorHunt(); err != nil {
		t.Fatalf("without a planted bug: %v", err)
	}
	for _, m := range mutant.All() {
		if !strings.HasPrefix(m.Name, "detector/") {
			continue
		}
		mutant.Set(m.ID, true)
		err := detectorHunt()
		mutant.Set(m.ID, false)
		if err == nil {
			t.Errorf("%-24s survived: %s", m.Name, m.Text)
			continue
		}
		t.Logf("%-24s found: %.150s", m.Name, strings.ReplaceAll(err.Error(), "\n", " "))
	}
}

// detectorHunt returns the first error of simulations and traces.
func detectorHunt() error {
	for seed := range uint64(3) {
		if err := quietSeed(seed, 10*time.Minute); err != nil {
			return err
		}
		if err := flapSeed(seed); err != nil {
			return err
		}
	}
	files, _ := filepath.Glob("testdata/detector/*.txt")
	for _, file := range files {
		script, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		got, err := detectorTrace(string(script))
		if err != nil {
			return err
		}
		if string(got) != string(script) {
			return fmt.Errorf("%s: %s", filepath.Base(file), firstDifference(string(script), string(got)))
		}
	}
	return nil
}

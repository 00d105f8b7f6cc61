//go:build mutants

package metadata

import (
	"testing"
	"time"
)

// TestDetectorMutants plants each bug of the detector in turn: a trace or a
// simulation has to find it.
func TestDetectorMutants(t *testing.T) { huntMutants(t, "detector/", detectorHunt) }

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
	return huntTraces("testdata/detector/*.txt", detectorTrace)
}

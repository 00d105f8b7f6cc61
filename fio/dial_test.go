package fio

import (
	"testing"
	"time"
)

// The client engine loads a real server through the wire.
func TestRunWithOurClient(t *testing.T) {
	rep, err := Run(t.Context(), Config{
		Targets:   []Target{nbdkitMemory(t, "a")},
		Jobs:      pick(t, "randwrite-4k-qd32", "fsync1-4k-qd1-j4", "seqwrite-1m-qd8"),
		Engines:   []Engine{EngineBlkd},
		Rounds:    2,
		Runtime:   300 * time.Millisecond,
		Overwrite: true,
		Dial:      dialNBD,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.Results {
		s := r.Targets[0].Summary
		if s[IOPS].Median <= 0 || s[P50].Median <= 0 || s[IOPS].Rounds != 2 || s[WriteAmp].Rounds != 2 {
			t.Errorf("%s: %+v", r.Job, s)
		}
	}
}

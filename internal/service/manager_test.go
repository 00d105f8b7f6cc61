package service

import (
	"flag"
	"testing"
)

var seeds = flag.Int("service.seeds", 25, "how many random courses of events TestCourses runs")

// TestCourses leads services through moves, failing steps, strangers, deaf nodes, and
// managers that are stopped or killed. Nothing is started without the volume, nothing is
// given up while something runs, and in the end the service runs where it is wanted.
func TestCourses(t *testing.T) {
	for seed := range uint64(*seeds) {
		if err := course(t, seed); err != nil {
			t.Fatal(err)
		}
	}
}

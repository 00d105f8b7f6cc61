package metadata

import (
	"errors"
	"flag"
	"slices"
	"testing"
)

var (
	coreSeeds = flag.Int("crash.seeds", 40, "how many seeded quorums TestCoreCrash lets crash")
	coreSeed1 = flag.Int64("crash.seed", -1, "the one seed that TestCoreCrash runs")
)

// TestCoreSeedReplays runs a seed twice. Two runs may differ where a power cut falls
// between two of Pebble's deletions (see openSim); then a third run has to be like
// one of them.
func TestCoreSeedReplays(t *testing.T) {
	for seed := range uint64(4) {
		runs := make([]simStats, 2)
		if err := errors.Join(coreSeed(seed, 150, &runs[0]), coreSeed(seed, 150, &runs[1])); err != nil {
			t.Fatal(err)
		}
		if runs[0] == runs[1] {
			continue
		}
		t.Logf("seed %d: %+v, then %+v", seed, runs[0], runs[1])
		var third simStats
		if err := coreSeed(seed, 150, &third); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(runs, third) {
			t.Errorf("seed %d: a third time %+v", seed, third)
		}
	}
}

// TestCoreCrash runs quorums of 3 and 5 members through power cuts with unsynced
// data lost or torn, crashes of the process, full disks, a bad network and changes
// of the members. At every index all members have to be in the same state; nothing
// that was answered may be lost or done twice; reads see what was answered before
// them; a member whose disk has failed does nothing any more and, when there is
// space again, goes on after a restart.
func TestCoreCrash(t *testing.T) {
	var stats simStats
	first, seeds := uint64(0), uint64(*coreSeeds)
	if *coreSeed1 >= 0 {
		first, seeds = uint64(*coreSeed1), 1
	}
	for seed := first; seed < first+seeds; seed++ {
		if err := coreSeed(seed, 150, &stats); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d seeds: %+v", seeds, stats)
	t.Logf("%d power cuts, %d crashes of the process, %d full disks", stats.Crashes, stats.Kills, stats.Full)
	if n := int(seeds); n >= 100 && (stats.Crashes < 2*n || stats.Kills < n/2 || stats.Full < n/10 || stats.Reads < n || stats.Applied < 20*n || stats.Snapshots < n || stats.Leaders < 2*n || stats.Confs < n/10) {
		t.Errorf("too little has happened: %+v", stats)
	}
}

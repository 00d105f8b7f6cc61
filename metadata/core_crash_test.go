package metadata

import (
	"errors"
	"flag"
	"testing"
)

var (
	coreSeeds = flag.Int("crash.seeds", 40, "how many seeded quorums TestCoreCrash lets crash")
	coreSeed1 = flag.Int64("crash.seed", -1, "the one seed that TestCoreCrash runs")
)

// TestCoreSeedReplays runs a seed twice.
func TestCoreSeedReplays(t *testing.T) {
	for seed := range uint64(4) {
		var a, b simStats
		if err := errors.Join(coreSeed(seed, 150, &a), coreSeed(seed, 150, &b)); err != nil {
			t.Fatal(err)
		}
		if a != b {
			t.Errorf("seed %d: %+v, then %+v", seed, a, b)
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

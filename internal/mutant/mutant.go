// Package mutant holds switches for planted bugs. They show that the tests can
// fail: with a switch on, the crash test or the simulator has to find the bug
// within a bounded number of seeds.
//
// At the place of the bug the code says, for example,
//
//	if !mutant.On(mutant.StoreSkipLogSync) {
//		err = f.Sync()
//	}
//
// An ordinary build has no switches: On is a constant false and the compiler
// removes the branch. Only with the build tag "mutants" can a bug be switched
// on, by Set.
package mutant

import "fmt"

// ID names a planted bug.
type ID uint8

// The planted bugs. What each does is in the table of All.
const (
	StoreSkipLogSync ID = iota
	StoreReplayOrder
	StoreStaleChecksum
	numIDs
)

// Info describes a planted bug.
type Info struct {
	ID   ID
	Name string // package and bug, as in "store/skip-log-sync"
	Text string // what goes wrong, one line
}

var table = [numIDs]Info{
	{StoreSkipLogSync, "store/skip-log-sync", "A flush reports success without syncing the log."},
	{StoreReplayOrder, "store/replay-order", "Recovery replays the log's segments in the wrong order."},
	{StoreStaleChecksum, "store/stale-checksum", "Destaging a block to the image keeps the old checksum on disk."},
}

// All lists the planted bugs.
func All() []Info { return table[:] }

// String is the bug's name.
func (id ID) String() string {
	if id < numIDs {
		return table[id].Name
	}
	return fmt.Sprintf("mutant(%d)", uint8(id))
}

// Parse is the inverse of String.
func Parse(name string) (ID, error) {
	for _, info := range table {
		if info.Name == name {
			return info.ID, nil
		}
	}
	return 0, fmt.Errorf("no planted bug is called %q; the names are in internal/mutant/mutant.go", name)
}

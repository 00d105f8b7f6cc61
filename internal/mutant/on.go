//go:build mutants

package mutant

import (
	"fmt"
	"os"
	"sync/atomic"
)

// Enabled tells whether this build has the switches.
const Enabled = true

var switches [numIDs]atomic.Bool

// On tells whether a bug is switched on.
func On(id ID) bool { return switches[id].Load() }

// Set switches a bug on or off for the whole process.
func Set(id ID, on bool) { switches[id].Store(on) }

func init() {
	name := os.Getenv(Variable)
	if name == "" {
		return
	}
	id, err := Parse(name)
	if err != nil {
		fmt.Fprintln(os.Stderr, Variable+":", err)
		os.Exit(2)
	}
	Set(id, true)
}

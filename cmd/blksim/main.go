// Command blksim runs simulated clusters: see package sim.
package main

import (
	"os"

	"blkd/internal/sim"
)

func main() { os.Exit(sim.Main(os.Args[1:], os.Stdout, os.Stderr)) }

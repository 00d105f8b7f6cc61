// Command blkctl asks and tells a running blkd; see blkctl --help.
package main

import (
	"os"

	"blkd/internal/cli"
)

func main() { os.Exit(cli.Main()) }

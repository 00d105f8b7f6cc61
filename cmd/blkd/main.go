// Command blkd serves replicated block devices over NBD; see blkd --help.
package main

import (
	"os"

	"blkd/internal/node"
)

func main() { os.Exit(node.Main()) }

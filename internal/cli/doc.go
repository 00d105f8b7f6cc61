// Package cli is blkctl: the commands, their tables and JSON, and their exit
// codes. [Main] is the program; [New] is its command tree, one file a verb.
//
// Data goes to standard output, talk to standard error. The JSON that -o json
// prints is a contract: model.go defines it and docs/json.md describes it.
package cli

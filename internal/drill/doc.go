// Package drill disturbs a cluster on purpose, while clients of all its nodes write and
// read, and tells what they noticed. Each [Drill] says what it expects; what it did is a
// [Result], with a time line. Whether what clients were told can be true is judged by
// package history.
//
// How a node is disturbed is told by [Hands]: signals to the processes of blkctl dev, or
// commands of the operator's.
package drill

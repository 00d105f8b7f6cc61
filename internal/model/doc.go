// Package model is an explicit-state model of the replication protocol: all that can
// happen to a small cluster and one block is visited, breadth first, and what the
// protocol promises is checked in every state. It has planted bugs of its own.
//
// What it models: promotion, seals, the choice of a log and its GENERATION entry,
// appends, commits under one set or two, flushes, leases, changes of the members and of
// the policy, joins, hand-over, crashes, loss of power, amnesia and recovery. Every
// message may be lost, repeated, late or overtaken. What it leaves out: images and
// copies (who joins gets everything by appends), the retention of the log, clocks (a
// grant never ends before the belief in it), erasure code.
//
// Package sim runs the code itself, on clusters as large as they come, but not all of
// its courses; this package takes all courses, but of a protocol that is written down
// again. So that these are one protocol, what a step asks for is written in Rules, once:
// the exploration goes by it, and Replay holds every step of a simulated run to it.
// Whoever changes a step of the protocol changes the model first.
package model

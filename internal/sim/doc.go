// Package sim runs a whole cluster under one seed: the real replication cores, the
// real state machine of the metadata quorum with its failure detectors, steward and
// failover, and clients, on networks, clocks and disks that fail. What it checks is
// listed in Rules.
//
// Nothing in a run depends on anything but its Schedule: one goroutine, no clock, no
// randomness but the seed's. A Schedule is drawn from a seed by Plan, can be cut down
// by Shrink, and is kept as JSON.
//
// What stands in for the real thing, and where that is tested instead:
//
//   - Stores are kept in memory, and of a block's content its first eight bytes;
//     blockdev has its own tests on a file system that crashes.
//   - The quorum's log is one list of commands, decided while a majority of voters is
//     connected; metadata runs Raft itself through crashes.
//   - A connection delivers in order, or breaks. Heartbeats are lost and repeated.
package sim

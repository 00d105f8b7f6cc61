// Package cluster makes a node part of the metadata quorum: it gives the passive
// parts of package metadata goroutines, a clock, the disk and gRPC connections.
//
// A node that has started goes through these phases; [Cluster.Status] tells which
// one it is in and what it waits for, and it never gives up waiting:
//
//	founding ──┐   blank: asks the nodes of the list until all are known
//	joining ───┤   blank and not in the list: asks to be let in
//	           ▼
//	starting ──►  asks the others whether its disk is the latest one
//	           ▼
//	registering   takes part in Raft; its new incarnation is not recorded yet
//	           ▼
//	member        everything works
//
//	refused       from any phase: the disk is old, foreign, or the node was
//	              replaced or removed; it takes no part in anything
//	failed        from any phase: the metadata disk reported an error
//
// Each node opens one connection to each other node and says Hello on it first.
// The connection belongs to one pair of runs: when either node starts anew, a
// new one is opened. It carries one stream of Raft messages, one of heartbeats,
// and forwarded commands, all in one direction; what the other side has to say
// it says on its own connection.
package cluster

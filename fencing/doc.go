// Package fencing keeps those from writing who may not any more.
//
//   - [Gate] is a member's durable promise: the highest generation it has promised,
//     and in which lineage of the volume. It never falls.
//   - [GrantUntil] and [BelieveUntil] are the two ends of a lease on reads, on two
//     clocks that run at different rates.
//   - [Attachment] is the client that may write.
//   - [Fencer] switches machines off through Debian's fence-agents, for operators
//     who want that on top.
//
// Safety rests on the first three alone. A Fencer makes a failed node go away; no
// write is ever acknowledged because it said that it did.
package fencing

import "blkd/blockdev"

// Generation is the number of a primary's reign over a volume.
type Generation = blockdev.Generation

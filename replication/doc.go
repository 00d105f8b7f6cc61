// Package replication keeps the replicas of a volume the same, and serves it
// from one of them.
//
// [Core] is the protocol: a passive state machine for one volume on one node, both
// when the node is the volume's primary and when it is a member. It has no clock,
// goroutine, socket or file; it calls its [Replica] and [Gate] directly, because
// appending to a log in the page cache takes microseconds, and returns everything
// else as [Effects].
//
// Duties of the caller:
//
//  1. Call one method at a time, with a clock that never goes back.
//  2. After each call take the effects, and send the messages to a peer in the
//     order in which they were returned, before the next call: messages, their
//     entries and their data are used again then.
//  3. Report a connection that broke before anything of its successor is
//     delivered. Messages of a connection arrive in order or not at all.
//  4. Answer every read, sync and proposal that the effects ask for, once.
//     Proposals are repeated until the quorum has decided them: an unknown
//     outcome is never reported.
//  5. Deliver every record that the quorum commits, at the latest when the next
//     one is delivered; older ones are ignored.
//  6. Report the commit point to the quorum as a mark only while the core is
//     Primary.
//  7. After an error of Replica or Gate ([Effects.Failed]) end this run of the
//     replica: nobody knows what is on the disk.
//
// The rules are those of the design: a generation has one primary (S1); a member
// acts only for the generation it promised last (S2); a write is answered when W
// of the recorded members hold it (S3); a new primary seals before it serves (S4).
package replication

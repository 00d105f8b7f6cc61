// Package verifier is a client that knows what it may expect of a volume. A [Load]
// writes blocks that tell their number and version, and remembers which versions
// were acknowledged and which are safe from power loss; it reads them again while it
// writes, and at the end from whatever device is to be checked. A [Crowd] is
// clients that share blocks, whose common history must be strictly linearizable. A
// [Stale] is a client of a primary that stands still: nothing that it asks for meanwhile may be
// granted.
package verifier

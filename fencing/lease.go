package fencing

import "time"

// A lease lets a primary serve reads alone. It asks a member at time t of its own
// clock; the member receives that at time r of its own clock and grants
//
//	until r + L·(1+ρ), by the member's clock;
//
// the primary, when it has the answer, believes it
//
//	until t + L·(1−ρ), by the primary's clock.
//
// The assumption: in any interval a clock (CLOCK_BOOTTIME) measures between 1−ρ
// and 1+ρ times the time that passes. Then the belief lasts at most L in truth, and
// begins no later than the grant, for what was received had been sent before. The
// grant lasts at least L. So the primary stops believing no later than the member
// stops granting, whatever the message took and whatever the clocks show.
//
// Rounding goes to the safe side, and at its end a grant is over and a belief too.

// ClockRate is ρ, as one part in so many: crystals stay within 1 in 10,000, and
// time daemons slew by at most 1 in 2,000.
const ClockRate = 1000

// Margin is L·ρ, rounded up: what a member adds to a lease of that length, and the
// primary takes off.
func Margin(lease time.Duration) time.Duration { return (lease + ClockRate - 1) / ClockRate }

// GrantUntil is when a grant ends, by the clock of the member, of which received is
// when it received the request.
func GrantUntil[Instant ~int64](received Instant, lease time.Duration) Instant {
	return received + Instant(lease+Margin(lease))
}

// BelieveUntil is when a primary must stop to believe in a lease, by its own clock,
// of which asked is when it sent the request.
func BelieveUntil[Instant ~int64](asked Instant, lease time.Duration) Instant {
	return asked + Instant(lease-Margin(lease))
}

package fencing

import (
	"math/rand/v2"
	"testing"
	"time"
)

// clock shows what a node's clock shows at a moment of true time.
type clock struct {
	rate   float64
	offset time.Duration
}

func (c clock) shows(at time.Duration) time.Duration {
	return c.offset + time.Duration(c.rate*float64(at))
}

// whenShows is the inverse.
func (c clock) whenShows(t time.Duration) time.Duration {
	return time.Duration(float64(t-c.offset) / c.rate)
}

// overlap plays one lease and returns for how long the primary believed when the
// member had ended its grant; negative if it stopped before.
func overlap(r *rand.Rand, drift float64) time.Duration {
	newClock := func() clock {
		rate := 1 - drift
		if r.IntN(2) == 0 {
			rate = 1 + drift
		}
		return clock{rate, time.Duration(r.Int64N(int64(time.Hour)))}
	}
	primary, member := newClock(), newClock()
	lease := time.Duration(1 + r.Int64N(int64(time.Minute)))
	sent := time.Duration(r.Int64N(int64(time.Hour)))
	received := sent
	if r.IntN(2) == 0 {
		received += time.Duration(r.Int64N(int64(time.Second)))
	}
	granted := member.whenShows(GrantUntil(member.shows(received), lease))
	believed := primary.whenShows(BelieveUntil(primary.shows(sent), lease))
	return believed - granted
}

// TestLease: within the assumed rates no belief outlives its grant, and the
// assumption is needed: half as much again breaks it.
func TestLease(t *testing.T) {
	const rounding = 4 * time.Microsecond // of float64, not of the lease
	r := rand.New(rand.NewPCG(1, 2))
	broken := 0
	for range 100_000 {
		if late := overlap(r, 1.0/ClockRate); late > rounding {
			t.Fatalf("the primary believes for %v after the grant has ended", late)
		}
		if overlap(r, 1.5/ClockRate) > rounding {
			broken++
		}
	}
	if broken == 0 {
		t.Error("clocks beyond the assumption do no harm: this test cannot fail")
	}
}

func TestLeaseRoundsToTheSafeSide(t *testing.T) {
	type instant time.Duration // as other packages have
	for _, lease := range []time.Duration{0, 1, 999, 1000, 1001, 600 * time.Millisecond} {
		grant, belief := GrantUntil(instant(5), lease), BelieveUntil(instant(5), lease)
		if got, least := time.Duration(grant-5)*1000, lease*1001; got < least {
			t.Errorf("%d ns: granted for %d/1000, less than %d/1000", lease, got, least)
		}
		if got, most := time.Duration(belief-5)*1000, lease*999; got > most {
			t.Errorf("%d ns: believed for %d/1000, more than %d/1000", lease, got, most)
		}
	}
	if got := Margin(600 * time.Millisecond); got != 600*time.Microsecond {
		t.Errorf("margin of 600 ms is %v", got)
	}
}

func TestAttachment(t *testing.T) {
	nobody, first, second := Attachment{}, Attachment{"host1/pg", 1}, Attachment{"host2/pg", 2}
	for _, c := range []struct {
		recorded, client Attachment
		want             Standing
	}{
		{first, first, Current},
		{second, first, Fenced},
		{first, second, Unheard},
		{nobody, nobody, Fenced},
		{nobody, first, Unheard},
		{first, nobody, Fenced},
		{first, Attachment{"host2/pg", 1}, Fenced},
		{second, Attachment{"host1/pg", 2}, Fenced},
		{Attachment{"host1/pg", 3}, first, Fenced}, // the same client, attached anew
	} {
		if got := c.recorded.Standing(c.client); got != c.want {
			t.Errorf("recorded %v: %v is %v, want %v", c.recorded, c.client, got, c.want)
		}
	}
}

package metadata

import (
	"strings"
	"testing"
	"time"
)

func TestStewardConfig(t *testing.T) {
	for _, c := range []struct {
		config StewardConfig
		want   string // of the error; empty: none
	}{
		{StewardConfig{}, ""},
		{StewardConfig{ReplaceVoterAfter: time.Second, StableFor: time.Second, RetryMin: 10 * time.Millisecond, RetryMax: time.Hour}, ""},
		{StewardConfig{ReplaceVoterAfter: time.Millisecond}, "replace-voter-after is 1ms; it must lie between 1s and 24h0m0s"},
		{StewardConfig{StableFor: time.Hour}, "stable-for is 1h0m0s; it must lie between 100ms and 1m0s"},
		{StewardConfig{CatchUpEntries: -1}, "catch-up-entries is -1"},
		{StewardConfig{ObserveAfter: time.Hour}, "observe-after is 1h0m0s"},
		{StewardConfig{RetryMin: time.Hour}, "retry-min is 1h0m0s; it must lie between 10ms and 1m0s"},
		{StewardConfig{RetryMax: 2 * time.Hour}, "retry-max is 2h0m0s"},
	} {
		s, err := NewSteward(c.config)
		switch {
		case c.want == "" && (err != nil || s.config.RetryMax == 0 || s.config.ReplaceVoterAfter == 0):
			t.Errorf("%+v: %v", c.config, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%+v: got %v, want %s", c.config, err, c.want)
		}
	}
}

// TestStewardOfNobody asks where there is nothing to do: on a node that does not
// lead, and before there is a cluster.
func TestStewardOfNobody(t *testing.T) {
	w := newStewardWorld()
	mustDo(t, w.found([]string{"n1", "n2", "n3"}))
	w.health("n2", 4, "silent")
	for _, in := range []StewardInput{
		{State: w.s},
		{State: w.s, Raft: RaftStatus{ID: 1, Leader: 2, Voters: []uint64{1, 2, 3}}},
		{State: NewState(), Raft: RaftStatus{ID: 1, Leader: 1}},
	} {
		if out := w.steward.Step(in); len(out.Commands) > 0 || out.Change != nil || out.Transfer != 0 {
			t.Errorf("asked for %+v", out)
		}
	}
}

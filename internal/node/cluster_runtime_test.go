package node

import (
	"strings"
	"testing"
	"time"

	"blkd/replication"
)

// TestPourProblem: a log that does not get into the shards is told of when it has waited
// for some time: what it waits for, since when, how full it is, and what helps.
func TestPourProblem(t *testing.T) {
	stuck := replication.PourStatus{Waits: "the shard on n2", Node: "n2", For: 12 * time.Second, LogUsed: 20 << 20, LogBytes: 64 << 20}
	for _, tc := range []struct {
		change       func(*replication.PourStatus)
		text, advice string
	}{
		{func(*replication.PourStatus) {}, "for 12s: that waits for the shard on n2; the log is 31 % full, writes wait at 50 %", "blkctl node replace n2"},
		{func(s *replication.PourStatus) { s.LogUsed = 40 << 20 }, "62 % full, and writes wait for room", "n2"},
		{func(s *replication.PourStatus) { s.Node = "" }, "for 12s", "start the nodes that hold its shards"},
		{func(s *replication.PourStatus) { s.Node, s.Lost = "", true }, "for 12s", "restore them from a backup"},
		{func(s *replication.PourStatus) { s.For = time.Second }, "", ""},
		{func(s *replication.PourStatus) { s.Waits = "" }, "", ""},
	} {
		s := stuck
		tc.change(&s)
		p := pourProblem(&s)
		if (p == nil) != (tc.text == "") || !strings.Contains(p.GetText(), tc.text) || !strings.Contains(p.GetAdvice(), tc.advice) {
			t.Errorf("%+v: %v", s, p)
		}
	}
}

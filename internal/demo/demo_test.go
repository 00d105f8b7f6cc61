package demo

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"blkd/metadata/metapb"
)

func TestRemembered(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dir", "addresses")
	first, err := remembered(file, 6)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Sort(first); len(slices.Compact(first)) != 6 {
		t.Errorf("addresses were given out twice: %q", first)
	}
	again, err := remembered(file, 6)
	if slices.Sort(again); err != nil || !slices.Equal(first, again) {
		t.Errorf("%q, and then %q, %v", first, again, err)
	}
	if _, err := remembered(file, 10); err == nil || !strings.Contains(err.Error(), "cluster of 3 nodes") {
		t.Errorf("%v", err)
	}
}

func TestFindBlkd(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if path, err := FindBlkd(); !errors.Is(err, errNoBlkd) {
		t.Errorf("%q, %v", path, err)
	}
	want := filepath.Join(os.Getenv("PATH"), "blkd")
	if err := os.WriteFile(want, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if path, err := FindBlkd(); err != nil || path != want {
		t.Errorf("%q, %v", path, err)
	}
}

func TestLatest(t *testing.T) {
	serves := &metapb.Certificate{NewPrimary: "n2", Serving: timestamppb.New(time.Unix(9, 0))}
	h := &metapb.History{Entries: []*metapb.HistoryEntry{
		{Generation: 1, Time: 1, What: "created"},
		{Generation: 1, Time: 2, What: "n1 serves", Certificate: &metapb.Certificate{NewPrimary: "n1"}},
		{Generation: 2, Time: 3, What: "promoted n1 -> n2"},
	}}
	if e := latest(h); e != nil {
		t.Errorf("a generation that nobody serves: %v", e)
	}
	h.Entries = append(h.Entries,
		&metapb.HistoryEntry{Generation: 2, Time: 4, What: "n2 serves", Certificate: serves},
		&metapb.HistoryEntry{Generation: 2, Time: 5, What: "members"})
	if e := latest(h); e == nil || e.Generation != 2 || e.Time != 3 || e.Certificate != serves {
		t.Errorf("%v", e)
	}
	if e := latest(&metapb.History{}); e != nil {
		t.Errorf("%v", e)
	}
}

func TestNoticed(t *testing.T) {
	health := func(node, word string, at int64) *metapb.Event {
		return &metapb.Event{Type: "node", Name: node, Time: at, Changes: []*metapb.Change{{Field: "health", New: word}}}
	}
	events := []*metapb.Event{health("n1", "up", 1), health("n2", "down", 2), health("n1", "suspect", 3), health("n1", "down", 4)}
	if at, word := noticed(events, &node{name: "n1"}); word != "suspect" || at.UnixNano() != 3 {
		t.Errorf("%v %q", at, word)
	}
	if _, word := noticed(events, &node{name: "n3"}); word != "" {
		t.Errorf("n3 is %q", word)
	}
}

func TestServedBy(t *testing.T) {
	n := &node{dir: t.TempDir()}
	text := `n1 is a member of cluster x
{"msg":"this node serves the volume","volume":"demo","generation":1}
{"msg":"this node serves the volume","volume":"other","generation":2}
{"msg":"this node serves the volume","volume":"demo","generation":4}
`
	if err := os.WriteFile(n.logFile(), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := servedBy(n); err != nil || !slices.Equal(got, []uint64{1, 4}) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWords(t *testing.T) {
	for d, want := range map[time.Duration]string{1234 * time.Microsecond: "1.2 ms", 87 * time.Millisecond: "87 ms", 1640 * time.Millisecond: "1.6 s"} {
		if got := roughly(d); got != want {
			t.Errorf("%v is %q", d, got)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("%d is %q", n, got)
		}
	}
}

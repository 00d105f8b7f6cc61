package model

import (
	"fmt"
	"testing"
)

// TestProtocol exhausts small scopes: nothing is broken in any state.
func TestProtocol(t *testing.T) {
	scopes := []Scope{
		{Nodes: 3, Writes: 1, Generations: 3, Records: 4, Crashes: 1, Leases: true},
		{Nodes: 3, Writes: 2, Generations: 3, Records: 4, Joins: true},
		{Nodes: 3, Writes: 1, Generations: 2, Records: 4, Durability: Flush, Powers: 2},
		{Nodes: 3, Writes: 1, Generations: 2, Records: 4, Durability: Write, Powers: 2},
		{Nodes: 2, Writes: 1, Generations: 3, Records: 5, Durability: Flush, Powers: 2, Joins: true},
		{Nodes: 3, Writes: 1, Generations: 3, Records: 4, Policy: true, Leases: true, Handover: true},
	}
	if testing.Short() {
		scopes = scopes[4:5]
	}
	for _, scope := range scopes {
		for _, scope.Majority = range []bool{false, true} {
			r := (&Model{Scope: scope}).Explore(1 << 30)
			t.Logf("%+v: %d states, %d edges", scope, r.States, r.Edges)
			if r.Violation != "" || !r.Exhausted || r.States < 1000 {
				t.Errorf("%+v: %s%s", scope, r.Violation, lines(r.Trace))
			}
		}
	}
}

// TestBugs plants each bug in turn: it shows.
func TestBugs(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	for i, b := range Bugs() {
		if int(b.Bug) != i+1 {
			t.Errorf("%q is number %d of the list, and bug %d", b.Text, i+1, b.Bug)
		}
		r := (&Model{b.Scope, b.Bug}).Explore(6_000_000)
		if r.Violation == "" {
			t.Errorf("survived %d states: %s", r.States, b.Text)
			continue
		}
		t.Logf("%7d states, %2d steps: %s: %s", r.States, len(r.Trace), b.Text, r.Violation)
		if len(r.Trace) == 0 {
			t.Errorf("no trace: %s", b.Text)
		}
	}
	if len(Bugs()) != int(numBugs)-1 {
		t.Errorf("%d bugs are listed, there are %d", len(Bugs()), numBugs-1)
	}
}

func lines(trace []string) (text string) {
	for i, l := range trace {
		text += fmt.Sprintf("\n%3d. %s", i+1, l)
	}
	return text
}

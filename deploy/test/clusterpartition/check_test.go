package main

import (
	"testing"
	"time"
)

// sequence is operations of one client, one after the other.
func sequence(list ...operation) []operation {
	for i := range list {
		list[i].record = "r"
		list[i].call, list[i].end = time.Duration(2*i), time.Duration(2*i+1)
	}
	return list
}

func TestCheck(t *testing.T) {
	made := operation{kind: add, port: 1, result: done}
	for _, c := range []struct {
		name     string
		list     []operation
		violated bool
	}{
		{"read what was written", sequence(made, operation{kind: show, result: done, seen: 1}), false},
		{"stale port", sequence(made, operation{kind: replace, port: 2, result: done}, operation{kind: show, result: done, seen: 1}), true},
		{"stale absence", sequence(made, operation{kind: show, result: absent}), true},
		{"lost removal", sequence(made, operation{kind: remove, result: done}, operation{kind: show, result: done, seen: 1}), true},
		{"added twice", sequence(made, made), true},
		{"exists", sequence(made, operation{kind: add, port: 2, result: present}), false},
		{"exists, but was removed", sequence(made, operation{kind: remove, result: done}, operation{kind: add, result: present}), true},
		{"replaced, but is not there", sequence(operation{kind: replace, port: 2, result: done}), true},
		{"no answer, done", sequence(operation{kind: add, port: 1, result: nothing}, operation{kind: show, result: done, seen: 1}), false},
		{"no answer, never done", sequence(operation{kind: add, port: 1, result: nothing}, operation{kind: show, result: absent}), false},
		{"no answer, done later", sequence(made, operation{kind: remove, result: nothing}, operation{kind: show, result: done, seen: 1}, operation{kind: show, result: absent}), false},
		{"done and undone", sequence(made, operation{kind: remove, result: nothing}, operation{kind: show, result: absent}, operation{kind: show, result: done, seen: 1}), true},
	} {
		violated, err := check(c.list, "")
		if err != nil || violated != c.violated {
			t.Errorf("%s: violated: %v, %v", c.name, violated, err)
		}
	}
}

package main

import (
	"testing"
	"time"
)

// sequence is operations of one client, one after the other.
func sequence(list ...operation) []operation {
	for i := range list {
		list[i].volume = "v"
		list[i].call, list[i].end = time.Duration(2*i), time.Duration(2*i+1)
	}
	return list
}

func TestCheck(t *testing.T) {
	made := operation{kind: create, size: 4096, result: done}
	for _, c := range []struct {
		name     string
		list     []operation
		violated bool
	}{
		{"read what was written", sequence(made, operation{kind: show, result: done, seen: 4096}), false},
		{"stale size", sequence(made, operation{kind: resize, size: 8192, result: done}, operation{kind: show, result: done, seen: 4096}), true},
		{"stale absence", sequence(made, operation{kind: show, result: absent}), true},
		{"lost deletion", sequence(made, operation{kind: remove, result: done}, operation{kind: show, result: done, seen: 4096}), true},
		{"created twice", sequence(made, made), true},
		{"exists", sequence(made, operation{kind: create, size: 8192, result: present}), false},
		{"exists, but was deleted", sequence(made, operation{kind: remove, result: done}, operation{kind: create, result: present}), true},
		{"resized, but is not there", sequence(operation{kind: resize, size: 8192, result: done}), true},
		{"no answer, done", sequence(operation{kind: create, size: 4096, result: nothing}, operation{kind: show, result: done, seen: 4096}), false},
		{"no answer, never done", sequence(operation{kind: create, size: 4096, result: nothing}, operation{kind: show, result: absent}), false},
		{"no answer, done later", sequence(made, operation{kind: remove, result: nothing}, operation{kind: show, result: done, seen: 4096}, operation{kind: show, result: absent}), false},
		{"done and undone", sequence(made, operation{kind: remove, result: nothing}, operation{kind: show, result: absent}, operation{kind: show, result: done, seen: 4096}), true},
	} {
		violated, err := check(c.list, "")
		if err != nil || violated != c.violated {
			t.Errorf("%s: violated: %v, %v", c.name, violated, err)
		}
	}
}

package metadata

import (
	"slices"
	"strings"
)

// table keeps records in the order of their names. Reads are binary searches; a
// new name moves pointers, which is cheap for the few thousand there can be.
type table[T interface{ GetName() string }] struct{ rows []T }

func (t *table[T]) find(name string) (int, bool) {
	return slices.BinarySearchFunc(t.rows, name, func(r T, name string) int { return strings.Compare(r.GetName(), name) })
}

// get returns the zero T, a nil pointer, if there is no such record.
func (t *table[T]) get(name string) (r T) {
	if i, ok := t.find(name); ok {
		return t.rows[i]
	}
	return r
}

func (t *table[T]) put(r T) {
	i, ok := t.find(r.GetName())
	if ok {
		t.rows[i] = r
	} else {
		t.rows = slices.Insert(t.rows, i, r)
	}
}

func (t *table[T]) remove(name string) {
	if i, ok := t.find(name); ok {
		t.rows = slices.Delete(t.rows, i, i+1)
	}
}

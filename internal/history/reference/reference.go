// Package reference checks a block's history with porcupine, which searches for an
// order of the operations. It takes far longer than package history, whose results
// tests compare with it.
package reference

import (
	"errors"
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"

	"blkd/internal/history"
)

// Check tells, within a time, whether the operations of one block, which held the
// value initial at first, are strictly linearizable.
func Check(initial uint64, operations []*history.Operation, timeout time.Duration) (linearizable bool, err error) {
	var list []porcupine.Operation
	for i, o := range operations {
		if !o.Write && o.Return == history.Never {
			continue
		}
		list = append(list, porcupine.Operation{ClientId: i, Input: o, Call: o.Call, Return: min(o.Return, o.Limit)})
	}
	switch porcupine.CheckOperationsTimeout(register(initial), list, timeout) {
	case porcupine.Ok:
		return true, nil
	case porcupine.Illegal:
		return false, nil
	default:
		return false, errors.New("no verdict within " + timeout.String())
	}
}

// register is a block as clients see it. A write without an answer happens at its
// place in the order, or never.
func register(initial uint64) porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{initial} },
		Step: func(state, input, _ any) []any {
			o := input.(*history.Operation)
			switch {
			case o.Write && o.Return == history.Never:
				return []any{state, o.Value}
			case o.Write:
				return []any{o.Value}
			case o.Value == state.(uint64):
				return []any{state}
			}
			return nil
		},
		Equal:             func(a, b any) bool { return a == b },
		DescribeOperation: func(input, _ any) string { return input.(*history.Operation).String() },
		DescribeState:     func(state any) string { return fmt.Sprint(state) },
	}
	return m.ToModel()
}

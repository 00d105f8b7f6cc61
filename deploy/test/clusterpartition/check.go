package main

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// kind is what a client asks.
type kind string

const (
	add     kind = "add"
	replace kind = "replace"
	remove  kind = "remove"
	show    kind = "show"
)

// result is what it is answered.
type result string

const (
	done    result = "done"
	absent  result = "no such record"
	present result = "exists"
	nothing result = "no answer"
)

// operation is one operation of a client, from the first attempt to the answer.
type operation struct {
	client, node int
	kind         kind
	record       string
	port         int64 // that add or replace asks for
	call, end    time.Duration
	result       result
	seen         int64 // by show
}

func (o operation) String() string {
	text := fmt.Sprintf("%s %s", o.kind, o.record)
	if o.port > 0 {
		text += fmt.Sprintf(" %d", o.port)
	}
	if o.kind == show && o.result == done {
		return text + fmt.Sprintf(": %d", o.seen)
	}
	return text + ": " + string(o.result)
}

// checkTime is for finding an order; more operations than fit into it are too many.
const checkTime = 2 * time.Minute

// check tells whether no order of the operations explains all answers, and then
// draws them, if page is the name of a file.
func check(operations []operation, page string) (violated bool, err error) {
	var list []porcupine.Operation
	for _, o := range operations {
		end := o.end.Nanoseconds()
		if o.result == nothing {
			end = math.MaxInt64 // it may take effect at any time, or never
		}
		list = append(list, porcupine.Operation{ClientId: o.client, Input: o, Call: o.call.Nanoseconds(), Output: o, Return: end})
	}
	verdict, info := porcupine.CheckOperationsVerbose(model, list, checkTime)
	switch verdict {
	case porcupine.Ok:
		return false, nil
	case porcupine.Unknown:
		return false, errors.New("no verdict within " + checkTime.String() + ": check fewer operations")
	}
	if page != "" {
		err = porcupine.VisualizePath(model, info, page)
	}
	return true, err
}

// model is a record as its clients see it: its port, 0 if it is not there.
var model = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byName := map[string][]porcupine.Operation{}
		for _, o := range history {
			name := o.Input.(operation).record
			byName[name] = append(byName[name], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range byName {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return int64(0) },
	Step: func(state, _, output any) (bool, any) {
		ok, next := step(state.(int64), output.(operation))
		return ok, next
	},
	DescribeOperation: func(_, output any) string { return output.(operation).String() },
	DescribeState:     func(state any) string { return fmt.Sprint(state) },
}

// step tells whether an operation can have had its answer with a record of that
// port, and the port afterwards. One without an answer that takes effect last of
// all is one that never does.
func step(port int64, o operation) (possible bool, next int64) {
	there := port != 0
	switch {
	case o.result == absent:
		return !there && o.kind != add, port
	case o.result == present:
		return there && o.kind == add, port
	case o.kind == show:
		return there && o.seen == port, port
	}
	unknown := o.result == nothing
	switch o.kind {
	case add:
		if there {
			return unknown, port
		}
		return true, o.port
	case replace:
		if !there {
			return unknown, port
		}
		return true, o.port
	default:
		return there || unknown, 0
	}
}

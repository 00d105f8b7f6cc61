package api

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Errorf makes the error that a service answers with: what went wrong, on which
// node, and the next command (may be empty).
func Errorf(code codes.Code, node, advice, format string, args ...any) error {
	s := status.New(code, fmt.Sprintf(format, args...))
	detailed, err := s.WithDetails(&ErrorInfo{Node: node, Advice: advice})
	if err != nil { // only codes.OK cannot carry details
		return s.Err()
	}
	return detailed.Err()
}

// Explanation is an error of a service, taken apart.
type Explanation struct {
	Code   codes.Code
	Text   string // what went wrong
	Node   string // who says so; empty if the call did not reach a node
	Advice string // the next command; may be empty
}

// Explain takes apart an error that a call returned. Errors that are not a gRPC
// status have code Unknown and their own text.
func Explain(err error) Explanation {
	s := status.Convert(err)
	e := Explanation{Code: s.Code(), Text: s.Message()}
	for _, d := range s.Details() {
		if info, ok := d.(*ErrorInfo); ok {
			e.Node, e.Advice = info.Node, info.Advice
		}
	}
	return e
}

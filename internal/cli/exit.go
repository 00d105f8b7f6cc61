package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"

	"blkd/internal/api"
)

// Code is an exit code of blkctl. Scripts rely on them: they are never reused.
type Code int

// The exit codes; exitHelp describes each.
const (
	OK          Code = 0
	Failed      Code = 1
	Usage       Code = 2
	NotFound    Code = 3
	TimedOut    Code = 4
	NoQuorum    Code = 5
	Refused     Code = 6
	Conflict    Code = 7
	Degraded    Code = 10
	Interrupted Code = 130
)

var exitHelp = []struct {
	code Code
	text string
}{
	{OK, "done"},
	{Failed, "failed"},
	{Usage, "wrong usage"},
	{NotFound, "there is no such volume or node"},
	{TimedOut, "timed out"},
	{NoQuorum, "no quorum"},
	{Refused, "refused to protect data"},
	{Conflict, "conflict with another operation, or the name is taken"},
	{Degraded, "something is degraded, waits or has failed (status --check only)"},
	{Interrupted, "interrupted"},
}

// Error is a failure as blkctl tells it.
type Error struct {
	Code   Code   `json:"code"`
	Text   string `json:"message"`
	Node   string `json:"node,omitempty"`   // which node says so
	Advice string `json:"advice,omitempty"` // what to do next
	quiet  bool   // the output has told it already

	unreached bool // no blkd answered
}

func (e *Error) Error() string { return e.Text }

// print writes the error for people, or as one line of JSON.
func (e *Error) print(w io.Writer, asJSON bool) {
	switch {
	case e.quiet:
	case asJSON:
		line, err := json.Marshal(map[string]*Error{"error": e})
		if err != nil {
			line = []byte(e.Text)
		}
		fmt.Fprintf(w, "%s\n", line)
	default:
		fmt.Fprintf(w, "blkctl: %s", e.Text)
		if e.Node != "" {
			fmt.Fprintf(w, " (node %s)", e.Node)
		}
		fmt.Fprintln(w)
		if e.Advice != "" {
			fmt.Fprintf(w, "  next: %s\n", e.Advice)
		}
	}
}

// explain turns any error of a command into what is told and the exit code.
// Errors that no command made come from reading the command line.
func explain(ctx context.Context, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	var call *callError
	if !errors.As(err, &call) {
		return &Error{Code: Usage, Text: err.Error()}
	}
	x := api.Explain(call.err)
	e = &Error{Code: codeOf(x), Text: x.Text, Node: x.Node, Advice: x.Advice}
	switch {
	case ctx.Err() != nil:
		return &Error{Code: Interrupted, Text: "interrupted"}
	case e.Code == TimedOut:
		e.Text = "blkd did not answer in time"
		e.Advice = "try again with a longer --timeout; look at blkd's log"
	}
	return e
}

// callError marks an error that a call to a node returned.
type callError struct{ err error }

func (e *callError) Error() string { return e.err.Error() }

// called marks err, if it is one, as the result of a call.
func called(err error) error {
	if err == nil {
		return nil
	}
	return &callError{err}
}

func codeOf(x api.Explanation) Code {
	switch x.Code {
	case codes.InvalidArgument:
		return Usage
	case codes.NotFound:
		return NotFound
	case codes.DeadlineExceeded:
		return TimedOut
	case codes.FailedPrecondition:
		return Refused
	case codes.Aborted, codes.AlreadyExists:
		return Conflict
	case codes.Unavailable:
		if x.Node != "" { // a node answered that the others are missing
			return NoQuorum
		}
	}
	return Failed
}

package metadata

import (
	"fmt"

	"blkd/metadata/metapb"
)

// Refusal is why a command was not done. Nothing has changed then.
type Refusal struct {
	Code   metapb.Code // never CODE_OK
	Text   string      // what is wrong
	Advice string      // the next command; may be empty

	volume *metapb.Volume // as it is
}

// Error is the text and the advice in one line.
func (r *Refusal) Error() string {
	if r.Advice == "" {
		return r.Text
	}
	return r.Text + "; " + r.Advice
}

// advise adds the next command.
func (r *Refusal) advise(format string, args ...any) *Refusal {
	r.Advice = fmt.Sprintf(format, args...)
	return r
}

func refusal(code metapb.Code, format string, args []any) *Refusal {
	return &Refusal{Code: code, Text: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) *Refusal {
	return refusal(metapb.Code_CODE_INVALID, format, args)
}

func notFound(format string, args ...any) *Refusal {
	return refusal(metapb.Code_CODE_NOT_FOUND, format, args)
}

func exists(format string, args ...any) *Refusal {
	return refusal(metapb.Code_CODE_EXISTS, format, args)
}

func conflict(format string, args ...any) *Refusal {
	return refusal(metapb.Code_CODE_CONFLICT, format, args)
}

func refused(format string, args ...any) *Refusal {
	return refusal(metapb.Code_CODE_REFUSED, format, args)
}

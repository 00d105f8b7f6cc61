package api

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
)

func TestExplain(t *testing.T) {
	refused := Errorf(codes.FailedPrecondition, "n1", "disconnect them", "volume %s has %d clients", "demo", 2)
	for _, tc := range []struct {
		err  error
		want Explanation
	}{
		{refused, Explanation{codes.FailedPrecondition, "volume demo has 2 clients", "n1", "disconnect them"}},
		{fmt.Errorf("delete: %w", refused), Explanation{codes.FailedPrecondition, "delete: " + refused.Error(), "n1", "disconnect them"}},
		{errors.New("plain"), Explanation{Code: codes.Unknown, Text: "plain"}},
		{nil, Explanation{Code: codes.OK}},
	} {
		if got := Explain(tc.err); got != tc.want {
			t.Errorf("Explain(%v) = %+v, want %+v", tc.err, got, tc.want)
		}
	}
}

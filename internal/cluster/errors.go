package cluster

import (
	"errors"
	"fmt"
	"strings"
)

// NoQuorumError says that nothing can be decided now, because too few voters
// are in contact with this node.
type NoQuorumError struct {
	Have    int      // voters in contact, this node included if it is one
	Need    int      // a majority of the voters
	Voters  int      // all of them
	Missing []string // "n2: not heard for 4.1s (connection refused)"
	Waiting string   // what this node does instead of taking part; empty: it takes part
}

func (e *NoQuorumError) Error() string {
	var b strings.Builder
	b.WriteString("no quorum")
	if e.Voters > 0 {
		fmt.Fprintf(&b, ": %d of %d voters in contact, %d needed", e.Have, e.Voters, e.Need)
	}
	if len(e.Missing) > 0 {
		fmt.Fprintf(&b, "; missing %s", strings.Join(e.Missing, ", "))
	}
	if e.Waiting != "" {
		fmt.Fprintf(&b, "; this node %s", e.Waiting)
	}
	return b.String()
}

// RefusedError says why this node may not take part in the cluster.
type RefusedError struct {
	Text   string // what is wrong
	Advice string // what to do next
}

func (e *RefusedError) Error() string { return e.Text + "; " + e.Advice }

// ErrStopped is the error of calls to a cluster node that has been stopped.
var ErrStopped = errors.New("this node is stopping")

// ErrNotTransferred is what every error of Transfer wraps that says what the
// leader has against handing over.
var ErrNotTransferred = errors.New("the leadership cannot be handed over")

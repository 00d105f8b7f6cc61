package replication

import (
	"errors"
	"fmt"

	"blkd/blockdev"
)

// ErrMoved tells that this node does not serve the volume (any more). It is an
// ErrClosed: a server hangs up instead of handing it to applications, and
// clients find the new primary.
var ErrMoved = fmt.Errorf("%w: another node serves the volume", blockdev.ErrClosed)

// ErrNoRecovery tells that no recovery is under way at this replica.
var ErrNoRecovery = errors.New("no recovery is under way")

// ErrFenced tells a client that another one has taken the volume over. It is
// final.
var ErrFenced = fmt.Errorf("%w: the volume was taken over by another client", blockdev.ErrIO)

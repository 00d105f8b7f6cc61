package cli

import (
	"crypto/rand"
	"os"
	"os/user"

	"github.com/spf13/cobra"

	"blkd/internal/api"
)

// newRequest is what goes with a change: an id that all attempts share, who asks
// and why.
func newRequest(reason string) *api.RequestInfo {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return &api.RequestInfo{Id: id, By: whoami(), Reason: reason}
}

// whoami is the asker's user and machine: "root@db1".
func whoami() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return name + "@" + host
}

// reasonFlag adds --reason to a command that changes something.
func reasonFlag(cmd *cobra.Command, reason *string) {
	cmd.Flags().StringVar(reason, "reason", "", "why, as `TEXT` for the history")
}

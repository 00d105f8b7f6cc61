package api

import (
	"os"
	"path/filepath"
)

// SocketName is the file name of a node's control socket in its data directory.
const SocketName = "blkd.sock"

// MetadataDir is the directory in a node's data directory that holds its part of
// the metadata quorum; it is there once the node belongs to a cluster.
const MetadataDir = "metadata"

// DefaultDataDir is where a node keeps its data unless told otherwise:
// /var/lib/blkd for root, else blkd in the user's state directory.
func DefaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/blkd"
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "blkd")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "blkd")
	}
	return filepath.Join(os.TempDir(), "blkd")
}

package node

import (
	"golang.org/x/sys/unix"

	"blkd/internal/api"
)

// disk is the file system that holds the data directory.
type disk struct {
	size, free int64 // bytes
	problem    *api.Problem
}

// lookAtDisk asks how full that file system is.
func (n *Node) lookAtDisk() (d disk) {
	var fs unix.Statfs_t
	if err := unix.Statfs(n.cfg.DataDir, &fs); err != nil {
		d.problem = unknownDiskProblem(n.cfg.DataDir, err)
		return d
	}
	d.size, d.free = int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize
	if isLow(d.free, d.size) {
		d.problem = lowProblem(n.cfg.DataDir, d.free)
	}
	return d
}

// isLow: less than a twentieth is free, and less than 50 GiB. Volumes are thin
// and may ask for it at any time.
func isLow(free, size int64) bool { return free < min(size/20, 50<<30) }

package node

import (
	"fmt"

	"golang.org/x/sys/unix"

	"blkd/internal/api"
	"blkd/internal/units"
)

// lowDisk is the share of the file system that shall stay free: less is told as
// a problem, because volumes are thin and may ask for it at any time.
const lowDisk = 0.05

// describeDisk fills in the file system that holds the data directory.
func (n *Node) describeDisk(out *api.NodeStatus) {
	var fs unix.Statfs_t
	if err := unix.Statfs(n.cfg.DataDir, &fs); err != nil {
		out.Problems = append(out.Problems, &api.Problem{Code: "disk_unknown",
			Text:   fmt.Sprintf("the file system of %s does not answer: %v", n.cfg.DataDir, err),
			Advice: "check the disk (dmesg)"})
		return
	}
	out.DiskSizeBytes = int64(fs.Blocks) * fs.Bsize
	out.DiskFreeBytes = int64(fs.Bavail) * fs.Bsize
	if isLow(out.DiskFreeBytes, out.DiskSizeBytes) {
		out.Problems = append(out.Problems, &api.Problem{Code: "disk_low",
			Text:   fmt.Sprintf("%s is left on the file system of %s", units.Size(out.DiskFreeBytes), n.cfg.DataDir),
			Advice: "free space there, or trim unused blocks in the volumes (fstrim)"})
	}
}

func isLow(free, size int64) bool { return float64(free) < lowDisk*float64(size) }

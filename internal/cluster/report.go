package cluster

import (
	"context"
	"time"

	"blkd/metadata/metapb"
)

const (
	reportEvery = time.Minute
	reportLook  = 5 * time.Second // how often the free space is looked at
	reportPart  = 50              // a change of that part of the file system is worth a report
)

// reportDisk tells the quorum how full the disk is: every minute, and when that
// has changed much.
func (c *Cluster) reportDisk() {
	capacity, free := c.world.Disk() // as it was registered
	reported := c.now()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.after(reportLook):
		}
		nowCapacity, nowFree := c.world.Disk()
		moved := max(nowFree-free, free-nowFree)
		if nowCapacity == capacity && moved <= capacity/reportPart && (c.now()-reported < reportEvery || moved == 0) {
			continue
		}
		ctx, cancel := context.WithTimeout(c.ctx, reportLook)
		_, err := c.Do(ctx, &metapb.Command{Op: &metapb.Command_ReportNode{ReportNode: &metapb.ReportNode{
			Name: c.cfg.Name, Incarnation: c.incarnation, CapacityBytes: nowCapacity, FreeBytes: nowFree,
		}}})
		cancel()
		if err != nil {
			c.log.Debug("the free space was not reported", "err", err)
			continue
		}
		capacity, free, reported = nowCapacity, nowFree, c.now()
	}
}

package main

import (
	"context"
	"fmt"
	"slices"

	"blkd/deploy/test/clustertest"
	"blkd/fio"
	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// erasure compares erasure codes with mirrors of as many nodes or as many losses, and
// a volume of 2+1 with itself when one of its nodes has ended.
func (b *bench) erasure(ctx context.Context) ([]verdict, error) {
	defer b.stopAll()
	c, err := b.startCluster(ctx, "erasure", 6, "")
	if err != nil {
		return nil, err
	}
	var servers []*server
	for _, create := range []*api.CreateVolumeRequest{mirrorOf(2), mirrorOf(3), codeOf(2, 1), codeOf(4, 2)} {
		s, err := b.volume(ctx, c, create)
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	rep, err := b.measure(ctx, "erasure", fio.EngineFio, b.dir, copies, servers...)
	if err != nil {
		return nil, err
	}
	const job, read = "randread-4k-qd32", "ec-2-1"
	healthy, err := b.measure(ctx, "erasure, healthy", fio.EngineFio, "", []string{job}, servers[2])
	if err != nil {
		return nil, err
	}
	ended, err := endSecondary(ctx, c, read)
	if err != nil {
		return nil, err
	}
	servers[2].pids = slices.DeleteFunc(servers[2].pids, func(pid int) bool { return pid == ended })
	degraded, err := b.measure(ctx, "erasure, without a node", fio.EngineFio, "", []string{job}, servers[2])
	if err != nil {
		return nil, err
	}
	return append(erasureVerdicts(rep), beside(degraded, healthy, job, read)), nil
}

func codeOf(data, parity int32) *api.CreateVolumeRequest {
	return &api.CreateVolumeRequest{Name: fmt.Sprintf("ec-%d-%d", data, parity),
		Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_EC, Data: data, Parity: parity}}
}

// endSecondary ends a node that has a data shard of a volume, and is not its primary. It
// tells the process that has ended.
func endSecondary(ctx context.Context, c *clustertest.Cluster, volume string) (pid int, err error) {
	v, err := api.NewVolumeServiceClient(c.Nodes[0].Conn()).Show(ctx, &api.ShowVolumeRequest{Name: volume})
	if err != nil {
		return 0, err
	}
	for _, m := range v.Record.Members {
		if m.Node == v.Record.Primary || m.Shard >= v.Record.Layout.Data {
			continue
		}
		i := slices.IndexFunc(c.Nodes, func(n *clustertest.Node) bool { return n.Name == m.Node })
		pid = c.Nodes[i].Pid()
		return pid, c.Nodes[i].Stop()
	}
	return 0, fmt.Errorf("volume %s has no data shard but the primary's", volume)
}

// beside makes a verdict of one server in two reports.
func beside(degraded, healthy *fio.Report, job, name string) verdict {
	v := verdict{number: 5, what: "erasure: " + job + ", IO/s, without a node / healthy", want: 0.5, missing: true}
	d, h := degraded.Find(job, fio.EngineFio), healthy.Find(job, fio.EngineFio)
	if d != nil && h != nil {
		if x, y := d.Target(name).Summary[fio.IOPS].Median, h.Target(name).Summary[fio.IOPS].Median; y > 0 {
			v.got, v.missing = fio.Summary{Median: x / y, Min: x / y, Max: x / y}, false
		}
	}
	return v
}

func erasureVerdicts(rep *fio.Report) []verdict {
	ratio := func(job string, m fio.Metric, over string, want float64) verdict {
		return compare(rep, 5, "erasure", job, fio.EngineFio, m, "ec-2-1", over, atLeast, want)
	}
	return []verdict{
		ratio("randwrite-4k-qd1", fio.IOPS, "2-copies", 0.75),
		ratio("randwrite-4k-qd32", fio.IOPS, "2-copies", 0.6),
		ratio("seqwrite-1m-qd8", fio.MBps, "3-copies", 1),
	}
}

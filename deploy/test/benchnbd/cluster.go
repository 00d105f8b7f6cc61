package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"blkd/deploy/test/clustertest"
	"blkd/fio"
	"blkd/internal/api"
	"blkd/internal/pki"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

// copies are the jobs that compare volumes of a cluster.
var copies = []string{
	"randwrite-4k-qd1", "randwrite-4k-qd32", "randwrite-4k-qd128", "randread-4k-qd1", "randread-4k-qd32",
	"seqwrite-1m-qd8", "seqread-1m-qd8",
}

// mirror compares one node without a cluster with volumes of one, two and three
// copies, with their clients at the primary.
func (b *bench) mirror(ctx context.Context) ([]verdict, error) {
	defer b.stopAll()
	one, err := b.singleNode(ctx)
	if err != nil {
		return nil, err
	}
	c, err := b.startCluster(ctx, "mirror", 3, "")
	if err != nil {
		return nil, err
	}
	servers := []*server{one}
	for n := 1; n <= 3; n++ {
		m, err := b.volume(ctx, c, mirrorOf(n))
		if err != nil {
			return nil, err
		}
		servers = append(servers, m)
	}
	rep, err := b.measure(ctx, "mirror", fio.EngineFio, b.dir, copies, servers...)
	if err != nil {
		return nil, err
	}
	return mirrorVerdicts(rep), nil
}

// durable compares what acknowledges a write when it is durable, under 32 writers:
// they flush, or the volume does it for each write.
func (b *bench) durable(ctx context.Context) ([]verdict, error) {
	defer b.stopAll()
	raw := &server{name: "raw file", uri: "file:" + filepath.Join(b.dir, "raw32.img")}
	if err := fillFile(filepath.Join(b.dir, "raw32.img"), b.size); err != nil {
		return nil, err
	}
	one, err := b.singleNode(ctx)
	if err != nil {
		return nil, err
	}
	c, err := b.startCluster(ctx, "durable", 3, "")
	if err != nil {
		return nil, err
	}
	flush, write, err := b.bothDurabilities(ctx, c)
	if err != nil {
		return nil, err
	}
	flushing, err := b.measure(ctx, "durable, flushes", fio.EngineFio, b.dir, []string{flushJob}, raw, one, flush, write)
	if err != nil {
		return nil, err
	}
	_, err = b.measure(ctx, "durable, writes", fio.EngineFio, b.dir, []string{"randwrite-4k-qd1", "randwrite-4k-qd32"}, flush, write)
	return durableVerdicts(flushing), err
}

// bothDurabilities are volumes of two copies: one whose writes are durable with the next
// flush, and one whose writes are durable when they are answered.
func (b *bench) bothDurabilities(ctx context.Context, c *clustertest.Cluster) (flush, write *server, err error) {
	if flush, err = b.volume(ctx, c, mirrorOf(2)); err != nil {
		return nil, nil, err
	}
	create := mirrorOf(2)
	create.Name, create.Durability = "2-copies-durable", metapb.Durability_DURABILITY_WRITE
	write, err = b.volume(ctx, c, create)
	return flush, write, err
}

// clusterTLS compares the same volume on two clusters, with and without TLS between
// the nodes.
func (b *bench) clusterTLS(ctx context.Context) ([]verdict, error) {
	defer b.stopAll()
	plain, err := b.startCluster(ctx, "plain", 3, "")
	if err != nil {
		return nil, err
	}
	authority, err := issue(filepath.Join(b.dir, "pki"), plain)
	if err != nil {
		return nil, err
	}
	secure, err := b.startCluster(ctx, "tls", 3, authority)
	if err != nil {
		return nil, err
	}
	var servers []*server
	for _, c := range []*clustertest.Cluster{plain, secure} {
		s, err := b.volume(ctx, c, mirrorOf(2))
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	servers[0].name, servers[1].name = "plain", "TLS"
	rep, err := b.measure(ctx, "tls between nodes", fio.EngineFio, "", []string{"randwrite-4k-qd1", "randwrite-4k-qd32", "seqwrite-1m-qd8"}, servers...)
	if err != nil {
		return nil, err
	}
	return []verdict{compare(rep, 7, "TLS between nodes on / off", "randwrite-4k-qd32", fio.EngineFio, fio.IOPS, "TLS", "plain", atLeast, 0.5)}, nil
}

// singleNode starts one blkd without a cluster.
func (b *bench) singleNode(ctx context.Context) (*server, error) {
	p, err := b.place("unix")
	if err != nil {
		return nil, err
	}
	one, err := b.blkdNode(ctx, "1-node", p, fmt.Sprintf("one-%d", b.ports))
	if err != nil {
		return nil, err
	}
	return one, fillExport(ctx, one.uri)
}

// startCluster starts a cluster of nodes n1, n2, … which ends with the servers.
// authority is that of its certificates; empty: it has none.
func (b *bench) startCluster(ctx context.Context, dir string, nodes int, authority string) (*clustertest.Cluster, error) {
	cfg := clustertest.Config{Blkd: b.blkd, Dir: filepath.Join(b.dir, dir), TLS: authority}
	for i := range nodes {
		cfg.Names = append(cfg.Names, fmt.Sprintf("n%d", i+1))
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, err
	}
	c, err := clustertest.New(cfg)
	if err != nil {
		return nil, err
	}
	b.clusters = append(b.clusters, c)
	return c, c.Start(ctx)
}

// issue makes an authority in dir, with a certificate for every node.
func issue(dir string, c *clustertest.Cluster) (string, error) {
	a, err := pki.Init(dir, "bench", pki.CALifetime)
	if err != nil {
		return "", err
	}
	defer a.Close()
	for _, n := range c.Nodes {
		if _, err := a.Issue(pki.Request{Role: pki.Node, Name: n.Name, Lifetime: pki.CertificateLifetime}); err != nil {
			return "", err
		}
	}
	return a.Dir(), nil
}

func mirrorOf(copies int) *api.CreateVolumeRequest {
	name := fmt.Sprintf("%d-copies", copies)
	return &api.CreateVolumeRequest{Name: name, Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: int32(copies)}}
}

// volume creates a volume and fills it. The server is its primary; all nodes of the
// cluster are counted.
func (b *bench) volume(ctx context.Context, c *clustertest.Cluster, create *api.CreateVolumeRequest) (*server, error) {
	create.SizeBytes, create.Request = b.size, &api.RequestInfo{By: "bench"}
	volumes := api.NewVolumeServiceClient(c.Nodes[0].Conn())
	if _, err := volumes.Create(ctx, create); err != nil {
		return nil, err
	}
	primary, err := primaryOf(ctx, c, create.Name)
	if err != nil {
		return nil, err
	}
	s := &server{name: create.Name, uri: "nbd+unix:///" + create.Name + "?socket=" + primary.NBD()}
	for _, n := range c.Nodes {
		s.pids = append(s.pids, n.Pid())
	}
	return s, fillExport(ctx, s.uri)
}

// primaryOf waits until a volume serves its clients.
func primaryOf(ctx context.Context, c *clustertest.Cluster, volume string) (*clustertest.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	last := errors.New("no node is primary")
	for {
		for _, n := range c.Nodes {
			v, err := api.NewVolumeServiceClient(n.Conn()).Show(ctx, &api.ShowVolumeRequest{Name: volume})
			if err != nil || v.Record.GetPrimary() != n.Name {
				continue
			}
			dev, err := nbd.Dial(ctx, "nbd+unix:///"+volume+"?socket="+n.NBD(), nbd.DialOptions{})
			if err == nil {
				return n, dev.Close()
			}
			last = err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("volume %s does not serve: %w", volume, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

package drill

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/verifier"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

// Node is a node of the cluster.
type Node struct {
	Name string
	Conn *grpc.ClientConn // to its cluster service
	NBD  string           // HOST:PORT where clients connect; empty: none can
}

// Cluster is the cluster that is tried, and whom it hears from the operator.
type Cluster struct {
	Name  string
	Nodes []*Node
	By    string // who asks, for the cluster's history
	TLS   bool   // of the NBD clients
}

const (
	askTime  = 2 * time.Second // for one node's answer
	patience = 2 * time.Minute // with what a cluster does by itself
	settling = 100 * time.Millisecond
)

// ask asks one node after the other until one can answer: some of them are down, or
// stand still.
func (c *Cluster) ask(ctx context.Context, do func(context.Context, grpc.ClientConnInterface) error) error {
	var errs error
	for _, n := range c.Nodes {
		within, cancel := context.WithTimeout(ctx, askTime)
		err := do(within, n.Conn)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		errs = errors.Join(errs, said(n, err))
	}
	return errs
}

// said is an error as a node has put it.
func said(n *Node, err error) error {
	x := api.Explain(err)
	if x.Advice != "" {
		return fmt.Errorf("node %s: %s; next: %s", n.Name, x.Text, x.Advice)
	}
	return fmt.Errorf("node %s: %s", n.Name, x.Text)
}

// until asks until there is nothing to complain of.
func until(ctx context.Context, limit time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v: %w", limit, err)
		case <-time.After(settling):
		}
	}
}

func (c *Cluster) request(reason string) *api.RequestInfo {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return &api.RequestInfo{Id: id, By: c.By, Reason: reason}
}

func (c *Cluster) show(ctx context.Context, volume string) (v *api.Volume, err error) {
	err = c.ask(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) (err error) {
		v, err = api.NewVolumeServiceClient(conn).Show(ctx, &api.ShowVolumeRequest{Name: volume})
		return err
	})
	return v, err
}

func (c *Cluster) status(ctx context.Context) (s *api.ClusterStatus, err error) {
	err = c.ask(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) (err error) {
		s, err = api.NewClusterServiceClient(conn).Status(ctx, &api.ClusterStatusRequest{})
		if err == nil && s.Stale {
			return errors.New("it has no quorum")
		}
		return err
	})
	return s, err
}

func (c *Cluster) history(ctx context.Context, volume string) (h *metapb.History, err error) {
	err = c.ask(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) (err error) {
		h, err = api.NewClusterServiceClient(conn).History(ctx, &api.HistoryRequest{Volume: volume})
		return err
	})
	return h, err
}

// sound tells what is missing for the cluster to bear the loss of any one node: every
// node is up, and every replica of every volume up to date and connected.
func (c *Cluster) sound(ctx context.Context) error {
	s, err := c.status(ctx)
	if err != nil {
		return err
	}
	var lacks []string
	for _, n := range s.Nodes {
		if n.Record.GetHealth() != metapb.Health_HEALTH_UP {
			lacks = append(lacks, fmt.Sprintf("node %s is not up", n.Record.GetName()))
		}
	}
	if q := s.Quorum; q.GetVoters() < 3 || q.GetHave() < q.GetVoters() {
		lacks = append(lacks, fmt.Sprintf("%d of %d voters answer", q.GetHave(), q.GetVoters()))
	}
	for _, v := range s.Volumes {
		lacks = append(lacks, redundant(v)...)
	}
	if len(lacks) > 0 {
		return errors.New(strings.Join(lacks, "; "))
	}
	return nil
}

// redundant tells why a volume cannot bear the loss of a node.
func redundant(v *api.Volume) (lacks []string) {
	r := v.Record
	if len(r.GetMembers()) <= int(max(r.GetMinCopies(), 1)) {
		lacks = append(lacks, fmt.Sprintf("volume %s has %d replicas, and needs %d", v.Name, len(r.GetMembers()), max(r.GetMinCopies(), 1)))
	}
	for _, m := range r.GetMembers() {
		good := false
		for _, x := range v.Replicas {
			good = good || x.Node == m.Node && x.Connected && x.Resync == nil
		}
		if !good || m.State != metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE {
			lacks = append(lacks, fmt.Sprintf("the replica of volume %s on %s is not up to date", v.Name, m.Node))
		}
	}
	return lacks
}

// Scratch makes a volume to try things on, and returns a function that deletes it.
func (c *Cluster) Scratch(ctx context.Context) (name string, remove func() error, err error) {
	s, err := c.status(ctx)
	if err != nil {
		return "", nil, err
	}
	copies := 0
	for _, n := range s.Nodes {
		if !n.Record.GetWitness() && !n.Record.GetDrained() {
			copies++
		}
	}
	name = "drill-" + strings.ToLower(rand.Text()[:8])
	_, err = c.create(ctx, &api.CreateVolumeRequest{Name: name, SizeBytes: scratchBytes, Shared: true, Request: c.request("a scratch volume for drills"),
		Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: int32(min(copies, 3))}})
	if err != nil {
		return "", nil, fmt.Errorf("scratch volume: %w", err)
	}
	return name, func() error { return c.remove(name) }, nil
}

// Shared tells whether clients of several nodes may use a volume at the same time.
func (c *Cluster) Shared(ctx context.Context, volume string) (bool, error) {
	v, err := c.show(ctx, volume)
	return v.GetRecord().GetShared(), err
}

func (c *Cluster) create(ctx context.Context, req *api.CreateVolumeRequest) (v *api.Volume, err error) {
	err = c.ask(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) (err error) {
		v, err = api.NewVolumeServiceClient(conn).Create(ctx, req)
		return err
	})
	return v, err
}

// remove deletes a volume, also when the operator has interrupted.
func (c *Cluster) remove(name string) error {
	req := &api.DeleteVolumeRequest{Name: name, Force: true, Request: c.request("the drills are over")}
	return until(context.Background(), patience, func(ctx context.Context) error {
		return c.ask(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
			_, err := api.NewVolumeServiceClient(conn).Delete(ctx, req)
			return err
		})
	})
}

// dial is how a client of a node connects to a volume.
func (c *Cluster) dial(n *Node, volume string) func(context.Context) (verifier.Connection, error) {
	scheme := "nbd://"
	if c.TLS {
		scheme = "nbds://"
	}
	return func(ctx context.Context) (verifier.Connection, error) {
		return nbd.Dial(ctx, scheme+n.NBD+"/"+volume, nbd.DialOptions{HandshakeTimeout: askTime})
	}
}

// clients are the nodes that clients can use.
func (c *Cluster) clients() (list []*Node) {
	for _, n := range c.Nodes {
		if n.NBD != "" {
			list = append(list, n)
		}
	}
	return list
}

const (
	scratchBytes = 64 << 20
	crowdBlocks  = 256 // that the clients use, from the first on
	crowdDepth   = 6
	crowdPause   = 2 * time.Millisecond
)

// crowd starts clients of all nodes, on a volume whose first blocks it makes read as
// zeros.
func (c *Cluster) crowd(ctx context.Context, volume string, acknowledged func(client int, sent time.Time)) (*verifier.Crowd, error) {
	nodes := c.clients()
	if len(nodes) == 0 {
		return nil, errors.New("no node offers NBD over TCP")
	}
	cfg := verifier.CrowdConfig{Blocks: crowdBlocks, Depth: crowdDepth, ReadPercent: 20, Pause: crowdPause, Acknowledged: acknowledged}
	for _, n := range nodes {
		cfg.Dial = append(cfg.Dial, c.dial(n, volume))
	}
	err := until(ctx, patience, func(ctx context.Context) error {
		dev, err := cfg.Dial[0](ctx)
		if err != nil {
			return err
		}
		return errors.Join(blockdev.WriteZeroes(dev, 0, crowdBlocks*blockdev.BlockSize, 0), dev.Close())
	})
	if err != nil {
		return nil, fmt.Errorf("volume %s through %s: %w", volume, nodes[0].Name, err)
	}
	return verifier.StartCrowd(cfg), nil
}

// verdict ends the clients and judges what they were told. The second error is that of
// looking.
func (c *Cluster) verdict(ctx context.Context, volume string, crowd *verifier.Crowd) (violation, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := crowd.Stop(ctx); err != nil {
		return err, nil
	}
	var devices []blockdev.Device
	for _, n := range c.clients() {
		dev, err := c.dial(n, volume)(ctx)
		if err != nil {
			return nil, fmt.Errorf("volume %s through %s: %w", volume, n.Name, err)
		}
		defer dev.Close() //nolint:errcheck // it is only read
		devices = append(devices, dev)
	}
	return crowd.Check(devices...), nil
}

package clustertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"blkd/internal/api"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

// Volume is a volume of a cluster. Its methods may be used by any goroutine,
// while no node is started or ended.
type Volume struct {
	Name   string
	Ask    *Node   // where it is asked for
	Copies []*Node // that have one

	cluster *Cluster
}

// CreateVolume makes a volume with copies on some nodes, and waits until all of them
// are up to date. Questions go to the node ask from then on. Clients of several nodes may
// write to it at once.
func (c *Cluster) CreateVolume(ctx context.Context, name string, bytes int64, ask *Node, copies []*Node) (*Volume, error) {
	return c.CreateVolumeOf(ctx, name, bytes, ask, copies, &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: int32(len(copies))})
}

// CreateVolumeOf is CreateVolume with any layout, which as many nodes as copies fit.
func (c *Cluster) CreateVolumeOf(ctx context.Context, name string, bytes int64, ask *Node, copies []*Node, layout *metapb.Layout) (*Volume, error) {
	v := &Volume{Name: name, Ask: ask, Copies: copies, cluster: c}
	var on []string
	for _, n := range copies {
		on = append(on, n.Name)
	}
	_, err := v.service().Create(ctx, &api.CreateVolumeRequest{Name: name, SizeBytes: bytes, Nodes: on, Shared: true, Request: NewRequest(), Layout: layout})
	if err != nil {
		return nil, err
	}
	return v, v.Level(ctx)
}

// NewRequest is what goes with a change.
func NewRequest() *api.RequestInfo {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return &api.RequestInfo{Id: id, By: "test"}
}

func (v *Volume) service() api.VolumeServiceClient { return api.NewVolumeServiceClient(v.Ask.conn) }

// Dial connects to the volume on a node.
func (v *Volume) Dial(ctx context.Context, n *Node, opts nbd.DialOptions) (*nbd.Client, error) {
	return nbd.Dial(ctx, "nbd+unix:///"+v.Name+"?socket="+n.NBD(), opts)
}

// Show is the volume, as the quorum knows it.
func (v *Volume) Show(ctx context.Context) (*api.Volume, error) {
	return v.service().Show(ctx, &api.ShowVolumeRequest{Name: v.Name})
}

// Primary is the node that is recorded as primary.
func (v *Volume) Primary(ctx context.Context) (*Node, error) {
	now, err := v.Show(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range v.cluster.Nodes {
		if n.Name == now.Record.GetPrimary() {
			return n, nil
		}
	}
	return nil, errors.New("the volume has no primary")
}

// Sound tells whether a node's copy is up to date, by the record and as the serving
// node sees it.
func Sound(v *api.Volume, name string) bool {
	recorded := slices.ContainsFunc(v.Record.GetMembers(), func(m *metapb.Member) bool {
		return m.Node == name && m.State == metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE
	})
	return recorded && slices.ContainsFunc(v.Replicas, func(x *api.Replica) bool { return x.Node == name && x.Connected && x.Resync == nil })
}

// Level waits until every copy is connected and up to date.
func (v *Volume) Level(ctx context.Context) error {
	return v.cluster.Until(ctx, func(ctx context.Context) error {
		now, err := v.Show(ctx)
		if err != nil {
			return err
		}
		for _, n := range v.Copies {
			if !Sound(now, n.Name) {
				return fmt.Errorf("the copy on %s is not up to date: %v", n.Name, now)
			}
		}
		return nil
	})
}

// levelTime is how long volumes may take for what they do by themselves.
const levelTime = 2 * time.Minute

// Until asks again and again until there is nothing to complain of. It gives up after
// two minutes, with what the nodes have said.
func (c *Cluster) Until(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, levelTime)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			logs := ""
			for _, n := range c.Nodes {
				logs += "\n" + n.Log()
			}
			return fmt.Errorf("waited %v: %w%s", levelTime, err, logs)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

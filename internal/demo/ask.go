package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"

	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// stop makes the node stand still, and returns when all of it does.
func (n *node) stop() error {
	if err := n.process.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return unix.Waitid(unix.P_PID, n.process.cmd.Process.Pid, nil, unix.WSTOPPED, nil)
}

// resume lets it go on.
func (n *node) resume() error { return n.process.signal(syscall.SIGCONT) }

// request is what goes with a change.
func request(reason string) *api.RequestInfo {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return &api.RequestInfo{Id: id, By: "demo", Reason: reason}
}

// mirrored is a mirror on each of up to three nodes.
func (c *cluster) mirrored() *metapb.Layout {
	return &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: int32(min(len(c.nodes), 3))}
}

// createVolume makes a volume, and waits until it is served. Clients of several nodes
// write to it at once.
func (c *cluster) createVolume(ctx context.Context, name string, size int64, layout *metapb.Layout) error {
	n := c.nodes[0]
	_, err := n.volumes().Create(ctx, &api.CreateVolumeRequest{Name: name, SizeBytes: size, Shared: true, Request: request(""), Layout: layout})
	if err != nil {
		return err // as it came: the caller may look into it
	}
	return c.wait(ctx, n, name, api.WaitCondition_WAIT_CONDITION_PRIMARY)
}

// said is an error as the node that answered put it.
func said(err error) error {
	if err == nil {
		return nil
	}
	x := api.Explain(err)
	text := x.Text
	if x.Node != "" {
		text += " (node " + x.Node + ")"
	}
	if x.Advice != "" {
		text += "; next: " + x.Advice
	}
	return errors.New(text)
}

// wait waits for a condition.
func (c *cluster) wait(ctx context.Context, n *node, name string, condition api.WaitCondition) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := n.cluster().Wait(ctx, &api.WaitRequest{Condition: condition, Volume: name}); err != nil {
		return fmt.Errorf("waiting for volume %s: %w", name, said(err))
	}
	return nil
}

// primary is the node that is recorded as primary of the demonstration's volume.
func (s *story) primary(ctx context.Context, ask *node) (*node, error) {
	if err := s.wait(ctx, ask, volume, api.WaitCondition_WAIT_CONDITION_PRIMARY); err != nil {
		return nil, err
	}
	v, err := ask.volumes().Show(ctx, &api.ShowVolumeRequest{Name: volume})
	if err != nil {
		return nil, said(err)
	}
	if n := s.find(v.Record.GetPrimary()); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("volume %s has the primary %q", volume, v.Record.GetPrimary())
}

// level waits until a node works and every replica is connected and up to date.
func (s *story) level(ctx context.Context, n *node) error {
	if err := s.await(ctx, n, s.settled); err != nil {
		return err
	}
	return s.await(ctx, s.client, func(ctx context.Context, n *node) error {
		v, err := n.volumes().Show(ctx, &api.ShowVolumeRequest{Name: volume})
		if err != nil {
			return said(err)
		}
		if good := soundReplicas(v); good < len(s.nodes) {
			return fmt.Errorf("of %d replicas of volume %s %d are up to date", len(s.nodes), volume, good)
		}
		return nil
	})
}

// soundReplicas counts those that are up to date, by the record and as the serving
// node sees it.
func soundReplicas(v *api.Volume) int {
	good := 0
	for _, r := range v.Replicas {
		for _, m := range v.Record.GetMembers() {
			if m.Node == r.Node && m.State == metapb.ReplicaState_REPLICA_STATE_UP_TO_DATE && r.Connected && r.Resync == nil {
				good++
			}
		}
	}
	return good
}

// lastEvent is the number of the latest event.
func (c *cluster) lastEvent(ctx context.Context, n *node) (uint64, error) {
	s, err := n.cluster().Status(ctx, &api.ClusterStatusRequest{})
	return s.GetEvent(), said(err)
}

// events are those that came after one.
func (c *cluster) events(ctx context.Context, n *node, after uint64) ([]*metapb.Event, error) {
	stream, err := n.cluster().Events(ctx, &api.EventsRequest{Resume: true, After: after})
	if err != nil {
		return nil, said(err)
	}
	var all []*metapb.Event
	for {
		e, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, said(err)
		case e.GetChange() != nil:
			all = append(all, e.GetChange())
		}
	}
}

package node

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// drain drains a node, or takes that back.
func (c *trio) drain(via services, d *metapb.DrainNode) {
	c.t.Helper()
	if _, err := via.DrainNode(brief(c.t), &api.DrainNodeRequest{Node: d}); err != nil {
		c.t.Fatal(err)
	}
}

// writing writes to a volume until the function that it returns is called, which
// fails the test if a write has failed.
func writing(t *testing.T, d blockdev.Device) (stop func()) {
	end := make(chan struct{})
	var writes sync.WaitGroup
	writes.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			default:
			}
			if err := blockdev.WriteAt(d, block(i), int64(i%16)*blockdev.BlockSize, 0); err != nil {
				t.Errorf("a write: %v", err)
				return
			}
		}
	})
	return func() {
		close(end)
		writes.Wait()
	}
}

// TestDrain: a drained node hands over what it serves and its replicas move to nodes
// that can take them; what no other node can take stays, and it is told why.
func TestDrain(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n2")
	v := c.on(via, "v", "n1", "n2")
	stop := writing(t, c.dial("n2", "v"))
	c.drain(via, &metapb.DrainNode{Name: "n1"})
	eventually(t, "n1 is empty", func() bool {
		n, err := via.ShowNode(brief(t), &api.ShowNodeRequest{Name: "n1"})
		return err == nil && n.Members == 0 && n.Primaries == 0 && len(n.Problems) == 0 && !c.hasStore("n1", v)
	})
	stop()
	v = c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	if got := members(v); !slices.Contains(got, "n3") || v.Record.Layout.Copies != 2 {
		t.Errorf("the replicas are on %v, of %v", got, v.Record.Layout)
	}
	c.drain(via, &metapb.DrainNode{Name: "n1", Undo: true})

	c.on(via, "w", "n1", "n2", "n3")
	c.drain(via, &metapb.DrainNode{Name: "n1"})
	eventually(t, "n1 serves nothing and says why it is not empty", func() bool {
		n, err := via.ShowNode(brief(t), &api.ShowNodeRequest{Name: "n1"})
		return err == nil && n.Primaries == 0 && slices.ContainsFunc(n.Problems, func(p *api.Problem) bool {
			return p.Code == drainWaits && strings.Contains(p.Text, "no node can take another replica of volume w")
		})
	})
}

// TestRollingRestart is the walk of the manual: drained with its replicas kept, each
// node is stopped and started while a client writes and sees no error.
func TestRollingRestart(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	c.on(via, "v", "n1", "n2", "n3")
	for i, name := range three {
		via, stays := c.address(three[(i+1)%3]), three[(i+2)%3]
		stop := writing(t, c.dial(stays, "v"))
		c.drain(via, &metapb.DrainNode{Name: name, KeepReplicas: true})
		eventually(t, name+" serves nothing", func() bool {
			n, err := via.ShowNode(brief(t), &api.ShowNodeRequest{Name: name})
			return err == nil && n.Primaries == 0 && n.Members == 1 && len(n.Problems) == 0
		})
		c.kill(name)
		time.Sleep(100 * time.Millisecond) // it is away
		c.start(name)
		c.ready(name)
		c.drain(via, &metapb.DrainNode{Name: name, Undo: true})
		c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
		stop()
	}
}

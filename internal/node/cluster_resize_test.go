package node

import (
	"errors"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	"blkd/blockdev"
	"blkd/internal/api"
)

// grow resizes a volume and returns a client that sees its new size, as those that
// connect later do.
func (c *trio) grow(via services, node string, size int64) blockdev.Device {
	c.t.Helper()
	v, err := via.volumes.Resize(brief(c.t), &api.ResizeVolumeRequest{Name: "v", SizeBytes: size})
	if err != nil || v.SizeBytes != size || v.Record.SizeBytes != size {
		c.t.Fatalf("%v, %v", v, err)
	}
	var client blockdev.Device
	eventually(c.t, "clients see the new size", func() bool {
		client = c.dial(node, "v")
		return client.Size() == size
	})
	return client
}

// TestVolumeGrows: while it is written to, over any node, and whoever is primary or
// becomes a replica later, knows.
func TestVolumeGrows(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n2")
	c.on(via, "v", "n1", "n2")
	old := c.dial("n3", "v")
	stop := make(chan struct{})
	var writes sync.WaitGroup
	writes.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := blockdev.WriteAt(old, block(i), 0, 0); err != nil {
				t.Errorf("a write during the resize: %v", err)
				return
			}
		}
	})
	const size = 40<<20 + 512
	client := c.grow(via, "n3", size)
	at := int64(40<<20) - blockdev.BlockSize
	if err := blockdev.WriteAt(client, block(7), at, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	close(stop)
	writes.Wait()
	if err := blockdev.WriteAt(old, block(8), at, 0); !errors.Is(err, blockdev.ErrRange) {
		t.Errorf("a client of before writes beyond the end that it knows: %v", err)
	}
	c.kill("n1")
	mustHold(t, client, at, 7)
	if _, err := via.volumes.AddReplica(brief(t), &api.AddReplicaRequest{Name: "v", Node: "n3"}); err != nil {
		t.Fatal(err)
	}
	c.start("n1")
	c.ready("n1")
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	for _, to := range []string{"n3", "n1"} {
		if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: to}); err != nil {
			t.Fatal(err)
		}
		mustHold(t, client, at, 7)
		if got := c.dial(to, "v").Size(); got != size {
			t.Errorf("%s serves %d bytes", to, got)
		}
	}

	for want, bytes := range map[string]int64{"cannot be made smaller": 16 << 20, "multiple of 512": size + 1, "is not between": 1 << 60} {
		code := codes.InvalidArgument
		if bytes < size {
			code = codes.FailedPrecondition
		}
		_, err := via.volumes.Resize(brief(t), &api.ResizeVolumeRequest{Name: "v", SizeBytes: bytes, AllowShrink: true})
		wantError(t, err, code, want)
	}
	mustHold(t, client, at, 7)
}

// TestResizeIsRecorded: whoever asked for a resize may be gone before it is recorded.
func TestResizeIsRecorded(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n2")
	c.on(via, "v", "n1", "n2")
	if err := c.nodes["n1"].member.replicas.Resize(brief(t), "v", 32<<20); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the size is recorded", func() bool {
		v, err := via.volumes.Show(brief(t), &api.ShowVolumeRequest{Name: "v"})
		return err == nil && v.Record.SizeBytes == 32<<20
	})
}

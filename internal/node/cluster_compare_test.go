package node

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc/codes"

	"blkd/blockdev"
	"blkd/internal/api"
)

// verify compares a volume's replicas to the end.
func (c *trio) verify(via services, req *api.VerifyReplicasRequest) *api.VerifyReplicasProgress {
	c.t.Helper()
	stream, err := via.volumes.VerifyReplicas(brief(c.t), req)
	if err != nil {
		c.t.Fatal(err)
	}
	var last *api.VerifyReplicasProgress
	for {
		p, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			c.t.Fatal(err)
		}
		last = p
	}
	if !last.GetDone() || last.CheckedBytes != last.TotalBytes || last.TotalBytes == 0 {
		c.t.Fatalf("the comparison ends with %v", last)
	}
	return last
}

// TestVerifyReplicas: what has rotted at another member is found and written again,
// over any node, while the volume is in use.
func TestVerifyReplicas(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n3")
	v := c.on(via, "v", "n1", "n2")
	client := c.dial("n2", "v")
	const chunk = 64 << 10
	if err := blockdev.WriteAt(client, bytes.Repeat(block(1), 16), chunk, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.WriteAt(client, block(2), 5*chunk, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	req := &api.VerifyReplicasRequest{Name: "v"}
	if p := c.verify(via, req); p.DifferentBytes != 0 || len(p.Nodes) != 2 || p.Nodes[0] != "n1" {
		t.Errorf("before: %v", p)
	}
	if n := c.rotten("n2", v, block(1)); n != 16 {
		t.Fatalf("%d blocks were found in the image", n)
	}
	p := c.verify(via, req)
	if p.DifferentBytes != chunk || p.RepairedBytes != 0 || len(p.Differences) != 1 || p.Differences[0].Node != "n2" ||
		p.Differences[0].Offset != chunk || p.Differences[0].Length != chunk || !p.Differences[0].Unreadable {
		t.Errorf("of rotten blocks: %v", p)
	}
	if p := c.verify(c.address("n1"), &api.VerifyReplicasRequest{Name: "v", Node: "n2", Repair: true}); p.DifferentBytes != chunk || p.RepairedBytes != chunk {
		t.Errorf("repair: %v", p)
	}
	if p := c.verify(via, req); p.DifferentBytes != 0 {
		t.Errorf("after the repair: %v", p)
	}
	if v, err := via.volumes.Show(brief(t), &api.ShowVolumeRequest{Name: "v"}); err != nil || v.Replicas[1].Node != "n2" || v.Replicas[1].Compared == nil {
		t.Errorf("%v, %v", v, err)
	}
	// The pass that is made by itself finds and repairs the same.
	c.rotten("n1", v, block(2))
	if err := blockdev.WriteAt(client, bytes.Repeat(block(3), 16), 8*chunk, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	if n := c.rotten("n2", v, block(3)); n != 16 {
		t.Fatalf("%d blocks were found in the image", n)
	}
	for _, want := range []int64{chunk, 0} {
		if found, err := c.nodes["n1"].member.replicas.Scrub(brief(t), "v"); err != nil || found.Different != want || found.Repaired != want {
			t.Errorf("%+v, %v", found, err)
		}
	}
	if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n2"}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, client, chunk, 1)
	mustHold(t, client, 5*chunk, 2)

	stream, err := via.volumes.VerifyReplicas(brief(t), &api.VerifyReplicasRequest{Name: "v", Node: "n3"})
	if err == nil {
		_, err = stream.Recv()
	}
	wantError(t, err, codes.FailedPrecondition, "n3 has no replica")
}

package node

import (
	"errors"
	"io"
	"testing"

	"blkd/blockdev"
	"blkd/internal/api"
)

// branchHolds checks that a node keeps a branch of a volume, which holds a version
// of a block, says that it differs from the volume there and nowhere before, and
// can be read over NBD but not written.
func (c *trio) branchHolds(via services, name string, off int64, version int) {
	c.t.Helper()
	v, err := via.volumes.Show(brief(c.t), &api.ShowVolumeRequest{Name: "v"})
	if err != nil || len(v.Branches) != 1 || v.Branches[0].Name != name || len(v.Branches[0].Uris) != 1 {
		c.t.Fatalf("branches %v, %v", v.GetBranches(), err)
	}
	kept := c.dial(v.Branches[0].Node, name)
	mustHold(c.t, kept, off, version)
	if err := blockdev.WriteAt(kept, block(9), off, 0); !errors.Is(err, blockdev.ErrReadOnly) {
		c.t.Errorf("a write to the branch: %v", err)
	}
	stream, err := via.volumes.CompareBranch(brief(c.t), &api.CompareBranchRequest{Name: name})
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
	if d := last.GetDifferences(); !last.GetDone() || last.CheckedBytes != v.SizeBytes || len(d) == 0 || d[0].Offset != off {
		c.t.Errorf("compared: %v", last)
	}
}

// forced makes a volume of which n1 alone has an acknowledged write, and promotes n2
// by force while n1 is down.
func (c *trio) forced(via services) {
	c.t.Helper()
	c.on(via, "v", "n1", "n2")
	client := c.dial("n3", "v")
	if err := blockdev.WriteAt(client, block(1), 0, blockdev.FUA); err != nil {
		c.t.Fatal(err)
	}
	c.kill("n2")
	if err := blockdev.WriteAt(client, block(2), 0, blockdev.FUA); err != nil {
		c.t.Fatal(err)
	}
	c.kill("n1")
	c.start("n2")
	c.ready("n2")
	if _, err := via.volumes.Promote(brief(c.t), &api.PromoteRequest{Name: "v", To: "n2", Force: true, Request: &api.RequestInfo{Reason: "n1 burnt down"}}); err != nil {
		c.t.Fatal(err)
	}
}

// TestBranchOfRemovedReplica: what was left stays also where the replica was taken
// away before its node came back, and after a restart of that, and when the volume is
// deleted.
func TestBranchOfRemovedReplica(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n3")
	c.forced(via)
	_, err := via.volumes.Change(brief(t), &api.ChangeVolumeRequest{Name: "v", MinCopies: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := via.volumes.RemoveReplica(brief(t), &api.RemoveReplicaRequest{Name: "v", Node: "n1", Force: true}); err != nil {
		t.Fatal(err)
	}
	kept := func() []*api.Branch {
		b, err := via.volumes.ListBranches(brief(t), &api.ListBranchesRequest{Volume: "v"})
		if err != nil {
			t.Fatal(err)
		}
		return b.Branches
	}
	for range 2 {
		c.start("n1")
		c.ready("n1")
		eventually(t, "the branch is kept", func() bool { return len(kept()) == 1 })
		mustHold(t, c.dial("n1", "v@1-n1"), 0, 2)
		c.kill("n1")
	}
	if _, err := via.volumes.Delete(brief(t), &api.DeleteVolumeRequest{Name: "v", Force: true}); err != nil {
		t.Fatal(err)
	}
	c.start("n1")
	c.ready("n1")
	mustHold(t, c.dial("n1", "v@1-n1"), 0, 2)
	if got := kept(); len(got) != 1 || got[0].End.GetSeq() == 0 || got[0].AllocatedBytes == 0 {
		t.Errorf("%v", got)
	}
}

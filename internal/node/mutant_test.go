//go:build mutants

package node

import (
	"testing"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/mutant"
)

// TestBranchMutants plants the bug that what a forced promotion has left is not kept:
// the branch that TestForcedPromotion reads is missing then.
func TestBranchMutants(t *testing.T) {
	mutant.Set(mutant.BranchDrop, true)
	defer mutant.Set(mutant.BranchDrop, false)
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n3")
	c.forced(via)
	c.start("n1")
	c.ready("n1")
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	if b, err := via.volumes.ListBranches(brief(t), &api.ListBranchesRequest{}); err != nil || len(b.Branches) > 0 {
		t.Errorf("branch/drop survived: %v, %v", b, err)
	}
}

// TestRenewMutants plants the bug that a host that has lost a volume to another one of its
// name gets it back by itself, as after a failover: then both write.
func TestRenewMutants(t *testing.T) {
	mutant.Set(mutant.GatewayRenewAny, true)
	defer mutant.Set(mutant.GatewayRenewAny, false)
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	c.makeVolume(via, "v")
	for _, req := range []*api.AttachRequest{
		{Name: "v", Holder: "db1", Machine: 1, Boot: 10},
		{Name: "v", Holder: "db1", Machine: 1, Boot: 20}, // it was cloned
		{Name: "v", Holder: "db1", Machine: 1, Boot: 10, Renew: true},
	} {
		if _, err := via.volumes.Attach(brief(t), req); err != nil {
			t.Errorf("gateway/renew-any survived: %v", err)
		}
	}
}

// TestClaimMutants plants the bug that a client without a token may write whatever has
// happened since it came: then one of those that TestStockClientMoves leaves behind
// overwrites what a later one was told is written.
func TestClaimMutants(t *testing.T) {
	mutant.Set(mutant.GatewayClaimAny, true)
	defer mutant.Set(mutant.GatewayClaimAny, false)
	c := newTrio(t, three, nil)
	c.startAll()
	c.makeVolume(c.address("n1"), "v")
	waits, moved := c.dial("n1", "v"), c.dial("n3", "v")
	if err := blockdev.WriteAt(moved, block(2), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.WriteAt(waits, block(3), 0, 0); err != nil {
		t.Errorf("gateway/claim-any survived: the late write is refused: %v", err)
	}
	mustHold(t, c.dial("n2", "v;read-only"), 0, 3)
}

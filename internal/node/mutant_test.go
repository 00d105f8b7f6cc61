//go:build mutants

package node

import (
	"testing"

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

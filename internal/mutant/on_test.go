//go:build mutants

package mutant

import "testing"

func TestSet(t *testing.T) {
	Set(StoreReplayOrder, true)
	if !On(StoreReplayOrder) || On(StoreSkipLogSync) || On(StoreStaleChecksum) {
		t.Error("not exactly one bug is on")
	}
	Set(StoreReplayOrder, false)
	if On(StoreReplayOrder) {
		t.Error("still on")
	}
}

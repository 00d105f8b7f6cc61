package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/env"
	"blkd/metadata/metapb"
	"blkd/replication"
)

// failFS is a file system on which the logs of stores cannot be synced any more,
// once it is told so.
type failFS struct {
	env.FS
	sick *atomic.Bool
}

func (s failFS) Open(name string, flag int) (env.File, error) {
	f, err := s.FS.Open(name, flag)
	if err == nil && strings.HasSuffix(name, "/log") {
		f = failFile{f, s.sick}
	}
	return f, err
}

type failFile struct {
	env.File
	sick *atomic.Bool
}

func (f failFile) Sync() error {
	if f.sick.Load() {
		return errors.New("the disk is sick")
	}
	return f.File.Sync()
}

// TestFailedReplicaYields: a primary whose disk fails lives on, and its volume is
// served by another node all the same.
func TestFailedReplicaYields(t *testing.T) {
	c := newTrio(t, three, nil)
	var sick atomic.Bool
	c.fs = map[string]env.FS{"n1": failFS{env.OS{}, &sick}}
	c.startAll()
	via := c.address("n2")
	c.makeVolume(via, "v")
	if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n1"}); err != nil {
		t.Fatal(err)
	}
	client := c.dial("n3", "v")
	if err := blockdev.WriteAt(client, block(1), 0, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	sick.Store(true)
	if err := blockdev.WriteAt(client, block(2), 0, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	mustHold(t, client, 0, 2)
	v := c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_PRIMARY)
	if v.Record.Primary == "n1" {
		t.Error("n1 is still primary")
	}
}

// TestVolumeOverTLS: the data between nodes and of clients that are passed on goes
// over mutual TLS when the cluster has certificates.
func TestVolumeOverTLS(t *testing.T) {
	a := newPKI(t, "prod", three...)
	c := newTrio(t, three, func(cfg *Config) { cfg.Cluster.TLSDir = filepath.Join(a.Dir(), cfg.NodeName) })
	c.startAll()
	alice, _ := c.as(a, "alice", "n2")
	c.makeVolume(alice, "v")
	c.share(alice, "v")
	clients := []blockdev.Device{c.dial("n1", "v"), c.dial("n2", "v"), c.dial("n3", "v")}
	big := make([]byte, 4<<20)
	for version := range 6 {
		if err := blockdev.WriteAt(clients[version%3], block(version), 4096, blockdev.FUA); err != nil {
			t.Fatal(err)
		}
		if err := blockdev.WriteAt(clients[version%3], big, 1<<20, 0); err != nil {
			t.Fatal(err)
		}
		for _, client := range clients {
			mustHold(t, client, 4096, version)
		}
		p, err := alice.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v"})
		if err != nil {
			t.Fatal(err)
		}
		if p.Kind != metapb.PromotionKind_PROMOTION_KIND_HANDOVER {
			t.Errorf("promotion: %v %q", p.Kind, p.Reasons)
		}
	}
}

// TestManyVolumesAtOnce: volumes are made, used and deleted beside one another, and
// leave nothing behind.
func TestManyVolumesAtOnce(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	names := []string{"a", "b", "c", "d", "e", "f"}
	for _, name := range names {
		_, err := via.volumes.Create(brief(t), &api.CreateVolumeRequest{Name: name, SizeBytes: 16 << 20})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range names {
		c.wait(via, name, api.WaitCondition_WAIT_CONDITION_PRIMARY)
		if err := blockdev.WriteAt(c.dial(three[i%3], name), block(i), 0, blockdev.FUA); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		if _, err := via.volumes.Delete(brief(t), &api.DeleteVolumeRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for _, node := range three {
		for {
			left, err := env.OS{}.ReadDir(filepath.Join(c.cfgs[node].DataDir, volumesDir))
			if err != nil {
				t.Fatal(err)
			}
			if len(left) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s still has %q", node, left)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// TestForcedPromotion: a branch that lacks acknowledged writes serves only when an
// operator says so. The other one stays as a read-only volume until one drops it, and
// its replica begins anew.
func TestForcedPromotion(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n3")
	c.on(via, "v", "n1", "n2")
	client := c.dial("n3", "v")
	if err := blockdev.WriteAt(client, block(1), 0, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	c.kill("n2")
	if err := blockdev.WriteAt(client, block(2), 0, blockdev.FUA); err != nil { // n1 alone has it
		t.Fatal(err)
	}
	v, err := via.volumes.Show(brief(t), &api.ShowVolumeRequest{Name: "v"})
	if err != nil || v.Record.Primary != "n1" {
		t.Fatalf("%v, %v", v, err)
	}
	c.kill("n1") // and with it the quorum
	c.start("n2")
	c.ready("n2")
	ask := &api.PromoteRequest{Name: "v", To: "n2"}
	if _, err := via.volumes.Promote(brief(t), ask); api.Explain(err).Code != codes.FailedPrecondition {
		t.Fatalf("promoted without force: %v", err)
	}
	ask.Force, ask.Request = true, &api.RequestInfo{Reason: "n1 burnt down"}
	dry, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n2", Force: true, DryRun: true, Request: ask.Request})
	if err != nil || len(dry.Losses) == 0 || !strings.Contains(strings.Join(dry.Losses, "; "), "only n1 has, which does not tell") ||
		dry.Took.AsDuration() < replication.DefaultLease {
		t.Errorf("a dry run: %v, %v", dry, err)
	}
	p, err := via.volumes.Promote(brief(t), ask)
	if err != nil {
		t.Fatal(err)
	}
	if p.Kind != metapb.PromotionKind_PROMOTION_KIND_FORCED || p.Certificate == nil {
		t.Errorf("%v, certificate %v", p.Kind, p.Certificate)
	}
	if err := blockdev.ReadAt(client, make([]byte, 512), 0); err == nil {
		t.Error("a client from before reads on, and does not know that writes of it may be lost")
	}
	client = c.dial("n2", "v")
	mustHold(t, client, 0, 1)
	if err := blockdev.WriteAt(client, block(3), 4096, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	c.start("n1")
	c.ready("n1")
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n1"}); err != nil {
		t.Fatal(err)
	}
	mustHold(t, client, 0, 1)
	mustHold(t, client, 4096, 3)
	c.branchHolds(via, "v@1-n1", 0, 2)
	if p.Certificate.GetKeptBranch() != "v@1-n1" {
		t.Errorf("the certificate names %q", p.Certificate.GetKeptBranch())
	}

	_, err = via.volumes.DropBranch(brief(t), &api.DropBranchRequest{Name: "v@1-n3"})
	wantError(t, err, codes.NotFound, "n3 keeps no branch v@1-n3")
	if _, err := via.volumes.DropBranch(brief(t), &api.DropBranchRequest{Name: "v@1-n1"}); err != nil {
		t.Fatal(err)
	}
	if b, err := via.volumes.ListBranches(brief(t), &api.ListBranchesRequest{}); err != nil || len(b.Branches)+len(b.Silent) != 0 {
		t.Errorf("after the drop: %v, %v", b, err)
	}
}

// TestRestoredMetadataFindTheData: the disks of the nodes are whole, and only their
// metadata are lost: with a snapshot of those the volumes are served again, with all
// that was written after it was saved.
func TestRestoredMetadataFindTheData(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	c.makeVolume(c.address("n1"), "v")
	file := c.saveSnapshot("n1")
	if _, err := c.address("n1").volumes.Promote(brief(t), &api.PromoteRequest{Name: "v"}); err != nil {
		t.Fatal(err)
	}
	client := c.dial("n1", "v")
	if err := blockdev.WriteAt(client, block(7), 0, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	client.Close()
	c.kill(three...)
	for _, name := range three {
		dir := c.cfgs[name].DataDir
		if err := os.RemoveAll(filepath.Join(dir, api.MetadataDir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, api.StagedBackup), file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.startAll()
	v := c.wait(c.address("n1"), "v", api.WaitCondition_WAIT_CONDITION_PRIMARY)
	if v.Record.Generation < 1_000_000 {
		t.Errorf("generation %d", v.Record.Generation)
	}
	mustHold(t, c.dial("n2", "v"), 0, 7)
	c.wait(c.address("n1"), "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
}

// saveSnapshot is a backup of the metadata.
func (c *trio) saveSnapshot(name string) (file []byte) {
	c.t.Helper()
	stream, err := c.socket(name).SaveSnapshot(brief(c.t), &api.SaveSnapshotRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	for {
		part, err := stream.Recv()
		if err != nil {
			return file
		}
		file = append(file, part.Data...)
	}
}

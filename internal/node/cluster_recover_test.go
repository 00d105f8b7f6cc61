package node

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/metadata/metapb"
)

// TestRecoverWithoutALostReplica: when the logs of all replicas have to be compared,
// one of which is lost for good, only an operator's word lets the volume go on.
func TestRecoverWithoutALostReplica(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	address := c.listen("n4")
	if _, err := via.AddNode(brief(t), &api.AddNodeRequest{Node: &metapb.AddNode{Name: "n4", Address: address}}); err != nil {
		t.Fatal(err)
	}
	c.configure("n4", c.cfgs["n1"].Cluster.Nodes, func(cfg *Config) { cfg.Cluster.Address = address })
	c.start("n4")
	c.ready("n4")
	c.on(via, "v", "n1", "n4")
	client := c.dial("n2", "v")
	if err := blockdev.WriteAt(client, block(7), 0, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	file := c.saveSnapshot("n1")
	c.kill("n1", "n2", "n3", "n4")
	for _, name := range three {
		dir := c.cfgs[name].DataDir
		if err := os.RemoveAll(filepath.Join(dir, api.MetadataDir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, api.StagedBackup), file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.start(three...)
	for _, name := range three {
		c.ready(name)
	}
	eventually(t, "why says what it waits for", func() bool {
		st, err := via.Status(brief(t), &api.ClusterStatusRequest{Volume: "v"})
		return err == nil && slices.ContainsFunc(st.Volumes[0].Problems, func(p *api.Problem) bool {
			return p.Code == recovering && strings.Contains(p.Text, "waits for n4") && strings.Contains(p.Advice, "--without n4 --force")
		})
	})
	recover := &api.RecoverVolumeRequest{Name: "v", Without: []string{"n4"}, Request: &api.RequestInfo{By: "op"}}
	refused := func(text string) {
		t.Helper()
		_, err := c.address("n2").volumes.Recover(brief(t), recover)
		wantError(t, err, codes.FailedPrecondition, text)
	}
	refused("would be lost for good")
	recover.Force = true
	refused("would be lost for good")
	recover.Request.Reason, recover.Without = "n4 burnt down", []string{"n1"}
	refused("n1 is up")
	recover.Without = []string{"n3"}
	refused("n3 has no replica")
	recover.Without = []string{"n4"}
	v, err := c.address("n2").volumes.Recover(brief(t), recover)
	if err != nil {
		t.Fatal(err)
	}
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_PRIMARY)
	mustHold(t, c.dial("n3", "v"), 0, 7)
	h, err := via.History(brief(t), &api.HistoryRequest{Volume: "v"})
	if err != nil || !slices.ContainsFunc(h.Entries, func(e *metapb.HistoryEntry) bool {
		return e.Generation == v.Record.Generation && strings.Contains(e.What, "given up: n4") && strings.Contains(e.Reason, "by op: n4 burnt down")
	}) {
		t.Errorf("%v, %v", h, err)
	}
	_, err = via.volumes.Recover(brief(t), recover)
	wantError(t, err, codes.FailedPrecondition, "n4 has no replica of volume v that counts")
}

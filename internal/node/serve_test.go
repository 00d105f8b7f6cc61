package node

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/env"
	"blkd/metadata/metapb"
	"blkd/nbd"
)

// dial connects to a volume over a node's NBD socket.
func (c *trio) dial(name, volume string) *nbd.Client {
	c.t.Helper()
	ctx := brief(c.t)
	for {
		client, err := nbd.Dial(ctx, "nbd+unix:///"+volume+"?socket="+c.cfgs[name].NBD.Listen[0][len("unix:"):], nbd.DialOptions{})
		if err == nil {
			c.t.Cleanup(func() { client.Close() })
			return client
		}
		if ctx.Err() != nil {
			c.t.Fatalf("volume %s over %s: %v", volume, name, err)
		}
		time.Sleep(5 * time.Millisecond) // the node has not seen the record yet
	}
}

// makeVolume makes a mirror of all nodes and waits until it is served.
func (c *trio) makeVolume(via services, name string) *api.Volume {
	c.t.Helper()
	_, err := via.volumes.Create(brief(c.t), &api.CreateVolumeRequest{Name: name, SizeBytes: 16 << 20,
		Layout: &metapb.Layout{Kind: metapb.LayoutKind_LAYOUT_KIND_MIRROR, Copies: int32(len(c.nodes))}})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.wait(via, name, api.WaitCondition_WAIT_CONDITION_PRIMARY)
}

// share lets clients of several nodes write at once.
func (c *trio) share(via services, name string) {
	c.t.Helper()
	shared := true
	if _, err := via.volumes.Change(brief(c.t), &api.ChangeVolumeRequest{Name: name, Shared: &shared}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *trio) wait(via services, name string, condition api.WaitCondition) *api.Volume {
	c.t.Helper()
	got, err := via.Wait(brief(c.t), &api.WaitRequest{Condition: condition, Volume: name})
	if err != nil {
		c.t.Fatal(err)
	}
	return got.Volume
}

// block is content that tells when it was written.
func block(version int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "version %7d\n", version), blockdev.BlockSize/16)
}

func mustHold(t *testing.T, d blockdev.Device, off int64, version int) {
	t.Helper()
	got := make([]byte, blockdev.BlockSize)
	if err := blockdev.ReadAt(d, got, off); err != nil {
		t.Fatal(err)
	}
	if want := block(version); !bytes.Equal(got, want) {
		t.Fatalf("read %.16q, want %.16q", got, want)
	}
}

func TestVolumeMovesAndClientsStay(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	c.makeVolume(via, "v")
	c.share(via, "v")
	clients := map[string]*nbd.Client{}
	for _, name := range three {
		clients[name] = c.dial(name, "v")
	}
	version := 0
	checkAll := func() {
		t.Helper()
		for _, name := range three {
			version++
			if err := blockdev.WriteAt(clients[name], block(version), 8192, 0); err != nil {
				t.Fatalf("write over %s: %v", name, err)
			}
			for _, other := range three {
				mustHold(t, clients[other], 8192, version)
			}
		}
	}
	checkAll()
	for _, to := range []string{"n2", "n3", "n1", "n2"} {
		p, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: to})
		if err != nil {
			t.Fatal(err)
		}
		if p.To != to || p.Volume.Record.Primary != to {
			t.Fatalf("promoted %s, not %s", p.To, to)
		}
		if p.Kind == metapb.PromotionKind_PROMOTION_KIND_NONE {
			continue // it was primary already
		}
		if p.Kind != metapb.PromotionKind_PROMOTION_KIND_HANDOVER || len(p.Losses) != 0 {
			t.Errorf("promotion to %s: %v, losses %q", to, p.Kind, p.Losses)
		}
		if x := p.Certificate; x.GetNewPrimary() != to || x.After.Generation != p.Volume.Record.Generation || len(x.Members) != 3 || x.Serving == nil {
			t.Errorf("certificate: %v", x)
		}
		checkAll() // over the same connections
	}
	again, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n2"})
	if err != nil || again.Kind != metapb.PromotionKind_PROMOTION_KIND_NONE {
		t.Errorf("promotion of the primary: %v, %v", again.GetKind(), err)
	}
	if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n9"}); api.Explain(err).Code != codes.FailedPrecondition {
		t.Errorf("promotion of a node without a replica: %v", err)
	}
}

func TestVolumeSurvivesItsPrimary(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	c.makeVolume(c.address("n1"), "v")
	if _, err := c.address("n1").volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n1"}); err != nil {
		t.Fatal(err)
	}
	client := c.dial("n2", "v")
	if err := blockdev.WriteAt(client, block(1), 0, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	var load sync.WaitGroup
	stopLoad := make(chan struct{})
	last := 1
	load.Go(func() {
		for {
			select {
			case <-stopLoad:
				return
			default:
			}
			last++
			if err := blockdev.WriteAt(client, block(last), 0, 0); err != nil {
				t.Errorf("write %d: %v", last, err)
				return
			}
		}
	})
	c.kill("n1")
	v := c.wait(c.address("n2"), "v", api.WaitCondition_WAIT_CONDITION_PRIMARY)
	for v.Record.Primary == "n1" {
		time.Sleep(10 * time.Millisecond)
		v = c.wait(c.address("n2"), "v", api.WaitCondition_WAIT_CONDITION_PRIMARY)
	}
	close(stopLoad)
	load.Wait()
	mustHold(t, c.dial("n3", "v"), 0, last)
	// It comes back as a member by itself, and its node serves the volume again.
	c.listeners["n1"] = nil
	delete(c.listeners, "n1")
	c.start("n1")
	c.ready("n1")
	v = c.wait(c.address("n3"), "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	if len(v.Record.Members) != 3 {
		t.Errorf("members %v", v.Record.Members)
	}
	mustHold(t, c.dial("n1", "v"), 0, last)
}

func TestStopHandsOver(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n1")
	c.makeVolume(via, "v")
	if _, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", To: "n1"}); err != nil {
		t.Fatal(err)
	}
	c.wait(via, "v", api.WaitCondition_WAIT_CONDITION_UP_TO_DATE)
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := c.nodes["n1"].Stop(ctx); err != nil {
		t.Fatal(err)
	}
	delete(c.nodes, "n1")
	h, err := c.address("n2").History(brief(t), &api.HistoryRequest{Volume: "v"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range h.Entries {
		if e.What == "promoted n1 -> n2" || e.What == "promoted n1 -> n3" {
			if e.Reason != "planned hand-over" {
				t.Errorf("it was promoted because %q", e.Reason)
			}
			return
		}
	}
	t.Errorf("nobody was promoted: %v", h.Entries)
}

// TestLostStoreIsCopied: a replica whose store has vanished promises nothing of
// what it held, and is copied anew.
func TestLostStoreIsCopied(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	v := c.makeVolume(c.address("n1"), "v")
	client := c.dial("n1", "v")
	if err := blockdev.WriteAt(client, block(1), 0, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	// A majority has the write. One that never held anything has nothing to lose.
	eventually(t, "n3 has it, too", func() bool {
		now, err := c.address("n1").volumes.Show(brief(t), &api.ShowVolumeRequest{Name: "v"})
		return err == nil && slices.ContainsFunc(now.Replicas, func(x *api.Replica) bool { return x.Node == "n3" && x.HeldSeq > 0 && x.BehindEntries == 0 })
	})
	c.kill("n3")
	dir := fmt.Sprintf("%s/volumes/v.%d/store", c.cfgs["n3"].DataDir, v.Record.Id)
	if err := blockdev.RemoveStore(env.OS{}, dir); err != nil {
		t.Fatal(err)
	}
	delete(c.listeners, "n3")
	c.start("n3")
	c.ready("n3")
	// It is recorded as UpToDate until the primary has found out. It must not be
	// promoted before it was copied.
	ctx := brief(t)
	for {
		_, err := c.address("n1").volumes.Promote(ctx, &api.PromoteRequest{Name: "v", To: "n3"})
		if err == nil {
			break
		}
		if api.Explain(err).Code != codes.FailedPrecondition {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	mustHold(t, c.dial("n3", "v"), 0, 1)
	if h, err := c.address("n1").History(ctx, &api.HistoryRequest{Volume: "v"}); err != nil || !slices.ContainsFunc(h.Entries, func(e *metapb.HistoryEntry) bool { return e.Reason == "n3 is level" }) {
		t.Errorf("it was not copied: %v, %v", h, err)
	}
}

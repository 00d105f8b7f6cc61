package node

import (
	"strings"
	"testing"

	"blkd/blockdev"
	"blkd/internal/api"
	"blkd/internal/replicas"
	"blkd/metadata/metapb"
	"blkd/nbd"
	"blkd/replication"
)

// TestForesee: what a promotion would lose, and what it would cut off.
func TestForesee(t *testing.T) {
	end := func(g, seq uint64) *metapb.LogEnd { return &metapb.LogEnd{Generation: g, Seq: seq} }
	foresee := func(kind metapb.PromotionKind, mark uint64, candidates ...*api.PromotionCandidate) (losses, tails string) {
		p := &promotion{req: &api.PromoteRequest{DryRun: true}, out: &api.Promotion{Kind: kind, Candidates: candidates},
			r: &metapb.Volume{Mark: &metapb.Mark{Generation: 7, Seq: mark}}}
		p.foresee(candidates[0])
		if p.out.Took.AsDuration() <= 0 {
			t.Error("it takes no time")
		}
		return strings.Join(p.out.Losses, "; "), strings.Join(p.out.Tails, "; ")
	}
	n1 := &api.PromotionCandidate{Node: "n1", Eligible: true, End: end(7, 90)}
	n2 := &api.PromotionCandidate{Node: "n2", End: end(7, 100), CommitSeq: 97}
	gone := &api.PromotionCandidate{Node: "n3"}
	for _, tc := range []struct {
		kind          metapb.PromotionKind
		mark          uint64
		losses, tails string
	}{
		{metapb.PromotionKind_PROMOTION_KIND_HANDOVER, 0, "", ""},
		{metapb.PromotionKind_PROMOTION_KIND_FAILOVER, 90, "",
			"entries 91 to 100 of generation 7 on n2: they were never acknowledged; whatever only n3 has behind entry 90 of generation 7, which does not tell: it was never acknowledged"},
		{metapb.PromotionKind_PROMOTION_KIND_FORCED, 95,
			"entries 91 to 95: the quorum knows that they were committed; entries 91 to 100 of generation 7 on n2, of which it knows up to 97 to be committed; " +
				"whatever was acknowledged behind entry 90 of generation 7 and only n3 has, which does not tell", ""},
	} {
		if losses, tails := foresee(tc.kind, tc.mark, n1, n2, gone); losses != tc.losses || tails != tc.tails {
			t.Errorf("%v: lost: %s\n  cut off: %s", tc.kind, losses, tails)
		}
	}
}

// TestPreview: a dry run tells how far each log reaches, by the word of its node.
func TestPreview(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	via := c.address("n3")
	c.on(via, "v", "n1", "n2")
	if err := blockdev.WriteAt(c.dial("n3", "v"), block(1), 0, blockdev.FUA); err != nil {
		t.Fatal(err)
	}
	p, err := via.volumes.Promote(brief(t), &api.PromoteRequest{Name: "v", DryRun: true})
	if err != nil || p.To != "n2" || len(p.Candidates) != 2 || len(p.Losses)+len(p.Tails) != 0 {
		t.Fatalf("%v, %v", p, err)
	}
	for _, x := range p.Candidates {
		if x.End.GetGeneration() != 1 || x.End.Seq < 2 || x.CommitSeq == 0 {
			t.Errorf("%v", x)
		}
	}
}

// TestVolumeIsKnownEverywhere: a volume that was created over one node can be opened
// over every other one at once.
func TestVolumeIsKnownEverywhere(t *testing.T) {
	c := newTrio(t, three, nil)
	c.startAll()
	for _, name := range []string{"a", "b", "c", "d"} {
		if _, err := c.address("n1").volumes.Create(brief(t), &api.CreateVolumeRequest{Name: name, SizeBytes: 16 << 20}); err != nil {
			t.Fatal(err)
		}
		for _, node := range three {
			client, err := nbd.Dial(brief(t), "nbd+unix:///"+name+"?socket="+c.cfgs[node].NBD.Listen[0][len("unix:"):], nbd.DialOptions{})
			if err != nil {
				t.Errorf("%s over %s: %v", name, node, err)
				continue
			}
			client.Close()
		}
	}
}

// TestResyncKinds: a copy of what has changed is not told as one of everything.
func TestResyncKinds(t *testing.T) {
	s := &replicas.Status{Store: blockdev.StoreStats{SizeBytes: 1000, AllocatedBytes: 800}}
	for _, tc := range []struct {
		peer  replication.PeerStatus
		kind  api.ResyncKind
		total int64
	}{
		{replication.PeerStatus{Joining: true, Full: true, Extents: true, Copied: 10, Cursor: 500, Span: 1000}, api.ResyncKind_RESYNC_KIND_EXTENTS, 20},
		{replication.PeerStatus{Joining: true, Full: true, Copied: 10, Cursor: 500}, api.ResyncKind_RESYNC_KIND_FULL, 800},
		{replication.PeerStatus{Joining: true}, api.ResyncKind_RESYNC_KIND_LOG, 0},
	} {
		if r := describePeer(s, &tc.peer).Resync; r.Kind != tc.kind || r.TotalBytes != tc.total {
			t.Errorf("%+v: %v", tc.peer, r)
		}
	}
}
